"""granian: the contract of an adapted server, with its event loops and kinds of runtime."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
from tests.support.processes import ChildProcess, free_port
from tests.support.waiting import eventually

pytest.importorskip("granian")

# The signals of the contract go to the parent, as a supervisor sends them, or to the whole process
# group, as a terminal and systemd's default do.
MODES = {
    "parent": ("asginl", "--loop", "asyncio", "--runtime-mode", "mt"),
    "group": ("asgi", "--loop", "uvloop", "--runtime-mode", "st"),
}


def granian(interface: str, *options: str) -> list[str]:
    target = "tests.servers.apps:application"
    return ["-m", "granian", "--interface", interface, *options, target, "--port"]


def signals_go_to_the_group(server: Server) -> None:
    def signal_group(number: signal.Signals) -> None:
        os.killpg(server.child.pid, number)

    server.child.signal = signal_group  # type: ignore[method-assign]


def workers(server: Server) -> list[int]:
    children = Path(f"/proc/{server.child.pid}/task/{server.child.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


@pytest.fixture(scope="module", params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def launch(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    def command(port: int) -> Sequence[str]:
        return [*granian(*MODES[mode]), str(port)]

    with launcher(command, tmp_path_factory.mktemp("granian")) as launch:

        def launch_mode(**environment: str) -> Server:
            server = launch(**environment)
            if mode == "group":
                signals_go_to_the_group(server)
            return server

        yield launch_mode


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestGranian(AdapterContract):
    name = "granian"

    async def test_application_learns_code_and_reason_of_the_clients_close(
        self, server: Server
    ) -> None:
        """The code only: granian keeps the reason to itself."""
        async with server.client("/ends") as observer:
            async with server.client("/says-why") as client:
                await client.connection.close(4000, "page hidden, 😀")
            await observer.expect(path="/says-why", code=4000, reason="")

    async def test_accept_sends_headers_and_subprotocol(self, server: Server) -> None:
        """The subprotocol only: granian ignores the headers."""
        async with server.client("/headers", subprotocols=["first", "second"]) as client:
            assert client.connection.subprotocol == "second"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_second_signal_after_a_second_closes_at_once(
        self, launch: Launch, number: signal.Signals, mode: str
    ) -> None:
        if mode == "parent":
            pytest.skip("granian's parent passes the first signal on, and no other")
        await super().test_a_second_signal_after_a_second_closes_at_once(launch, number)

    async def test_signals_within_a_second_count_once(self, launch: Launch) -> None:
        """To the worker: the parent itself may hang when it is told twice within a millisecond."""
        server = launch()
        [worker] = workers(server)
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            server.child.signal(signal.SIGTERM)
            await client.expect(draining="granian")
            for number in (signal.SIGINT, signal.SIGTERM) * 3:
                os.kill(worker, number)
                await client.round_trip()  # the kernel merges signals that still wait
            await client.order(finish=None)
            await client.expect(done=True)
            assert await client.end() == (1012, "restart")
        assert server.exit_status() == 0, server.child.log_tail()

    async def test_application_receives_its_own_close_with_code_and_reason(
        self, server: Server
    ) -> None:
        async with server.client("/ends") as observer:
            async with server.client("/closes") as client:
                await client.order(close={"code": 4501, "reason": "not now"})
                assert await client.end() == (4501, "not now")
            await observer.expect(path="/closes", code=4501, reason="not now")

    @pytest.mark.parametrize(
        ("first", "payload", "masked"),
        [(0x81, b"\xff\xfe", True), (0x81, b"{}", False), (0xC1, b"{}", True)],
        ids=["not UTF-8", "not masked", "reserved bit"],
    )
    async def test_bytes_that_are_no_websocket_are_closed_1002(
        self, server: Server, first: int, payload: bytes, masked: bool
    ) -> None:
        async with server.client("/ends") as observer:
            async with peer(server, "/babbles") as silent:
                silent.send_frame(first, payload, masked=masked)
                assert await silent.close_codes() == [1002]
            await observer.expect(path="/babbles", code=1005, reason="")

    async def test_whom_it_refused_it_does_not_keep_for_another_request(
        self, server: Server
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET /refuse HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        )
        async with asyncio.timeout(WITHIN):
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()

    async def test_what_a_client_sends_behind_the_close_is_not_answered_with_a_reset(
        self, server: Server
    ) -> None:
        async with peer(server, "/sends-on") as sender:
            sender.send_frame(0x81, b'{"close": {"code": 4501}}')
            for _ in range(50):
                sender.send_frame(0x81, b'{"echo": "on its way"}')
            assert await sender.close_codes() == [4501]
            for _ in range(3):  # a reset would come in answer to the first
                sender.send_frame(0x81, b'{"echo": "sent later"}')
                await sender.writer.drain()
                await asyncio.sleep(0.05)
            assert not sender.writer.transport.is_closing()


@pytest.fixture
def launch_default(tmp_path: Path) -> Iterator[Launch]:
    with launcher(lambda port: [*granian("asgi"), str(port)], tmp_path) as launch:
        yield launch


async def test_a_send_that_waits_for_a_dropped_peer_raises_and_nobody_else_notices(
    launch_default: Launch,
) -> None:
    server = launch_default()
    async with server.client() as operator, server.client() as other:
        for n in range(3):
            async with peer(server, f"/stuck-{n}") as deaf, server.client("/ends") as observer:
                deaf.writer.transport.pause_reading()
                deaf.send_frame(0x81, b'{"flood": null}')
                deaf.send_frame(0x81, b'{"flood": null}')  # a second send behind the first
                await until_server_is_stuck(deaf)
                await operator.order(drop=f"/stuck-{n}")
                await observer.expect(path=f"/stuck-{n}", code=1006, reason="")
        await other.order(echo="fine")
        await other.expect(echo="fine")
        server.child.signal(signal.SIGTERM)
    assert server.exit_status() == 0, server.child.log_tail()
    for complaint in ("Traceback", "does not let go"):
        assert complaint not in server.child.log(), server.child.log_tail()


async def endless_request(server: Server) -> asyncio.StreamWriter:
    """An HTTP request that granian would wait for."""
    _, request = await asyncio.open_connection("127.0.0.1", server.port)
    request.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return request


async def test_hurrying_the_drain_does_not_wait_for_http_either(launch_default: Launch) -> None:
    server = launch_default()
    signals_go_to_the_group(server)
    request = await endless_request(server)
    async with server.client() as client:
        await client.order(work=None)
        await client.expect(working=True)
        server.child.signal(signal.SIGTERM)
        await client.expect(draining="granian")
        await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
        server.child.signal(signal.SIGTERM)
        assert await client.end() == (1012, "hurried")
        assert server.exit_status() == 0, server.child.log_tail()
    request.close()


async def test_a_second_signal_after_the_drain_does_not_wait_for_http_either(
    launch_default: Launch,
) -> None:
    server = launch_default()
    signals_go_to_the_group(server)
    request = await endless_request(server)
    async with server.client():
        server.child.signal(signal.SIGTERM)
    await eventually(lambda: "Stopping worker" in server.child.log())
    await asyncio.sleep(1.1)  # what counts as a second signal is a matter of time
    assert server.child.running
    for _ in range(4):  # more than granian's own signal would take
        server.child.signal(signal.SIGTERM)
        await asyncio.sleep(0.01)
    assert server.exit_status() == 0, server.child.log_tail()
    request.close()


SLOW_STARTS = {
    "import": "start()",
    "lifespan startup": """
