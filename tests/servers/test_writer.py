"""Frames that go past ``send`` to the transport: on which connections, and that all arrive."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import json
import shutil
import ssl
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.urls import path
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from graceful_ws import servers
from graceful_ws.servers import EXTENSION
from tests.conftest import missing
from tests.servers.contract import WITHIN, Server, launcher
from tests.servers.writer_app import numbered

SIZES = [1, 125, 126, 1000, 1100, 65535, 65536, 200_000, 3, 1_200_000, 7, 2000]
FLOOD = [64 * 1024] * 200  # 12.8 MiB: more than the kernel's buffers take
UNCOMPRESSED = 1000  # bytes


# --- which connections ------------------------------------------------------------------------


class Socket:
    """A server's end, for which ``sends`` is its own ``send``."""

    def __init__(self, sends: Any) -> None:
        self.sends = sends

    def write(self, frame: bytes) -> bool:
        return True

    def is_own(self, send: Any) -> bool:
        return bool(send == self.sends)


async def found_under(wrap: Any) -> Any:
    """What the application below ``wrap`` is given to write with."""
    found: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(servers.writer(scope, send))

    async def send(message: Any) -> None: ...

    socket = Socket(send)
    scope = {
        "type": "websocket",
        "path": "/ws/",
        "headers": [],
        "extensions": {EXTENSION: {"socket": socket}},
    }
    await wrap(application)(scope, None, send)
    (writer,) = found
    return writer == socket.write if writer is not None else None


def router(application: Any) -> Any:
    return URLRouter([path("ws/", application)])


def hidden_in_a_closure(application: Any) -> Any:
    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def see(message: Any) -> None:
            await send(message)

        await application(scope, receive, see)

    return middleware


def hidden_in_a_partial(application: Any) -> Any:
    async def see(send: Any, message: Any) -> None:
        await send(message)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, functools.partial(see, send))

    return middleware


def without_extensions(application: Any) -> Any:
    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "extensions": None}, receive, send)

    return middleware


async def test_channels_own_middleware_does_not_hide_the_servers_send() -> None:
    assert await found_under(lambda application: application)
    assert await found_under(router)
    assert await found_under(lambda application: AuthMiddlewareStack(router(application)))


@pytest.mark.parametrize("hidden", [hidden_in_a_closure, hidden_in_a_partial, without_extensions])
async def test_another_middleware_sees_all_messages_wherever_it_stands(hidden: Any) -> None:
    assert await found_under(hidden) is None
    assert await found_under(lambda app: AuthMiddlewareStack(hidden(router(app)))) is None
    assert await found_under(lambda app: hidden(AuthMiddlewareStack(router(app)))) is None


# --- on real servers --------------------------------------------------------------------------


APPLICATION = "tests.servers.writer_app:application"


def daphne(port: int, files: Path) -> Sequence[str]:
    return ["-m", "daphne", "-e", f"tcp:{port}:interface=127.0.0.1", APPLICATION]


def daphne_tls(port: int, files: Path) -> Sequence[str]:
    keys = f"privateKey={files / 'key.pem'}:certKey={files / 'cert.pem'}"
    return ["-m", "daphne", "-e", f"ssl:{port}:interface=127.0.0.1:{keys}", APPLICATION]


def uvicorn(port: int, files: Path, *options: str) -> Sequence[str]:
    return ["-m", "uvicorn", *options, "--port", str(port), APPLICATION]


def uvicorn_asyncio(port: int, files: Path) -> Sequence[str]:
    return uvicorn(port, files, "--ws", "websockets-sansio", "--loop", "asyncio")


def uvicorn_fastest(port: int, files: Path) -> Sequence[str]:
    return uvicorn(port, files, "--ws", "websockets-sansio")  # with uvloop, where there is one


def uvicorn_tls(port: int, files: Path) -> Sequence[str]:
    keys = ("--ssl-keyfile", str(files / "key.pem"), "--ssl-certfile", str(files / "cert.pem"))
    return uvicorn(port, files, "--ws", "websockets-sansio", *keys)


def uvicorn_legacy(port: int, files: Path) -> Sequence[str]:
    return uvicorn(port, files, "--ws", "websockets", "--loop", "asyncio")


def hypercorn(port: int, files: Path, *options: str) -> Sequence[str]:
    bind = f"127.0.0.1:{port}"
    return ["-m", "hypercorn", "-w", "0", *options, "--bind", bind, APPLICATION]


def hypercorn_tls(port: int, files: Path) -> Sequence[str]:
    keys = ("--keyfile", str(files / "key.pem"), "--certfile", str(files / "cert.pem"))
    return hypercorn(port, files, *keys)


COMMANDS = [
    *(daphne, daphne_tls, hypercorn, hypercorn_tls),
    *(uvicorn_asyncio, uvicorn_fastest, uvicorn_tls, uvicorn_legacy),
]


