"""What an adapted server does, whichever it is; each server's test module inherits it.

A module that imports ``AdapterContract`` provides two fixtures: ``server``, one for all tests that
leave it running, and ``launch``, which starts another one for a test that stops it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.processes import ChildProcess, free_port, wait_until_ready

SENDABLE = (
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
    *(3000, 3999, 4000, 4102, 4501, 4999),
)
WITHIN = 8.0  # seconds: less than the 10 s that servers wait for a close frame by themselves

Command = Callable[[int], Sequence[str]]  # port → argv
Launch = Callable[..., "Server"]


class Server:
    """A server process with the application of ``apps.py``."""

    def __init__(self, command: Command, log: Path, **environment: str) -> None:
        self.port = free_port()
        self.child = ChildProcess("server", log)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.child.spawn([sys.executable, *command(self.port)], env=env)
        wait_until_ready(self.child, self._accepts, 20)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    @asynccontextmanager
    async def client(self, path: str = "/", **options: Any) -> AsyncIterator[Client]:
        async with (
            asyncio.timeout(20),
            connect(self.url(path), proxy=None, max_size=None, **options) as connection,
        ):
            yield Client(connection)

    def exit_status(self) -> int:
        return self.child.wait(WITHIN)


@contextmanager
def launcher(command: Command, directory: Path) -> Iterator[Launch]:
    """Start servers, and kill those that still run at the end."""
    servers: list[Server] = []

    def launch(**environment: str) -> Server:
        log = directory / f"server-{len(servers)}.log"
        servers.append(Server(command, log, **environment))
        return servers[-1]

    try:
        yield launch
    finally:
        for server in servers:
            server.child.kill()
    for server in servers:
        # granian's Rust does, adapted or not, now and then when it has to cut connections.
        cut = "The drain failed" in server.child.log()
        assert cut or "panicked" not in server.child.log(), server.child.log_tail()


class Client:
    """A client of ``apps.py``: orders out, JSON objects in."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def order(self, **order: Any) -> None:
        await self.connection.send(json.dumps(order))

    async def receive(self) -> Any:
        async with asyncio.timeout(WITHIN):
            return json.loads(await self.connection.recv())

    async def expect(self, **message: Any) -> None:
        assert await self.receive() == message

    async def round_trip(self) -> None:
        """Until the server has done what it was told before, by message or by signal."""
        async with asyncio.timeout(WITHIN):
            await (await self.connection.ping())

    async def end(self) -> tuple[int | None, str | None]:
        """Code and reason of the close frame; (1006, "") when there was none."""
        async with asyncio.timeout(WITHIN):
            with pytest.raises(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code, self.connection.close_reason

    async def order_until_end(self, **order: Any) -> tuple[int | None, str | None]:
        await self.order(**order)
        return await self.end()


class Peer:
    """A peer that does only what it is told: no close reply, no pong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send_frame(self, first: int, payload: bytes, *, masked: bool = True) -> None:
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2)
        mask = b"\0\0\0\0" if masked else b""
        flag = 0x80 if masked else 0
        self.writer.write(bytes([first, length[0] | flag]) + length[1:] + mask + payload)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Opcode and payload of each frame, up to the end of the connection."""
        try:
            async with asyncio.timeout(WITHIN):
                while True:
                    first, size = await self.reader.readexactly(2)
                    if size == 126:
                        size = int.from_bytes(await self.reader.readexactly(2))
                    elif size == 127:
                        size = int.from_bytes(await self.reader.readexactly(8))
                    yield first & 0x0F, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def close_code(self) -> int:
        """The code of the next frame, which has to be a close frame."""
        async for opcode, body in self.frames():
            assert opcode == 8, (opcode, body)
            return int.from_bytes(body[:2])
        raise AssertionError("the connection ended without a close frame")

    async def close_codes(self) -> list[int]:
        """The codes of all close frames up to the end of the connection."""
        return [int.from_bytes(body[:2]) async for opcode, body in self.frames() if opcode == 8]


@asynccontextmanager
async def peer(server: Server, path: str = "/") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    try:
        async with asyncio.timeout(WITHIN):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


class AdapterContract:
    name: str  # what servers.current() says

    # Closing

    @pytest.mark.parametrize("code", SENDABLE)
    async def test_client_sees_the_code_and_reason_of_the_close(
        self, server: Server, code: int
    ) -> None:
        async with server.client() as client:
            reason = f"{code}, naïve 😀"
            seen = await client.order_until_end(close={"code": code, "reason": reason})
        assert seen == (code, reason)

    async def test_a_close_without_code_is_1000(self, server: Server) -> None:
        async with server.client() as client:
            assert await client.order_until_end(close={}) == (1000, "")

    async def test_application_learns_code_and_reason_of_the_clients_close(
        self, server: Server
    ) -> None:
        async with server.client("/ends") as observer:
            async with server.client("/says-why") as client:
                await client.connection.close(4000, "page hidden, 😀")
            await observer.expect(path="/says-why", code=4000, reason="page hidden, 😀")

    async def test_a_close_frame_without_a_code_is_reported_as_1005(self, server: Server) -> None:
        async with server.client("/ends") as observer:
            async with peer(server, "/says-nothing") as silent:
                silent.send_frame(0x88, b"")
                await silent.close_codes()
            await observer.expect(path="/says-nothing", code=1005, reason="")

    async def test_peer_that_never_answers_the_close_can_be_dropped(self, server: Server) -> None:
        async with server.client() as operator, peer(server, "/never-answers") as silent:
            silent.send_frame(0x81, b'{"close": {"code": 4501}}')
            assert await silent.close_code() == 4501
            started = time.monotonic()
            await operator.order(drop="/never-answers")
            assert await silent.close_codes() == []
            assert time.monotonic() - started < WITHIN

    async def test_peer_that_does_not_read_can_be_dropped(self, server: Server) -> None:
        async with server.client() as operator, peer(server, "/does-not-read") as deaf:
            deaf.writer.transport.pause_reading()
            deaf.send_frame(0x81, b'{"flood": null}')
            await until_server_is_stuck(deaf)
            async with server.client("/ends") as observer:
                await operator.order(drop="/does-not-read")
                assert (await observer.receive())["path"] == "/does-not-read"

    # Refusing

    async def test_refused_client_sees_503_and_when_to_come_back(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with server.client("/refuse"):
                pass
        response = refused.value.response
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "7"
        assert response.headers["Content-Type"] == "text/plain"
        assert response.body == b"going down"

    async def test_close_before_accept_is_still_403(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with server.client("/close"):
                pass
        assert refused.value.response.status_code == 403

    async def test_accept_sends_headers_and_subprotocol(self, server: Server) -> None:
        async with server.client("/headers", subprotocols=["first", "second"]) as client:
            response = client.connection.response
            assert response is not None
            assert response.headers["X-Node"] == "one"
            assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
            assert client.connection.subprotocol == "second"

    # Stopping

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_drain_comes_before_the_server_touches_a_socket(
        self, launch: Launch, number: signal.Signals
    ) -> None:
        server = launch()
        async with server.client() as idle, server.client() as busy:
            await busy.order(work=None)
            await busy.expect(working=True)
            server.child.signal(number)
            await idle.expect(draining=self.name)
            assert await idle.end() == (1012, "restart")
            await busy.expect(draining=self.name)
            # The job is unfinished, so the drain is not over: the server must still serve.
            await busy.order(echo="still here")
            await busy.expect(echo="still here")
            async with server.client() as newcomer:
                await newcomer.order(echo="accepted")
                await newcomer.expect(echo="accepted")
            await busy.order(finish=None)
            await busy.expect(done=True)
            assert await busy.end() == (1012, "restart")
        assert server.exit_status() == 0, server.child.log_tail()

    async def test_signals_within_a_second_count_once(self, launch: Launch) -> None:
        server = launch()
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            burst = (signal.SIGINT, signal.SIGTERM, signal.SIGINT)
            for number in burst:
                server.child.signal(number)
                await client.round_trip()  # the kernel merges signals that still wait
            await client.expect(draining=self.name)
            for number in burst:
                server.child.signal(number)
                await client.round_trip()
            await client.order(finish=None)
            await client.expect(done=True)
            assert await client.end() == (1012, "restart")
        assert server.exit_status() == 0, server.child.log_tail()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_second_signal_after_a_second_closes_at_once(
        self, launch: Launch, number: signal.Signals
    ) -> None:
        server = launch()
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            server.child.signal(number)
            await client.expect(draining=self.name)
            await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
            server.child.signal(number)
            assert await client.end() == (1012, "hurried")
        assert server.exit_status() == 0, server.child.log_tail()

    async def test_drain_drops_a_peer_that_never_answers_the_close(self, launch: Launch) -> None:
        server = launch()
        async with peer(server) as silent:
            async with server.client() as later:
                await later.order(echo="the peer's handshake is over on both sides")
                await later.receive()
            server.child.signal(signal.SIGTERM)
            assert await silent.close_codes() == [1012]
        assert server.exit_status() == 0, server.child.log_tail()

    async def test_server_stops_when_the_drain_raises(self, launch: Launch) -> None:
        server = launch(GRACEFUL_TEST_DRAIN="broken")
        async with server.client() as client:
            server.child.signal(signal.SIGTERM)
            await client.end()
        server.child.wait(WITHIN)
        assert re.search(r"The drain failed.*LookupError", server.child.log(), re.DOTALL)

    async def test_server_without_a_connection_stops_at_once(self, launch: Launch) -> None:
        server = launch()
        async with server.client():
            pass  # it answers: Daphne listens before its signal handlers are there
        server.child.signal(signal.SIGTERM)
        assert server.exit_status() == 0, server.child.log_tail()

    async def test_server_drops_by_itself_after_the_close_timeout(self, launch: Launch) -> None:
        server = launch(GRACEFUL_TEST_CLOSE_TIMEOUT="0.2")
        async with peer(server) as silent:
            silent.send_frame(0x81, b'{"close": {"code": 4102}}')
            assert await silent.close_codes() == [4102]


async def until_server_is_stuck(deaf: Peer) -> None:
    """Until the kernel's buffers between server and peer are full of frames nobody reads."""
    sock = deaf.writer.get_extra_info("socket")
    waiting = -1
    async with asyncio.timeout(WITHIN):
        while True:
            unread = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
            if unread == waiting > 0:
                return
            waiting = unread
            await asyncio.sleep(0.1)
