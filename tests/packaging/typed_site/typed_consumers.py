"""What a typed site writes. A wrong use is marked "type: ignore"; strict mode complains of a mark
that nothing needs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, assert_type

from asgiref.typing import ASGI3Application
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from graceful_ws.client import GracefulClient, MessageReceived, Nacked, connect
from graceful_ws.consumers import (
    Fenced,
    GracefulConsumer,
    GracefulWebsocketConsumer,
    JournalUnavailable,
)
from graceful_ws.core.frames import Gap
from graceful_ws.publishing import (
    Online,
    SessionUnknown,
    apublish,
    asend_to_user,
    online,
    publish,
    send_to_session,
    send_to_user,
)


class Room(GracefulConsumer):
    streams = ["room"]
    presence = True
    message_rate = 20.0
    idle_timeout = 30

    async def connect(self) -> None:
        await self.accept()
        assert_type(self.session_id, str | None)

    async def session_started(self) -> None:
        await self.subscribe("room.7", presence=True)
        await self.subscribe(7)  # type: ignore[arg-type]

    async def may_subscribe(self, stream: str) -> bool:
        return stream.startswith("room.")

    async def exit_audience(self) -> Sequence[str] | None:
        return ["lobby"]

    async def on_gap(self, gap: Gap) -> None:
        assert_type(gap.reason, str)
        assert_type(gap.from_, int | None)

    async def receive_json(self, content: Any, **kwargs: Any) -> dict[str, bool]:
        try:
            await self.send_json({"said": content}, volatile=True)
            await self.publish("room", {"said": content})
        except (Fenced, JournalUnavailable):
            raise
        assert_type(self.subscriptions, frozenset[str])
        await self.send_json({}, volatil=True)  # type: ignore[call-arg]
        return {"ok": True}


class Screen(GracefulWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data="seen", volatile=True)
        await self.send(bytes_data=b"seen")
        await self.send({"seen": True})  # type: ignore[arg-type]


class Orders(GracefulConsumer):
    def receive_in_transaction(self, content: Any) -> dict[str, int]:
        self.reply({"ordered": content})
        return {"id": 7}


def view(request: HttpRequest, user: User) -> HttpResponse:
    with transaction.atomic():
        publish("room", {"text": "hello"})
        send_to_user(user, {"paid": 7})
    with suppress(SessionUnknown):
        send_to_session("…", {"paid": 7})
    publish({"text": "hello"})  # type: ignore[call-arg, arg-type]
    who = online("room")
    assert_type(who, list[Online])
    assert_type([one.client_id for one in who], list[str])
    assert_type(who[0].since, datetime)
    return HttpResponse(status=204)


async def task(user: User) -> None:
    await apublish("room", {"text": "hello"})
    await asend_to_user(user, {"paid": 7})


async def talk() -> None:
    async with connect("ws://127.0.0.1:8000/ws/room/") as client:
        assert_type(client, GracefulClient)
        try:
            await client.send({"item": "tea"})
        except Nacked as nack:
            assert_type(nack.code, str)
        async for message in client:
            assert_type(message, MessageReceived)
            assert_type(message.seq, int)
    connect(7)  # type: ignore[arg-type]


application: ASGI3Application = Room.as_asgi()
