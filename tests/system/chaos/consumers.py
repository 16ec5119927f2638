"""What the nodes of a chaos run serve: sessions that tick, publish, and write down what they do.

The address says who comes and where to: ``?name=visitor-1&rooms=room-1,room-2``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import uuid
from typing import Any
from urllib.parse import parse_qs

from django.db import Error
from django.utils import timezone

from graceful_ws.consumers import Fenced, GracefulConsumer, JournalUnavailable
from graceful_ws.models import AuditEntry
from graceful_ws.publishing import apublish, publish
from tests.system.chaos.ledger import stopping, write

PAUSE = float(os.environ.get("GRACEFUL_TEST_CHAOS_PAUSE", "0.2"))  # seconds between two ticks
PUBLISH_EVERY = 3  # ticks, and messages from the client
REST = 0.2  # seconds after an outage
OUTAGES = (JournalUnavailable, Error)


class Visited(GracefulConsumer):
    _ticking: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        query = parse_qs(self.scope["query_string"].decode())
        self.name = query["name"][0]
        self.rooms = query["rooms"][0].split(",")
        self.connection = uuid.uuid4().hex[:10]
        await self.accept()

    async def enter(self) -> None:
        for room in self.rooms:
            while True:
                try:
                    await self.subscribe(room, presence=True)
                    break
                except OUTAGES:
                    await asyncio.sleep(REST)

    async def session_started(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def resumed(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def disconnect(self, code: int) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    # --- the server's messages ----------------------------------------------------------------

    async def _tick(self) -> None:
        try:
            for number in itertools.count(1):
                if stopping():
                    return
                if number % PUBLISH_EVERY == 0:
                    await self.publish_to_room("tick", number)
                elif not await self._send(number):
                    return
                await asyncio.sleep(PAUSE)
        except Exception as error:
            write("surprise", self.name, f"tick: {error!r}", 0)
            raise

    async def _send(self, number: int) -> bool:
        """A message in the session's own sequence; False: it has moved to another connection."""
        message = (f"session:{self.session_id}", self.connection, number)
        write("attempted", *message)
        while True:
            try:
                await self.send_json({"p": self.connection, "n": number})
            except JournalUnavailable:  # not kept: the same message may go again
                await asyncio.sleep(REST)
            except Fenced:
                write("withdrawn", *message)
                return False
            else:
                write("accepted", *message)
                return True

    async def publish_to_room(self, what: str, number: int) -> None:
        message = (self.rooms[number % len(self.rooms)], f"{what}:{self.connection}", number)
        write("attempted", *message)
        try:
            data = {"p": message[1], "n": number}
            await (self.publish if what == "tick" else apublish)(message[0], data)
        except OUTAGES:
            write("withdrawn", *message)
            await asyncio.sleep(REST)
        except Fenced:  # only a consumer's own publish is tied to its connection
            write("withdrawn", *message)
        else:
            write("accepted", *message)


class Plainly(Visited):
    """Handles with ``receive_json``: a handler may run twice, never three times."""

    async def connect(self) -> None:
        await super().connect()
        await self.enter()

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        number = content["n"]
        write("started", self.name, self.connection, number)
        if number % PUBLISH_EVERY == 0:
            await self.publish_to_room("handler", number)
        if "hall" in content:
            await self._go(content["hall"], content["go"])
        if number % 10 == 0:
            await asyncio.sleep(0.3)  # long enough to be interrupted
        write("handled", self.name, self.connection, number)
        return {"handled": number}

    async def _go(self, hall: str, way: str) -> None:
        """In or out; when the database is away it stays where it is."""
        with contextlib.suppress(*OUTAGES):
            if way == "in":
                await self.subscribe(hall, presence=True)
            else:
                await self.unsubscribe(hall)


class Atomically(Visited):
    """Handles with ``receive_in_transaction``: effect, reply and publication happen once."""

    async def session_started(self) -> None:
        await self.enter()
        await super().session_started()

    async def resumed(self) -> None:
        await self.enter()  # had the process died before ``session_started`` did it
        await super().resumed()

    def receive_in_transaction(self, content: Any) -> Any:
        number = content["n"]
        write("started", self.name, self.connection, number)
        AuditEntry.objects.create(
            at=timezone.now(),
            event="effect",
            actor=self.name,
            session=uuid.UUID(self.session_id),
            reason=str(number),
        )
        write("attempted", f"session:{self.session_id}", f"reply:{self.name}", number)
        self.reply({"p": f"reply:{self.name}", "n": number})
        if number % PUBLISH_EVERY == 0:
            room = self.rooms[number % len(self.rooms)]
            write("attempted", room, f"reply:{self.name}", number)
            publish(room, {"p": f"reply:{self.name}", "n": number})
        return {"handled": number}
