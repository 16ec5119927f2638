"""A client of ``graceful.v1`` that does what a test tells it, right or wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

SUBPROTOCOL = Subprotocol("graceful.v1")
WITHIN = 15.0  # seconds for an answer on a busy machine
Frame = dict[str, Any]


def parse(text: str | bytes) -> list[Frame]:
    """The frames of one WebSocket message from the server."""
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


async def dial(url: str, *, plain: bool = False, **options: Any) -> ClientConnection:
    """A bare WebSocket: nothing in it answers or closes by itself but the close handshake."""
    options = {
        "compression": None,
        "ping_interval": None,
        "max_size": None,
        "open_timeout": WITHIN,
        "proxy": None,
        **options,
    }
    return await connect(url, subprotocols=None if plain else [SUBPROTOCOL], **options)


class Raw:
    """One connection.

        async with Raw(site.ws("/echo/")) as raw:
            await raw.hello()
            await raw.send({"type": "message", "seq": 1, "data": "x"})
            await raw.expect("ack", seq=1)

    It answers pings unless ``pongs`` is False, and says nothing else by itself. ``frames`` holds
    all that came, in order; ``instance`` and ``token`` make another connection the same client.
    """

    def __init__(
        self,
        url: str,
        *,
        instance: str = "",
        token: str | None = None,
        attempt: int = 0,
        plain: bool = False,
        pongs: bool = True,
        **options: Any,
    ) -> None:
        self.url = url
        self.instance = instance or uuid.uuid4().hex
        self.token = token
        self.attempt = attempt
        self.plain = plain
        self.pongs = pongs
        self.frames: list[Frame] = []
        self.welcomed: Frame = {}
        self._options = options
        self._next = 0  # of frames, the first that expect has not looked at
        self._sent = itertools.count(1)
        self._arrived = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()

    async def __aenter__(self) -> Raw:
        self.ws = await dial(self.url, plain=self.plain, **self._options)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.ws.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.ws.wait_closed()

    async def _read(self) -> None:
        try:
            while True:
                await self._reading.wait()
                for frame in self._parse(await self.ws.recv()):
                    self.frames.append(frame)
                    if not self.plain and frame["type"] == "ping" and self.pongs:
                        await self.send({"type": "pong", "sent_at": frame["sent_at"]})
                self._arrived.set()
        except ConnectionClosed:
            pass
        finally:
            self._arrived.set()

    def _parse(self, text: str | bytes) -> list[Frame]:
        return [{"type": "message", "data": json.loads(text)}] if self.plain else parse(text)

    def stop_reading(self) -> None:
        """Take nothing more; give ``max_queue=1`` when the TCP connection is to fill up."""
        self._reading.clear()

    def read_on(self) -> None:
        self._reading.set()

    # --- out ----------------------------------------------------------------------------------

    async def hello(self, *, later: bool = False, **fields: Any) -> Frame:
        """Say hello, with the token if there is one, and return the welcome. With ``later`` the
        answer is left to ``expect``."""
        self.attempt += 1
        frame = {"version": 1, "instance": self.instance, "attempt": self.attempt}
        if self.token is not None:
            frame["session_token"] = self.token
        await self.send({"type": "hello", **frame, **fields})
        return {} if later else await self.welcome()

    async def welcome(self) -> Frame:
        self.welcomed = await self.expect("welcome")
        self.token = self.welcomed["session_token"] or self.token
        self._sent = itertools.count(self.welcomed["last_client_seq"] + 1)
        return self.welcomed

    async def send(self, frame: Any) -> None:
        """One frame, or a list of frames as one array. Nothing happens once it is closed."""
        await self.send_text(json.dumps(frame))

    async def send_text(self, text: str) -> None:
        with suppress(ConnectionClosed):
            await self.ws.send(text)

    async def send_bytes(self, data: bytes, *, text: bool) -> None:
        with suppress(ConnectionClosed):
            await self.ws.send(data, text=text)

    async def message(self, data: Any) -> int:
        """Send a message with the next number; return the number."""
        seq = next(self._sent)
        await self.send({"type": "message", "seq": seq, "data": data})
        return seq

    async def ask(self, data: Any) -> Any:
        """Send a message and wait for its ack; return the result of its handler."""
        seq = await self.message(data)
        while True:
            ack = await self.expect("ack")
            if ack["seq"] >= seq:
                return ack.get("results", {}).get(str(seq))

    async def ack(self, seq: int) -> None:
        await self.send({"type": "ack", "seq": seq})

    async def bye(self, reason: str = "") -> tuple[int, str]:
        await self.send({"type": "bye", "reason": reason})
        return await self.closed()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """A close frame, and the server's answer to it."""
        async with asyncio.timeout(WITHIN):
            await self.ws.close(code, reason)

    def cut(self) -> None:
        """End the TCP connection without a word."""
        self.ws.transport.abort()

    # --- in -----------------------------------------------------------------------------------

    @property
    def session_id(self) -> str:
        return str(self.welcomed["session_id"])

    def all(self, kind: str) -> list[Frame]:
        """All frames of a type that have come."""
        return [frame for frame in self.frames if frame["type"] == kind]

    @property
    def messages(self) -> list[Any]:
        """The data of all messages that have come."""
        return [frame["data"] for frame in self.all("message")]

    @property
    def numbers(self) -> list[int]:
        return [frame["seq"] for frame in self.all("message")]

    async def expect(self, kind: str, within: float = WITHIN, **fields: Any) -> Frame:
        """The next frame of a type and with these fields; those before it are passed over.

        AssertionError with what came instead when the connection ends or time runs out first.
        """
        found: list[Frame] = []

        def look() -> bool:
            while self._next < len(self.frames) and not found:
                frame = self.frames[self._next]
                self._next += 1
                if frame["type"] == kind and fields.items() <= frame.items():
                    found.append(frame)
            return bool(found)

        await self._until(look, within, f"{kind} {fields or ''}")
        return found[0]

    async def got(self, seq: int, within: float = WITHIN) -> Any:
        """The data of the message with a number, whether it came before or comes now; ``expect``
        goes on where it stood."""
        await self._until(lambda: seq in self.numbers, within, f"message {seq}")
        return next(frame["data"] for frame in self.all("message") if frame["seq"] == seq)

    # --- streams ------------------------------------------------------------------------------

    def stream(self, name: str) -> list[tuple[int, Any]]:
        """Numbers and data of all that has come of a stream."""
        found = [frame for frame in self.all("message") if frame.get("stream") == name]
        return [(frame["seq"], frame["data"]) for frame in found]

    @property
    def own(self) -> list[tuple[int, Any]]:
        """Numbers and data of the session's own messages that have come."""
        found = [frame for frame in self.all("message") if "stream" not in frame]
        return [(frame["seq"], frame["data"]) for frame in found]

    async def has(self, name: str, seq: int, within: float = WITHIN) -> list[tuple[int, Any]]:
        """All that has come of a stream, once a number has."""
        await self._until(
            lambda: seq in [number for number, _ in self.stream(name)],
            within,
            f"message {seq} of {name}",
        )
        return self.stream(name)

    async def follow(self, name: str) -> tuple[str, int]:
        """Asks ``tests.consumers.Room`` to subscribe; returns the position, [epoch, seq]."""
        await self.message({"subscribe": name})
        subscribed = await self.expect("subscribed", stream=name)
        return subscribed["epoch"], subscribed["head"]

    async def _until(self, look: Callable[[], bool], within: float, what: str) -> None:
        try:
            async with asyncio.timeout(within):
                while not look():
                    if self._task.done():
                        raise AssertionError(f"{self._end} instead of {what}: {self._last()}")
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} in {within:g} s, but {self._last()}") from None

    async def closed(self, within: float = WITHIN) -> tuple[int, str]:
        """Code and reason of the close frame; 1006 when there was none."""
        self.read_on()
        done, _ = await asyncio.wait([self._task], timeout=within)
        assert done, f"still open after {within:g} s; last came {self._last()}"
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        return self._end

    def _last(self) -> str:
        return ", ".join(str(frame)[:200] for frame in self.frames[-5:])

    @property
    def is_open(self) -> bool:
        return not self._task.done()

    @property
    def _end(self) -> tuple[int, str]:
        code = self.ws.close_code
        return (1006 if code is None else code), self.ws.close_reason or ""


def again(raw: Raw, url: str = "", **options: Any) -> Raw:
    """The same client over another connection: its next hello resumes the session."""
    return Raw(
        url or raw.url, instance=raw.instance, token=raw.token, attempt=raw.attempt, **options
    )
