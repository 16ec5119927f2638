"""uvicorn: the contract of an adapted server with each WebSocket implementation it offers."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.servers.contract import (
    WITHIN,
    AdapterContract,
    Launch,
    Server,
    launcher,
    peer,
    until_server_is_stuck,
)
from tests.support.waiting import eventually

pytest.importorskip("uvicorn")

# With uvloop, where it is installed, and with asyncio's own loop.
IMPLEMENTATIONS = [("websockets-sansio", "auto"), ("websockets", "asyncio")]
if importlib.util.find_spec("wsproto") is not None:
    IMPLEMENTATIONS.append(("wsproto", "asyncio"))

# A program of its own: uvicorn is imported after the first install(), and is not all that runs.
BESIDE_OTHER_WORK = """
import asyncio, sys
from graceful_ws import servers
from tests.servers import apps
import uvicorn
servers.install(apps.drain, apps.hurried.set)

async def main():
    server = uvicorn.Server(uvicorn.Config(apps.application, port=int(sys.argv[1])))
    await asyncio.gather(server.serve(), asyncio.sleep(60))

asyncio.run(main())
"""


def uvicorn(*options: str) -> list[str]:
    return ["-m", "uvicorn", *options, "tests.servers.apps:application", "--port"]


@pytest.fixture(scope="module", params=IMPLEMENTATIONS, ids=lambda param: param[0])
def launch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    implementation, loop = request.param

    def command(port: int) -> Sequence[str]:
        return [*uvicorn("--ws", implementation, "--loop", loop), str(port)]

    with launcher(command, tmp_path_factory.mktemp("uvicorn")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestUvicorn(AdapterContract):
    name = "uvicorn"

    async def test_dropping_works_under_a_middleware_that_wraps_send(self, launch: Launch) -> None:
        server = launch(GRACEFUL_TEST_WRAP_SEND="1")
        async with server.client() as operator, peer(server, "/does-not-read") as deaf:
            deaf.writer.transport.pause_reading()
            deaf.send_frame(0x81, b'{"flood": null}')
            await until_server_is_stuck(deaf)
            async with server.client("/ends") as observer:
                await operator.order(drop="/does-not-read")
                assert (await observer.receive())["path"] == "/does-not-read"


@pytest.fixture
def launch_default(tmp_path: Path) -> Iterator[Launch]:
    with launcher(lambda port: [*uvicorn(), str(port)], tmp_path) as launch:
        yield launch


@pytest.fixture
async def endless_request(launch_default: Launch) -> AsyncIterator[Server]:
    """A server with an HTTP request that it would wait for."""
    server = launch_default()
    _, request = await asyncio.open_connection("127.0.0.1", server.port)
    request.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    yield server
    request.close()


async def test_hurrying_the_drain_does_not_wait_for_http_either(endless_request: Server) -> None:
    server = endless_request
    async with server.client() as client:
        await client.order(work=None)
        await client.expect(working=True)
        server.child.signal(signal.SIGTERM)
        await client.expect(draining="uvicorn")
        await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
        server.child.signal(signal.SIGTERM)
        assert await client.end() == (1012, "hurried")
        assert server.exit_status() == 0, server.child.log_tail()


async def test_a_second_signal_after_the_drain_does_not_wait_for_http_either(
    endless_request: Server,
) -> None:
    server = endless_request
    async with server.client():
        server.child.signal(signal.SIGTERM)
    await eventually(lambda: "Waiting for connections to close" in server.child.log())
    await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
    server.child.signal(signal.SIGTERM)
    assert server.exit_status() == 0, server.child.log_tail()


def test_every_worker_drains_and_the_parent_exits_with_0(tmp_path: Path) -> None:
    def command(port: int) -> Sequence[str]:
        return [*uvicorn("--workers", "2"), str(port)]

    async def talk(server: Server) -> None:
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            server.child.signal(signal.SIGTERM)
            await client.expect(draining="uvicorn")
            await client.order(finish=None)
            await client.expect(done=True)
            assert await client.end() == (1012, "restart")

    with launcher(command, tmp_path) as launch:
        server = launch()
        asyncio.run(talk(server))
        assert server.exit_status() == 0, server.child.log_tail()


async def test_a_program_that_does_more_than_serve_still_gets_its_signal(tmp_path: Path) -> None:
    def command(port: int) -> Sequence[str]:
        return ["-c", BESIDE_OTHER_WORK, str(port)]

    with launcher(command, tmp_path) as launch:
        server = launch()
        async with server.client() as client:
            await client.order(echo="hello")
            await client.expect(echo="hello")
            server.child.signal(signal.SIGTERM)
            await client.expect(draining="uvicorn")
            assert await client.end() == (1012, "restart")
        assert server.child.wait(WITHIN) == -signal.SIGTERM
