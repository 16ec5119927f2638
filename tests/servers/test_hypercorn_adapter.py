"""hypercorn: the contract of an adapted server, in one process and in workers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.servers.contract import AdapterContract, Launch, Server, launcher, peer
from tests.support.processes import ROOT, free_port
from tests.support.waiting import eventually

pytest.importorskip("hypercorn")

LOOPS = ["asyncio"]
if importlib.util.find_spec("uvloop") is not None:
    LOOPS.append("uvloop")


OBEDIENT = "tests.servers.apps:application"
LEAVING = "tests.servers.hypercorn_apps:leaving"
BEHIND_A_PROXY = "tests.servers.hypercorn_apps:behind_a_proxy"


def hypercorn(*options: str, application: str = OBEDIENT) -> list[str]:
    return ["-m", "hypercorn", *options, application, "--bind"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts a server with options of its own."""
    command: list[str] = []

    with launcher(lambda port: [*command, f"127.0.0.1:{port}"], tmp_path) as launch:

        def start(*options: str, application: str = OBEDIENT) -> Server:
            command[:] = hypercorn(*options, application=application)
            return launch()

        yield start


@pytest.fixture(scope="module", params=LOOPS)
def launch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    def command(port: int) -> Sequence[str]:
        return [*hypercorn("-w", "0", "-k", request.param), f"127.0.0.1:{port}"]

    with launcher(command, tmp_path_factory.mktemp("hypercorn")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestHypercorn(AdapterContract):
    name = "hypercorn"

    async def test_dropping_and_the_code_work_under_a_middleware_that_wraps_send(
        self, launch: Launch
    ) -> None:
        server = launch(GRACEFUL_TEST_WRAP_SEND="1")
        async with server.client() as operator, server.client("/ends") as observer:
            async with server.client("/dropped") as dropped:
                await operator.order(drop="/dropped")
                assert await dropped.end() == (1006, "")
            await observer.expect(path="/dropped", code=1006, reason="")

    @pytest.mark.parametrize(
        ("first", "payload", "masked", "code"),
        [(0x81, b"\xff", True, 1007), (0x81, b"x", False, 1002), (0xC1, b"x", True, 1002)],
        ids=["no UTF-8", "no mask", "a reserved bit"],
    )
    async def test_frame_against_the_protocol_is_answered_with_its_close_code(
        self, server: Server, first: int, payload: bytes, masked: bool, code: int
    ) -> None:
        async with server.client("/ends") as observer:
            async with peer(server, "/broken") as broken:
                broken.send_frame(first, payload, masked=masked)
                assert await broken.close_codes() == [code]
            end = await observer.receive()
            assert (end["path"], end["code"]) == ("/broken", code)


async def test_connection_ends_although_messages_wait_for_an_application_that_has_returned(
    start: Any,
) -> None:
    server = start("-w", "0", "--graceful-timeout", "60", application=LEAVING)
    async with peer(server) as talkative:
        for _ in range(100):
            talkative.send_frame(0x81, b"more")
        assert await talkative.close_codes() == [1011]
    server.child.signal(signal.SIGTERM)  # a stop waits for what still runs
    assert server.exit_status() == 0, server.child.log_tail()


async def test_connection_can_be_dropped_under_a_middleware_that_copies_the_scope(
    start: Any,
) -> None:
    server = start("-w", "0", application=BEHIND_A_PROXY)
    async with server.client() as operator, server.client("/dropped") as dropped:
        await operator.order(drop="/dropped")
        assert await dropped.end() == (1006, "")


# --- stopping ---------------------------------------------------------------------------------


def group_exists(server: Server) -> bool:
    try:
        os.killpg(server.child.pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_nothing_is_waited_for_when_the_drain_has_closed_everything(start: Any) -> None:
    options = ("--graceful-timeout", "60", "--websocket-ping-interval", "60")
    server = start("-w", "0", *options)
    async with server.client() as client, peer(server) as silent:
        server.child.signal(signal.SIGTERM)
        await client.expect(draining="hypercorn")
        assert await client.end() == (1012, "restart")
        assert await silent.close_codes() == [1012]
    assert server.exit_status() == 0, server.child.log_tail()


async def test_hurrying_the_drain_does_not_wait_for_http_either(start: Any) -> None:
    server = start("-w", "0", "--graceful-timeout", "60")
    _, request = await asyncio.open_connection("127.0.0.1", server.port)
    request.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with server.client() as client:
        await client.order(work=None)
        await client.expect(working=True)
        server.child.signal(signal.SIGTERM)
        await client.expect(draining="hypercorn")
        await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
        server.child.signal(signal.SIGTERM)
        assert await client.end() == (1012, "hurried")
    assert server.exit_status() == 0, server.child.log_tail()
    request.close()


@pytest.mark.parametrize("loop", LOOPS)
async def test_request_that_does_not_end_is_waited_for_as_long_as_hypercorn_is_told_to(
    start: Any, loop: str
) -> None:
    server = start("-w", "0", "-k", loop, "--graceful-timeout", "1")
    _, request = await asyncio.open_connection("127.0.0.1", server.port)
    request.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with server.client() as client:
        server.child.signal(signal.SIGTERM)
        assert await client.end() == (1012, "restart")
    assert server.exit_status() == 0, server.child.log_tail()
    request.close()


def test_server_that_stops_leaves_another_one_of_its_process_alone() -> None:
    command = [sys.executable, "-m", "tests.servers.hypercorn_twice"]
    ports = [str(free_port()), str(free_port())]
    done = subprocess.run(
        [*command, *ports], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.stdout.split() == ["served", "served"], done.stderr


@pytest.mark.parametrize(("workers", "loop"), [("1", LOOPS[0]), ("2", LOOPS[-1])])
async def test_workers_drain_and_end_when_their_parent_is_killed(
    start: Any, workers: str, loop: str
) -> None:
    server = start("-w", workers, "-k", loop)
    async with server.client() as client:
        await client.order(work=None)
        await client.expect(working=True)
        server.child.signal(signal.SIGKILL)
        server.child.wait()
        await client.expect(draining="hypercorn")
        await client.order(finish=None)
        await client.expect(done=True)
        assert await client.end() == (1012, "restart")
    await eventually(lambda: not group_exists(server), 8, "no process is left")


async def test_sigterm_to_a_worker_drains_it_and_its_parent_starts_another(start: Any) -> None:
    server = start("-w", "1")
    async with server.client() as client:
        await client.order(echo="hello")
        await client.expect(echo="hello")
        (worker,) = [pid for pid in children(server.child.pid) if serves(pid)]
        os.kill(worker, signal.SIGTERM)
        await client.expect(draining="hypercorn")
        assert await client.end() == (1012, "restart")
    await eventually(lambda: not Path(f"/proc/{worker}").exists(), 8)
    async with server.client() as client:
        await client.order(echo="and again")
        await client.expect(echo="and again")


async def test_worker_that_has_had_its_requests_drains_and_is_replaced(start: Any) -> None:
    server = start("-w", "1", "--max-requests", "2")
    async with server.client() as first, server.client() as second:
        await first.order(work=None)
        await first.expect(working=True)
        async with server.client() as third:
            for client in (second, third):
                await client.expect(draining="hypercorn")
                assert await client.end() == (1012, "restart")
        await first.expect(draining="hypercorn")
        await first.order(finish=None)
        await first.expect(done=True)
        assert await first.end() == (1012, "restart")
    async with server.client() as client:
        await client.order(echo="again")
        await client.expect(echo="again")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serves(pid: int) -> bool:
    """Whether it is a worker: the other child is the resource tracker of multiprocessing."""
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


# --- what is missing --------------------------------------------------------------------------


def test_what_is_not_as_expected_is_reported_and_the_rest_is_adapted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hypercorn.asyncio import run
    from hypercorn.protocol import h2, h11, ws_stream

    from graceful_ws.servers import hypercorn
    from graceful_ws.servers.signals import Stop

    stream, event = ws_stream.WSStream, "check_multiprocess_shutdown_event"
    for module in (h11, h2):
        monkeypatch.setattr(module, "WSStream", stream)
    monkeypatch.setattr(run, "raise_shutdown", None)
    missing = hypercorn.install(Stop())
    assert list(missing) == ["hypercorn.asyncio.run.raise_shutdown"]
    assert h11.WSStream is not stream

    for module in (h11, h2):
        monkeypatch.setattr(module, "WSStream", stream)
    monkeypatch.setattr(stream, "_handle_events", None)
    monkeypatch.delattr(run, event)
    missing = hypercorn.install(Stop())
    assert list(missing) == [
        "hypercorn.asyncio.run.raise_shutdown",
        f"hypercorn.asyncio.run.{event}",
        "hypercorn.protocol.ws_stream.WSStream",
    ]
    assert h11.WSStream is stream

    monkeypatch.setattr(hypercorn, "streams", None)
    assert "hypercorn.protocol.ws_stream.WSStream" in hypercorn.install(Stop())
    hypercorn.set_close_timeout(1)  # harmless