class Site:
    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.tls = name.endswith("_tls")
        self.writes = name != "uvicorn_legacy"
        self.compresses = not name.startswith("daphne")

    @asynccontextmanager
    async def client(self, path: str = "/", **options: Any) -> AsyncIterator[Client]:
        url = self.server.url(path)
        if self.tls:
            url = url.replace("ws:", "wss:")
            options["ssl"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with (
            asyncio.timeout(3 * WITHIN),
            connect(url, proxy=None, max_size=None, **options) as connection,
        ):
            yield Client(connection)


class Client:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def order(self, **order: Any) -> None:
        await self.connection.send(json.dumps(order))

    async def receives(self, sizes: list[int]) -> None:
        """All of a burst, in order and whole."""
        for number, size in enumerate(sizes):
            async with asyncio.timeout(WITHIN):
                message = await self.connection.recv()
            text = message if isinstance(message, str) else message.decode()
            assert text == numbered(number, size), f"{text[:20]}… for {number}"

    async def asks(self, name: str) -> Any:
        await self.order(**{name: None})
        async with asyncio.timeout(WITHIN):
            return json.loads(await self.connection.recv())

    async def closed(self) -> int | None:
        async with asyncio.timeout(WITHIN):
            with pytest.raises(ConnectionClosed):
                while True:
                    await self.connection.recv()
        return self.connection.close_code

    async def until_server_is_stuck(self) -> None:
        """Until the kernel's buffers are full of what nobody reads."""
        sock = self.connection.transport.get_extra_info("socket")
        waiting = -1
        async with asyncio.timeout(WITHIN):
            while True:
                unread = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
                if unread == waiting > 0:
                    return
                waiting = unread
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate."""
    if shutil.which("openssl") is None:
        missing("openssl")
    directory = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *names], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module", params=COMMANDS, ids=lambda command: command.__name__)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    command = request.param
    pytest.importorskip(command.__name__.partition("_")[0])
    where = request.getfixturevalue("files") if command.__name__.endswith("_tls") else Path()
    directory = tmp_path_factory.mktemp(command.__name__)
    with launcher(functools.partial(command, files=where), directory) as launch:
        yield Site(launch(), command.__name__)


@pytest.mark.parametrize("kind", ["burst", "binary"])
async def test_frames_of_all_sizes_arrive_whole_and_in_order(site: Site, kind: str) -> None:
    async with site.client(compression=None) as client:
        await client.order(**{kind: SIZES})
        await client.receives(SIZES)
        counts = await client.asks("counts")
        assert counts["written"] + counts["sent"] == len(SIZES)
        assert bool(counts["written"]) == site.writes


async def test_a_connection_under_channels_middleware_is_written_to(site: Site) -> None:
    small = [10, 20, 30]
    async with site.client("/auth/", compression=None) as client:
        await client.order(burst=small)
        await client.receives(small)
        counts = await client.asks("counts")
        assert counts == ({"written": 3, "sent": 0} if site.writes else {"written": 0, "sent": 3})


async def test_a_middleware_that_sees_messages_sees_all(site: Site) -> None:
    async with site.client("/seen/") as client:
        await client.order(burst=SIZES)
        await client.receives(SIZES)
        assert await client.asks("counts") == {
            "written": 0,
            "sent": len(SIZES),
            "seen": len(SIZES),
        }


async def test_what_is_compressed_and_what_is_not_arrive_in_one_order(site: Site) -> None:
    sizes = SIZES * 3
    async with site.client(compression="deflate") as client:
        if not site.compresses:
            assert not client.connection.protocol.extensions
            return
        assert client.connection.protocol.extensions
        await client.order(burst=sizes)
        await client.receives(sizes)
        counts = await client.asks("counts")
        assert counts["sent"] >= sum(size > UNCOMPRESSED + 100 for size in sizes)
        assert bool(counts["written"]) == site.writes


async def test_a_peer_that_does_not_read_for_a_while_loses_nothing(site: Site) -> None:
    async with site.client(compression=None, max_queue=1) as client:
        await client.order(burst=FLOOD)
        await client.until_server_is_stuck()
        await client.receives(FLOOD)
        counts = await client.asks("counts")
        assert counts["written"] + counts["sent"] == len(FLOOD)
        assert counts["sent"]  # so it had to wait
        # Afterwards it goes at once again.
        await client.order(burst=[10])
        await client.receives([10])
        again = await client.asks("counts")
        assert bool(again["written"] - counts["written"]) == site.writes


async def test_a_close_comes_behind_all_that_was_queued_before_it(site: Site) -> None:
    async with site.client(compression=None, max_queue=1) as client:
        await client.order(burst_and_close=FLOOD)
        await client.until_server_is_stuck()
        await client.receives(FLOOD)
        assert await client.closed() == 4102


async def test_nothing_is_written_after_a_close(site: Site) -> None:
    if not site.writes:
        return
    async with site.client() as client:
        await client.order(late=None)
        assert await client.closed() == 4102  # and nothing between, which would be no frame
    async with site.client() as client:
        late = {"after the close": False, "after the end": False}
        assert await client.asks("was_late") == late
