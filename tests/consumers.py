"""The consumers that the tests talk to."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import StopConsumer
from django.utils import timezone

from graceful_ws.consumers import Fenced, GracefulConsumer, JournalUnavailable
from graceful_ws.models import AuditEntry
from graceful_ws.publishing import aonline, publish


def write(name: str, value: object) -> None:
    """A line in a file outside the process, in the directory that the test gave."""
    with (Path(os.environ["GRACEFUL_TEST_LEDGER"]) / name).open("a") as file:
        file.write(f"{value}\n")


POISON: dict[str, Any] = {
    "lone surrogate": "\ud83d",
    "lone surrogate in a key": {"\udc00": 1},
    "NaN": float("nan"),
    "infinity": [float("-inf")],
    "too large": "x" * (1024 * 1024),
}


class Echo(GracefulConsumer):
    """Does what a message asks, and sends it back."""

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        if not isinstance(content, dict):
            await self.send_json(content)
            return None
        if "sleep" in content:
            await asyncio.sleep(content["sleep"])
        if "fail" in content:
            raise RuntimeError(content["fail"])
        if "close" in content:
            await self.close(content["close"], content.get("reason"))
            return None
        if "stop" in content:
            raise StopConsumer
        if "poison" in content:
            return await self._send_poison(content["poison"])
        for n in range(content.get("send", 0)):
            data = {"n": n, "pad": "x" * content.get("pad", 0)}
            await self.send_json(data, volatile=content.get("volatile", False))
            await asyncio.sleep(0)
        if content.get("echo", True):
            await self.send_json(content)
        return content.get("result")

    async def _send_poison(self, name: str) -> str:
        try:
            await self.send_json(POISON[name])
        except ValueError as error:
            return f"ValueError: {error}"
        return "sent"


class Light(Echo):
    resumable = False


class Strict(Echo):
    close_on_error = True


class Dozing(Echo):
    close_when_idle = True
    idle_timeout = 0.6


class Impatient(Echo):
    """Handlers have half a second."""

    handler_timeout = 0.5


class Paced(Echo):
    """Ten messages at once, and then twenty a second."""

    message_rate = 20.0
    message_burst = 10


class Scarce(Echo):
    """Next to nothing."""

    message_rate = 0.01
    message_burst = 3


class Slow(GracefulConsumer):
    """Its connect() takes longer than it may."""

    handler_timeout = 1.0

    async def connect(self) -> None:
        await asyncio.sleep(30)


class ForStaff(Echo):
    """Asks each time."""

    async def connect(self) -> None:
        await (self.accept() if self.scope["user"].is_staff else self.close())


class Hooks(Echo):
    """Writes down which hooks ran."""

    async def connect(self) -> None:
        await self.accept()
        if self.scope["query_string"] == b"greet":
            await self.send_json("welcome, from connect()")

    def _note(self, what: object) -> None:
        write("hooks", f"{self.session_id} {what}")

    async def session_started(self) -> None:
        self._note("started")

    async def resumed(self) -> None:
        self._note("resumed")

    async def disconnect(self, code: int) -> None:
        self._note(f"disconnect:{code}")

    async def session_ended(self) -> None:
        self._note("ended")


class Denying(GracefulConsumer):
    async def connect(self) -> None:
        await self.close()


class Broken(GracefulConsumer):
    async def connect(self) -> None:
        raise RuntimeError("connect() fails")


class Ledger(GracefulConsumer):
    """Ticks by itself, and writes down, outside the process, what was accepted and handled."""

    interval = 0.02  # seconds between two ticks of one connection
    _ticking: asyncio.Task[None] | None = None

    def _write(self, kind: str, value: object) -> None:
        write(f"{self.session_id}.{kind}", value)

    async def session_started(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def resumed(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        stop = Path(os.environ["GRACEFUL_TEST_LEDGER"]) / "stop"
        connection = uuid.uuid4().hex[:8]
        for number in itertools.count(1):
            if stop.exists():
                self._write("stopped", connection)  # behind all that it accepted
                return
            tick = f"{connection}:{number}"
            self._write("attempted", tick)
            if not await self._send(tick):
                return
            self._write("accepted", tick)
            await asyncio.sleep(self.interval)

    async def _send(self, tick: str) -> bool:
        while True:
            try:
                await self.send_json({"tick": tick})
            except JournalUnavailable:  # not kept: the same tick may go again
                await asyncio.sleep(0.1)
            except Fenced:
                return False
            else:
                return True

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        self._write("started", content["n"])
        if content.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(content.get("sleep", 0))
        self._write("handled", content["n"])
        return {"handled": content["n"]}

    async def disconnect(self, code: int) -> None:
        if self._ticking is not None:
            self._ticking.cancel()


class Zombie(Ledger):
    """Goes on writing with all its might, whoever owns the session: only the store can stop it."""

    interval = 0.0

    async def _send(self, tick: str) -> bool:
        try:
            await self.send_json({"tick": tick})
        except Fenced:
            self._write("fenced", tick)
            await asyncio.sleep(0.02)
        return True

    async def disconnect(self, code: int) -> None:
        await asyncio.sleep(0.3)
        await super().disconnect(code)


class InTransaction(GracefulConsumer):
    """Writes a row, and replies; ``kill`` names a file without which the process dies there."""

    def receive_in_transaction(self, content: Any) -> Any:
        if not isinstance(content, dict):
            self.reply(content)
            return None
        if "name" in content:
            AuditEntry.objects.create(at=timezone.now(), event="effect", actor=content["name"])
        if "started" in content:
            write(content["started"], os.getpid())
        if "kill" in content and not Path(content["kill"]).exists():
            Path(content["kill"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(content.get("sleep", 0))
        if "finished" in content:
            write(content["finished"], os.getpid())
        if "fail" in content:
            raise RuntimeError(content["fail"])
        self.reply(content)
        return content.get("result")


class ImpatientTransaction(InTransaction):
    handler_timeout = 0.5


class Room(GracefulConsumer):
    """Follows and publishes what it is told to; ``streams`` of the query string at once."""

    async def connect(self) -> None:
        await self.accept()
        query = parse_qs(self.scope["query_string"].decode())
        for stream in query.get("stream", []):
            await self.subscribe(stream, presence="presence" in query)

    async def may_subscribe(self, stream: str) -> bool:
        denied = Path(os.environ.get("GRACEFUL_TEST_LEDGER", "/nowhere")) / "denied"
        return not denied.exists() or stream not in denied.read_text().split()

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        match content:
            case {"subscribe": stream}:
                await self.subscribe(stream, presence=content.get("presence"))
            case {"unsubscribe": stream}:
                await self.unsubscribe(stream)
            case {"publish": stream}:
                await self.publish(stream, content["data"])
            case {"send": data}:
                await self.send_json(data)
            case {"close": code}:
                await self.close(code)
            case {"online": stream}:
                return [one.client_id for one in await aonline(stream)]
        return sorted(self.subscriptions)


class LightRoom(Room):
    resumable = False


class Present(Room):
    streams = ["lobby", "news"]
    presence = True


class Watched(Room):
    """Its comings and goings are told elsewhere."""

    streams = ["lobby"]
    presence = True

    async def exit_audience(self) -> list[str]:
        return ["watchers"]


class InTransactionRoom(InTransaction):
    """Publishes in the handler's transaction."""

    def receive_in_transaction(self, content: Any) -> Any:
        if isinstance(content, dict) and "publish" in content:
            publish(content["publish"], content["data"])
        return super().receive_in_transaction(content)
