"""Clients that mean no good, in their hundreds: the process stays small and serves the others."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.raw import Raw
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

MANY = 300
KIB_EACH = 120  # of memory that a connection may cost, its buffers included
PAGE = os.sysconf("SC_PAGE_SIZE")
SETTINGS = {
    "connecting": 200,
    "connecting_timeout": 2.0,
    "heartbeat_interval": 0.5,
    "heartbeat_timeout": 0.5,
}
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: graceful.v1\r\n\r\n"
)


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    return make_site(server=request.param, settings=SETTINGS)


def memory(site: Site) -> int:
    """KiB that the process holds now, which may be a worker of the one that was started."""
    [(pid,)] = site.sql("SELECT pid FROM graceful_ws_node WHERE state = 'up'")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE // 1024


async def is_served(site: Site) -> None:
    """An honest client, within the time in which people lose patience."""
    async with asyncio.timeout(8):
        async with Raw(site.ws("/echo/")) as raw:
            await raw.hello()
            assert await raw.ask({"result": "yes", "echo": False}) == "yes"
            await raw.bye()


class Loris:
    """One TCP connection that sends ``first``; ``then`` when that was answered, if it is one that
    is; and ``rest`` byte by byte."""

    def __init__(self, site: Site, first: bytes, then: bytes, rest: bytes) -> None:
        self._port = site.port
        self._first, self._then, self._rest = first, then, rest
        self.answer = b""

    async def run(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return
        trickling: asyncio.Task[None] | None = None
        try:
            writer.write(self._first)
            with suppress(OSError):
                if self._then:
                    self.answer = await reader.read(4096)
                    writer.write(self._then)
                trickling = asyncio.create_task(self._trickle(writer))
                while data := await reader.read(4096):
                    self.answer += data
        finally:
            if trickling is not None:
                trickling.cancel()
            writer.transport.abort()

    async def _trickle(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            for byte in self._rest:
                await asyncio.sleep(0.2)
                writer.write(bytes([byte]))


async def swarm(site: Site, first: bytes, then: bytes, rest: bytes) -> list[asyncio.Task[None]]:
    tasks = []
    for _ in range(MANY):
        tasks.append(asyncio.create_task(Loris(site, first, then, rest).run()))
        await asyncio.sleep(0.002)
    return tasks


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def frame(text: bytes, *, whole: int | None = None) -> bytes:
    """A masked text frame whose header says that it has ``whole`` bytes."""
    size = len(text) if whole is None else whole
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
    return b"\x81" + length + bytes(4) + text


HELLO = b'{"type":"hello","version":1,"instance":"x","attempt":1}'
FLOODS = {
    "no hello": (UPGRADE.format(path="/echo/").encode(), b"", b""),
    "a hello byte by byte": (
        UPGRADE.format(path="/echo/").encode(),
        frame(b"{", whole=60_000),
        b"x" * 600,
    ),
    "a handshake that does not end": (b"GET /echo/ HTTP/1.1\r\nHost: a\r\nX: ", b"", b"x" * 600),
}


@pytest.mark.parametrize("kind", list(FLOODS))
async def test_a_swarm_of_slow_clients_costs_little_and_keeps_nobody_out(
    site: Site, kind: str
) -> None:
    await is_served(site)  # what one connection takes for good is there
    before = memory(site)
    tasks = await swarm(site, *FLOODS[kind])
    try:
        # As many as may connect have: an honest client may be refused until they are closed 4400.
        await eventually(lambda: is_let_in(site), 15)
        assert memory(site) - before < MANY * KIB_EACH
        if kind != "a handshake that does not end":  # which the server or a proxy has to end
            await eventually(lambda: all(task.done() for task in tasks), 20)
        await is_served(site)
        assert memory(site) - before < MANY * KIB_EACH
    finally:
        await end(tasks)


async def is_let_in(site: Site) -> bool:
    with suppress(Exception):
        await is_served(site)
        return True
    return False


async def test_a_frame_byte_by_byte_behind_the_welcome_is_no_sign_of_life(site: Site) -> None:
    then = frame(HELLO) + frame(b"{", whole=60_000)
    loris = Loris(site, UPGRADE.format(path="/echo/").encode(), then, b"x" * 600)
    async with asyncio.timeout(15):
        await loris.run()
    assert b'"welcome"' in loris.answer
    assert (4102).to_bytes(2) in loris.answer


async def test_a_plain_client_that_sends_faster_than_it_is_handled_waits(site: Site) -> None:
    """Its socket is not read: what it may send is what the kernel takes."""
    await is_served(site)
    before = memory(site)
    async with Raw(site.ws("/paced/"), plain=True) as raw:
        sent = 0
        text = '"' + "x" * 60_000 + '"'

        async def flood() -> None:
            nonlocal sent
            while sent < 100 * 1024 * 1024:
                await raw.ws.send(text)
                sent += len(text)

        with suppress(TimeoutError):
            async with asyncio.timeout(4):
                await flood()
        assert sent < 40 * 1024 * 1024
        await is_served(site)
        assert memory(site) - before < 40 * 1024
        assert raw.is_open
        handled = len(raw.messages)
        await eventually(lambda: len(raw.messages) > handled + 20, 15)


async def test_what_comes_before_a_handshake_is_answered_is_not_gathered(site: Site) -> None:
    await is_served(site)
    before = memory(site)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        writer.write(UPGRADE.format(path="/slow/").encode())
        await asyncio.sleep(0.2)  # what comes with the request itself is lost
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(3):
                for _ in range(1024):
                    writer.write(frame(b"x" * 60_000))
                    await writer.drain()
        assert memory(site) - before < 20 * 1024
    finally:
        writer.transport.abort()
        del reader
