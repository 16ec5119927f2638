"""A TCP proxy that fails on command: cut, silent, or slow connections between two real ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal

Direction = Literal["to_server", "to_client"]
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time


class _Way:
    """One direction of all connections."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.cut_after: int | None = None  # bytes still to forward; None: no cut is planned
        self.cut_at = b""
        self.forwarded = 0


class Proxy:
    """A TCP proxy from a free port of 127.0.0.1 to ``port``, for the tests of one event loop.

        async with Proxy(server.port) as proxy:
            connect(f"ws://127.0.0.1:{proxy.port}/ws/echo/")
            await proxy.cut()

    Each order applies to all open connections, and the standing ones (``swallow``, ``delay``,
    ``refuse`` and the planned cuts) to later ones too, until ``resume``.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._ways: dict[Direction, _Way] = {"to_server": _Way(), "to_client": _Way()}
        self._delay = 0.0
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()  # of both ends
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0  # connections so far
        self.cuts = 0  # planned cuts that have happened
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ws(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._clients)

    def forwarded(self, direction: Direction) -> int:
        """Bytes forwarded in a direction so far."""
        return self._ways[direction].forwarded

    async def cut(self, *, reset: bool = True) -> None:
        """End every open connection, at both ends: with RST, or with FIN when not ``reset``.

        New connections are served. What was held or delayed is lost.
        """
        for writer in list(self._writers):
            _end(writer, reset)
        self._writers.clear()
        self._clients.clear()
        await asyncio.sleep(0)

    def cut_after_bytes(self, count: int, direction: Direction) -> None:
        """Forward ``count`` more bytes in a direction, then cut everything with RST, once.

        In the middle of a WebSocket frame when ``count`` says so.
        """
        self._ways[direction].cut_after = count

    def cut_at(self, pattern: bytes, direction: Direction = "to_client") -> None:
        """Cut everything with RST, once, when ``pattern`` comes by; it is not forwarded.

        For messages of the server, in clear and unmasked: connect without compression. Seen only
        within one read, which on the loopback is what the server wrote at once.
        """
        self._ways[direction].cut_at = pattern

    def swallow(self, direction: Direction | None = None) -> None:
        """Accept and forward nothing, in one direction or both: a half-open connection.

        Neither end is told. Bytes are held, as TCP would repeat them after a short outage:
        ``resume`` lets them through, ``cut`` loses them.
        """
        for name, way in self._ways.items():
            if direction in (None, name):
                way.open.clear()

    def delay(self, seconds: float) -> None:
        """Hold each read for ``seconds`` before it is forwarded, in both directions."""
        self._delay = seconds

    def refuse(self) -> None:
        """Reset new connections at once; open ones go on."""
        self._refusing = True

    def resume(self) -> None:
        """Take back every standing order."""
        self._delay = 0.0
        self._refusing = False
        for way in self._ways.values():
            way.cut_after = None
            way.cut_at = b""
            way.open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _end(writer, reset=True)
            return
        self.accepted += 1
        self._writers.add(writer)
        self._clients.add(writer)
        await self._ways["to_server"].open.wait()
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._discard(writer)
            _end(writer, reset=True)
            return
        if writer not in self._writers:  # cut meanwhile
            _end(upstream_writer, reset=True)
            return
        self._writers.add(upstream_writer)
        for forwarding in (
            self._forward(reader, upstream_writer, "to_server"),
            self._forward(upstream_reader, writer, "to_client"),
        ):
            task = asyncio.create_task(forwarding)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        way = self._ways[direction]
        with suppress(OSError):
            while data := await source.read(65_536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await way.open.wait()
                cut = bool(way.cut_at) and way.cut_at in data
                if cut:
                    data = b""
                elif way.cut_after is not None:
                    data = data[: way.cut_after]
                    way.cut_after -= len(data)
                    cut = way.cut_after == 0
                sink.write(data)
                way.forwarded += len(data)
                await sink.drain()
                if cut:
                    way.cut_at, way.cut_after = b"", None
                    self.cuts += 1
                    await self.cut()
                    return
        await way.open.wait()  # the end of a connection is not seen through a silent network
        self._discard(sink)
        _end(sink, reset=False)

    def _discard(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        self._clients.discard(writer)


def _end(writer: asyncio.StreamWriter, reset: bool) -> None:
    if reset:
        connection: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        writer.transport.abort()
    else:
        writer.close()
