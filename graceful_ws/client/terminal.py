"""A line in, a line out: what is typed is sent, what arrives is printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from .connection import GracefulClient
from .errors import SessionLost
from .events import (
    Disconnected,
    ErrorTold,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    RoundTrip,
    Superseded,
    VolatileReceived,
    Welcomed,
)
from .telling import as_json, as_text, describe

LINGER = 0.5  # seconds after the last outcome; an echo is on its way then
MAX_LINE = 1024 * 1024  # bytes of a line that is typed
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
# Trouble, which --quiet does not hide.
LOUD = (Disconnected, ErrorTold, GapTold, MessageNacked, Superseded)

# --- options ----------------------------------------------------------------------------------


def url_problem(url: str) -> str:
    """What is wrong with the URL of a WebSocket, in one line; "" when nothing is."""
    for scheme, right in (("http://", "ws://"), ("https://", "wss://")):
        if url.startswith(scheme):
            return f"{url} is a page: WebSockets begin with {right}"
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        return f"{url!r} is no URL of a WebSocket, such as wss://example.com/ws/"
    return ""


def parse_headers(lines: Sequence[str]) -> dict[str, str]:
    """Headers as typed, "Name: value". Raises ValueError with what is wrong."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name, re.ASCII):
            raise ValueError(f"write it as 'Name: value', not {line!r}")
        if not value.isprintable():
            raise ValueError(f"{name} holds control characters")
        if name.lower() in (known.lower() for known in headers):
            raise ValueError(f"{name} is given twice")
        headers[name] = value
    return headers


def parse_line(line: str, as_text: bool = False) -> Any:
    """What to send for a line that was typed."""
    if not as_text:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(line, parse_constant=_no_constant)
    return line


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# --- the terminal -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """``linger``: seconds to listen after the last outcome, when the input has ended."""

    urls: Sequence[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    text: bool = False  # every line is a string, JSON or not
    json: bool = False  # all that happens goes to the output, as JSON
    quiet: bool = False  # only trouble is told
    linger: float = LINGER


class Terminal:
    """One run: a client between an input and two outputs."""

    def __init__(self, options: Options, out: TextIO, err: TextIO) -> None:
        self.status = 0
        self._options = options
        self._out = out
        self._err = err
        self._over = asyncio.Event()
        self._settled = asyncio.Event()  # a message has its outcome
        self._on_its_way = 0
        self._connected = self._was_connected = False
        self._rtt_wanted = False
        self._client = GracefulClient(
            options.urls,
            headers=options.headers,
            origin=options.origin,
            on_event=self._hear,
            on_message=self._print_message,
        )

    async def run(self, fd: int | None) -> int:
        """Reads from ``fd`` to its end, then returns the exit status; None: nothing to read."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if self._over.is_set():
                task.cancel()  # the second one does not wait for the bye
            self.status = INTERRUPTED
            self._over.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        self._client.start()
        speaking = asyncio.create_task(self._speak(fd))
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait([speaking, over], return_when=asyncio.FIRST_COMPLETED)
        self._over.set()
        speaking.cancel()
        await asyncio.wait([speaking, over])
        await self._client.close("bye")
        if not speaking.cancelled():
            speaking.result()
        return self.status

    async def _speak(self, fd: int | None) -> None:
        try:
            async for line in lines(fd):
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.strip():
                    await self._send(text)
            if not self._was_connected:  # a listener without input has come to listen
                await self._client.connected()
        except SessionLost:
            return  # has been said
        while self._on_its_way:
            self._settled.clear()
            await self._settled.wait()
        if self._options.linger == math.inf:
            await self._over.wait()
        await asyncio.sleep(self._options.linger)

    async def _send(self, text: str) -> None:
        try:
            await self._client.send(parse_line(text, self._options.text), wait=False)
        except ValueError as error:
            self.status = 1
            self._say(f"not sent: {error}")
        else:
            self._on_its_way += 1

    def _hear(self, event: Event) -> None:
        was_connected = self._connected
        if isinstance(event, MessageAcknowledged | MessageNacked):
            self._take_outcome(event)
        elif isinstance(event, Welcomed):
            self._connected = self._was_connected = self._rtt_wanted = True
        elif isinstance(event, Disconnected):
            self._connected = False
        ours = self._over.is_set()
        if isinstance(event, Disconnected) and event.final and not ours:
            self.status = 1
            self._over.set()
        if self._options.json:
            self._print_json(event)
        elif isinstance(event, VolatileReceived):
            self._print(as_text(event.data))
        elif not self._options.quiet or (isinstance(event, LOUD) and not ours):
            self._tell(event, was_connected, ours)

    def _take_outcome(self, event: MessageAcknowledged | MessageNacked) -> None:
        if isinstance(event, MessageNacked):
            if event.retry:
                return
            self.status = 1
        self._on_its_way -= 1
        self._settled.set()

    def _tell(self, event: Event, was_connected: bool, ours: bool) -> None:
        if isinstance(event, RoundTrip):
            if event.own and self._rtt_wanted:  # one for each connection is enough
                self._rtt_wanted = False
                self._say(f"round trip {event.seconds * 1000:.1f} ms")
        elif isinstance(event, Disconnected) and ours:
            self._say(f"bye: {int(event.code)}")
        elif text := describe(event, self._client, was_connected):
            self._say(text)

    def _print_message(self, message: MessageReceived) -> None:
        if self._options.json:
            self._print_json(message)
        else:
            where = "" if message.stream is None else f"{message.stream}: "
            self._print(where + as_text(message.data))

    def _print_json(self, event: Event) -> None:
        shown = as_json(event)
        if isinstance(event, Welcomed):
            client = self._client
            shown |= {"session_id": client.session_id, "node": client.node}
            shown["endpoint"] = client.endpoint
        self._print(json.dumps(shown))

    def _print(self, text: str) -> None:
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:  # nobody reads it any more
            self._over.set()

    def _say(self, text: str) -> None:
        clean = "".join(char if char.isprintable() else " " for char in text)
        with contextlib.suppress(BrokenPipeError):
            print(clean, file=self._err, flush=True)


async def lines(fd: int | None) -> AsyncIterator[bytes]:
    """The lines of a pipe, a terminal or a file, without a thread that could not be stopped.
    One that is over MAX_LINE comes in pieces."""
    rest = b""
    while fd is not None and (chunk := await _read(fd)):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > MAX_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


async def _read(fd: int) -> bytes:
    """What is there, as soon as there is something; nothing at the end."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def is_readable() -> None:
        if not readable.done():
            readable.set_result(None)

    try:
        # The descriptor stays blocking: it may be shared with the shell, and with stdout.
        loop.add_reader(fd, is_readable)
    except PermissionError:  # epoll takes no files; they never wait
        await asyncio.sleep(0)
    else:
        try:
            await readable
        finally:
            loop.remove_reader(fd)
    try:
        return os.read(fd, 64 * 1024)
    except OSError:  # the terminal is gone
        return b""
