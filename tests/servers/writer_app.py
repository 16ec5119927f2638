"""An ASGI application that sends by an outbox, as consumers do, and counts which way it went.

It takes orders, JSON objects with one key: ``burst`` (sizes: one numbered text message each, of at
least so many characters), ``binary`` (the same in bytes), ``counts`` (which answers with the
counts of this connection), ``burst_and_close`` (a burst, and a close when it was sent), ``late``
(a close, and a look at what is written after it) and ``was_late`` (which answers with what was).

Paths: ``/`` bare, ``/auth/`` under Channels' middleware, ``/seen/`` under one that sees messages.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import suppress
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from graceful_ws import servers  # noqa: E402
from graceful_ws.core.frames import wire  # noqa: E402
from graceful_ws.node.flusher import Flusher  # noqa: E402
from graceful_ws.node.outbox import Outbox  # noqa: E402
from graceful_ws.node.stats import Stats  # noqa: E402

was_late: dict[str, bool] = {}  # what was written when it should not be


def numbered(number: int, size: int) -> str:
    return f"{number}:".ljust(size, "é" if number % 2 else "x")


class Connection:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.counts = Counter(written=0, sent=0)
        self._receive = receive
        self._send = send
        self._write = servers.writer(scope, send)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.outbox = Outbox(
            self._transmit,
            lambda event: None,
            lambda gap: None,
            self._spawn,
            Flusher(),
            Stats(),
            replay_rows=1,
            raw=True,
            write=None if self._write is None else self._written,
        )

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _written(self, frame: bytes) -> bool:
        assert self._write is not None
        written = self._write(frame)
        self.counts["written"] += written
        return written

    async def _transmit(self, data: str | bytes) -> bool:
        kind = "text" if isinstance(data, str) else "bytes"
        await self._send({"type": "websocket.send", kind: data})
        self.counts["sent"] += 1
        return True

    async def run(self) -> None:
        await self._receive()
        await self._send({"type": "websocket.accept"})
        while (event := await self._receive())["type"] != "websocket.disconnect":
            ((name, value),) = json.loads(event["text"]).items()
            await getattr(self, f"_{name}")(value)
        self._write_late("after the end")
        self.outbox.close()

    async def _burst(self, sizes: list[int]) -> None:
        for number, size in enumerate(sizes):
            self.outbox.plain(numbered(number, size))

    async def _binary(self, sizes: list[int]) -> None:
        for number, size in enumerate(sizes):
            self.outbox.plain(numbered(number, size).encode())

    async def _counts(self, value: Any) -> None:
        self.outbox.plain(json.dumps(self.counts))

    async def _burst_and_close(self, sizes: list[int]) -> None:
        await self._burst(sizes)
        self._spawn(self._close_when_sent())

    async def _close_when_sent(self) -> None:
        await self.outbox.flushed()
        await self._send({"type": "websocket.close", "code": 4102})

    async def _late(self, value: Any) -> None:
        await self._send({"type": "websocket.close", "code": 4102})
        self._write_late("after the close")

    def _write_late(self, text: str) -> None:
        if self._write is not None:
            was_late[text] = self._write(wire(text)) or was_late.get(text, False)

    async def _was_late(self, value: Any) -> None:
        self.outbox.plain(json.dumps(was_late))


async def bare(scope: Any, receive: Any, send: Any) -> None:
    with suppress(OSError):
        await Connection(scope, receive, send).run()


async def seen(scope: Any, receive: Any, send: Any) -> None:
    async def see(message: Any) -> None:
        connection.counts["seen"] += message["type"] == "websocket.send"
        await send(message)

    connection = Connection(scope, receive, see)
    await connection.run()


under_channels = AuthMiddlewareStack(URLRouter([path("auth/", bare)]))


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        apps = {"/auth/": under_channels, "/seen/": seen}
        await apps.get(scope["path"], bare)(scope, receive, send)


async def _drain() -> None:
    pass


servers.install(_drain, lambda: None)
