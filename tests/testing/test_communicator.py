"""A communicator does what a client does, and says what came of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.auth import get_user_model
from django.urls import path

from graceful_ws.client import Subscribed, Superseded, VolatileReceived
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import OutboundMessage
from graceful_ws.publishing import apublish, asend_to_session, asend_to_user
from graceful_ws.testing import (
    Clock,
    ConnectionEnded,
    GracefulCommunicator,
    Nacked,
    Refused,
    settle,
    work,
)
from tests.consumers import Broken, Denying, Echo, Room

pytestmark = [pytest.mark.usefixtures("graceful_node"), pytest.mark.sqlite_only]

ECHO = Echo.as_asgi()


async def test_send_returns_what_the_handler_returned() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        assert await client.send({"echo": False, "result": {"ok": True}}) == {"ok": True}


async def test_message_is_received_with_its_number() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send("hello")
        message = await client.receive()
        assert (message.seq, message.stream, message.data) == (1, None, "hello")


async def test_message_is_acknowledged_when_it_is_received() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send("hello")
        await settle()
        assert client._live().acked_seq == 0
        await client.receive()
        await settle()
        assert client._live().acked_seq == 1


async def test_held_acknowledgements_wait_until_they_are_released(clock: Clock) -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        client.hold_acks()
        await client.send("hello")
        await client.receive()
        await clock.advance(12)  # pings are answered, without what is held
        assert client._live().acked_seq == 0
        assert await OutboundMessage.objects.acount() == 1
        client.release_acks()
        await clock.advance(12)  # the node notes acknowledgements now and then
        assert await OutboundMessage.objects.acount() == 0


async def test_failed_handler_raises_nacked_with_its_code() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        with pytest.raises(Nacked) as caught:
            await client.send({"fail": "on purpose"})
        assert caught.value.code == "error"


async def test_message_that_nobody_expects_is_named() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        assert await client.receive_nothing()
        await client.send("hello")
        with pytest.raises(AssertionError, match="hello"):
            await client.receive_nothing()


async def test_receive_nothing_waits_for_threads_and_for_the_commit() -> None:
    class Late(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await asyncio.to_thread(__import__("time").sleep, 0.1)
            await self.send_json("late")

    async with GracefulCommunicator(Late.as_asgi(), "/ws/") as client:
        client.send_nowait("go")
        with pytest.raises(AssertionError, match="late"):
            await client.receive_nothing()


async def test_what_is_stuck_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "WITHIN", 0.05)
    gate = threading.Event()
    waiting = asyncio.create_task(asyncio.to_thread(gate.wait, 5))
    with pytest.raises(TimeoutError, match=r"under way: Event\.wait"):
        await settle()
    gate.set()
    assert await waiting


async def test_volatile_messages_go_both_ways() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        assert client.volatile({"send": 1, "volatile": True, "echo": False})
        assert (await client.receive_volatile())["n"] == 0
        await client.send({"send": 1, "volatile": True, "echo": False})
        assert (await client.event(VolatileReceived)).data["n"] == 0
        assert await client.receive_nothing()


async def test_what_no_client_says_is_closed_as_the_protocol_has_it() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        client.send_text("not JSON")
        assert (await client.wait_closed()).code == CloseCode.INVALID_DATA


# --- who may connect -----------------------------------------------------------------------------


async def test_refused_handshake_has_a_status() -> None:
    with pytest.raises(Refused) as caught:
        await GracefulCommunicator(Denying.as_asgi(), "/ws/").connect()
    assert caught.value.status == 403


async def test_denial_response_has_its_body() -> None:
    with pytest.raises(Refused, match="connect"):
        await GracefulCommunicator(Broken.as_asgi(), "/ws/").connect()


async def test_close_before_the_welcome_is_told() -> None:
    class Closing(GracefulConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.close(4601, "log in")

    with pytest.raises(ConnectionEnded, match="4601 log in"):
        await GracefulCommunicator(Closing.as_asgi(), "/ws/").connect()


async def test_application_without_the_protocol_is_told_apart() -> None:
    class Other(AsyncJsonWebsocketConsumer):
        pass

    with pytest.raises(ConnectionEnded, match="did not accept graceful"):
        await GracefulCommunicator(Other.as_asgi(), "/ws/").connect()


async def test_error_of_the_application_is_raised() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("in a middleware")

    with pytest.raises(ZeroDivisionError):
        await GracefulCommunicator(application, "/ws/").connect()


async def test_user_headers_and_path_come_through_the_usual_middleware() -> None:
    class Who(GracefulConsumer):
        async def connect(self) -> None:
            if not self.scope["user"].is_authenticated:
                raise DenyConnection
            await self.accept()

        async def receive_json(self, content: Any, **kwargs: Any) -> list[Any]:
            kwargs = self.scope["url_route"]["kwargs"]
            own = dict(self.scope["headers"])[b"x-own"].decode()
            return [self.scope["user"].username, kwargs, self.scope["query_string"].decode(), own]

    application = AllowedHostsOriginValidator(
        AuthMiddlewareStack(URLRouter([path("ws/<slug:room>/", Who.as_asgi())]))
    )
    ann = await get_user_model().objects.acreate_user("ann")
    async with GracefulCommunicator(
        application, "/ws/lobby/?a=1", user=ann, headers={"X-Own": "yes"}
    ) as client:
        assert await client.send("who?") == ["ann", {"room": "lobby"}, "a=1", "yes"]
        assert client.consumer.scope["user"] == ann
    foreign = GracefulCommunicator(
        application, "/ws/lobby/", user=ann, headers=[(b"origin", b"http://elsewhere.example")]
    )
    with pytest.raises(Refused):
        await foreign.connect()
    with pytest.raises(Refused):
        await GracefulCommunicator(application, "/ws/lobby/").connect()


# --- from elsewhere ------------------------------------------------------------------------------


async def test_publish_and_send_reach_it() -> None:
    ann = await get_user_model().objects.acreate_user("ann")
    async with GracefulCommunicator(Room.as_asgi(), "/?stream=news", user=ann) as client:
        await settle()
        await apublish("news", "published")
        message = await client.receive()
        assert (message.stream, message.seq, message.data) == ("news", 1, "published")
        await asend_to_user(ann, "to the user")
        assert (await client.receive()).data == "to the user"
        assert client.session_id is not None
        await asend_to_session(client.session_id, "to the session")
        assert (await client.receive()).data == "to the session"
        assert await client.receive_nothing()


async def test_presence_is_told() -> None:
    room = Room.as_asgi()
    async with GracefulCommunicator(room, "/?stream=lobby&presence=1") as ann:
        assert (await ann.receive()).data["type"] == "client_join"
        async with GracefulCommunicator(room, "/?stream=lobby&presence=1") as bob:
            joined = await ann.receive()
            assert joined.data["client_id"] == bob.session_id
        gone = await ann.receive()
        assert (gone.data["type"], gone.data["cause"]) == ("client_exit", "bye")


async def test_message_of_a_channel_layer_group_reaches_it(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    class Grouped(GracefulConsumer):
        groups = ["everybody"]

        async def chat_said(self, event: dict[str, Any]) -> None:
            await self.send_json(event["text"])

    async with GracefulCommunicator(Grouped.as_asgi(), "/ws/") as client:
        layer = get_channel_layer()
        await layer.group_send("everybody", {"type": "chat.said", "text": "hello"})
        assert (await client.receive()).data == "hello"
        await layer.group_send("everybody", {"type": "chat.said", "text": "again"})
        with pytest.raises(AssertionError, match="again"):
            await client.receive_nothing()


async def test_events_are_told_once_each() -> None:
    async with GracefulCommunicator(Room.as_asgi(), "/") as client:
        await client.send({"subscribe": "a"})
        await client.send({"subscribe": "b"})
        assert [(await client.event(Subscribed)).stream for _ in range(2)] == ["a", "b"]
        async with client.twin():
            assert (await client.event(Superseded)).instance
            with pytest.raises(ConnectionEnded, match="4501"):
                await client.event(Superseded)


# --- what is left --------------------------------------------------------------------------------


async def test_nothing_is_left_of_a_connection() -> None:
    before = asyncio.all_tasks()
    for _ in range(2):
        async with GracefulCommunicator(ECHO, "/ws/") as client:
            await client.send("hello")
    await settle()
    assert asyncio.all_tasks() == before


async def test_client_that_was_never_welcomed_leaves_nothing() -> None:
    before = asyncio.all_tasks()

    class Stuck(GracefulConsumer):
        async def connect(self) -> None:
            await asyncio.sleep(3600)

        handler_timeout = 0.1

    with pytest.raises((TimeoutError, Refused)):
        await GracefulCommunicator(Stuck.as_asgi(), "/ws/", within=0.05).connect()
    await settle()
    await asyncio.sleep(0.2)  # its own limit
    await settle()
    assert asyncio.all_tasks() == before


async def test_what_needs_a_connection_says_so() -> None:
    client = GracefulCommunicator(ECHO, "/ws/")
    assert not client.volatile("dropped")
    with pytest.raises(RuntimeError, match="connect"):
        await client.receive()
    await client.connect()
    with pytest.raises(RuntimeError, match="is connected"):
        await client.resume()
    assert isinstance(client.consumer, Echo)
    await client.bye()
    with pytest.raises(ConnectionEnded, match="1000 bye"):
        _ = client.consumer
    with pytest.raises(RuntimeError, match="not connected"):
        await client.drop()