from tests.servers.apps import application as fast

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        start()
    await fast(scope, receive, send)
""",
    "behind it": """
import granian.server.mp as workers

worker_type = workers.ASGIWorker
def slow(*args):
    start()
    return worker_type(*args)
workers.ASGIWorker = slow
""",
    "serving": """
import granian.server.mp as workers

scheduler = workers._new_cbscheduler
def slow(loop, *args, **kwargs):
    loop.call_soon(start)
    return scheduler(loop, *args, **kwargs)
workers._new_cbscheduler = slow
""",
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("slow", SLOW_STARTS)
async def test_worker_that_is_told_to_stop_while_it_starts_stops(
    tmp_path: Path, slow: str, loop: str
) -> None:
    started = tmp_path / "started"
    (tmp_path / "slow_site.py").write_text(
        "import time\nfrom pathlib import Path\nfrom tests.servers.apps import application\n"
        f"def start():\n    Path({str(started)!r}).touch()\n    time.sleep(1.0)\n"
        + SLOW_STARTS[slow]
    )
    child = ChildProcess("granian", tmp_path / "log")
    child.spawn(
        [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--loop", loop),
            *("--port", str(free_port()), "--working-dir", str(tmp_path), "slow_site:application"),
        ],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    try:
        await eventually(started.exists, WITHIN)
        child.signal(signal.SIGTERM)
        assert child.wait(WITHIN) == 0, child.log_tail()
    finally:
        child.kill()


RUNTIMES = [
    ("asgi", "asyncio", "asyncio", "st"),
    ("asgi", "uvloop", "asyncio", "mt"),
    ("asginl", "asyncio", "rust", "mt"),
    ("asginl", "uvloop", "rust", "st"),
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("interface", "loop", "tasks", "runtime"), RUNTIMES)
async def test_every_worker_drains_and_the_parent_exits_with_0(
    tmp_path: Path, interface: str, loop: str, tasks: str, runtime: str, workers: int
) -> None:
    if tasks == "rust" and sys.version_info >= (3, 12):
        pytest.skip("granian has --task-impl rust for Python 3.11 only")
    options = ("--loop", loop, "--task-impl", tasks, "--runtime-mode", runtime)

    def command(port: int) -> Sequence[str]:
        return [*granian(interface, *options, "--workers", str(workers)), str(port)]

    with launcher(command, tmp_path) as launch:
        server = launch()
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            server.child.signal(signal.SIGTERM)
            await client.expect(draining="granian")
            await client.order(finish=None)
            await client.expect(done=True)
            assert await client.end() == (1012, "restart")
        assert server.exit_status() == 0, server.child.log_tail()
        assert "Traceback" not in server.child.log(), server.child.log_tail()


async def test_a_worker_that_is_replaced_drains_and_the_new_one_serves(tmp_path: Path) -> None:
    def command(port: int) -> Sequence[str]:
        return [*granian("asginl", "--respawn-interval", "0.5"), str(port)]

    with launcher(command, tmp_path) as launch:
        server = launch()
        async with server.client() as client:
            await client.order(work=None)
            await client.expect(working=True)
            server.child.signal(signal.SIGHUP)
            await client.expect(draining="granian")
            await client.order(finish=None)
            await client.expect(done=True)
            assert await client.end() == (1012, "restart")
        await eventually(lambda: "Stopped old worker" in server.child.log(), WITHIN)
        async with server.client() as client:
            await client.order(echo="new")
            await client.expect(echo="new")
            server.child.signal(signal.SIGTERM)
            assert json.loads(await client.connection.recv()) == {"draining": "granian"}
        assert server.exit_status() == 0, server.child.log_tail()


def test_what_granian_lacks_is_reported_and_the_rest_is_adapted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from granian import _signals
    from granian.server import mp

    from graceful_ws.servers import granian as adapter
    from graceful_ws.servers.signals import Stop

    def known(*args: Any) -> Any:
        return args

    monkeypatch.setattr(mp, "_asgi_call_wrap", known)
    monkeypatch.delattr(_signals, "set_loop_signals")
    assert list(adapter.install(Stop())) == ["granian._signals.set_loop_signals"]
    assert mp._asgi_call_wrap is not known
    monkeypatch.setattr(_signals, "set_loop_signals", known, raising=False)
    monkeypatch.delattr(mp, "_asgi_call_wrap")
    assert list(adapter.install(Stop())) == ["granian.server.mp._asgi_call_wrap"]
    assert _signals.set_loop_signals is not known


async def test_connections_have_a_socket_each_although_granian_gives_all_the_same_extensions() -> (
    None
):
    from graceful_ws.servers import EXTENSION
    from graceful_ws.servers import granian as adapter

    common: dict[str, Any] = {"websocket.http.response": {}}
    sockets = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert "websocket.http.response" in scope["extensions"]
        sockets.append(scope["extensions"][EXTENSION]["socket"])

    for _ in range(2):
        scope = {"type": "websocket", "extensions": common}
        await adapter._outermost(application)(scope, None, None)
    assert sockets[0] is not sockets[1]
    assert list(common) == ["websocket.http.response"]
