"""``manage.py drain_connections`` on real nodes with real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.processes import ROOT
from tests.support.servers import Site
from tests.support.waiting import eventually, eventually_sync

QUICK = {"beat_interval": 0.1, "round_interval": 0.2}
SLOWLY = ("--rate=2", "--window=2", "--timeout=8")  # clients go one by one, so that it can be seen


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(settings=QUICK)


@asynccontextmanager
async def clients(site: Site, count: int, path: str = "/echo/") -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(site.ws(path), open_timeout=20))
            for _ in range(count)
        ]


async def answered(client: ClientConnection) -> None:
    await client.send('"here?"')
    assert await asyncio.wait_for(client.recv(), 10) == '"here?"'


async def close_code(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        while True:
            await asyncio.wait_for(client.recv(), 10)
    return client.close_code


async def test_a_real_node_drains_comes_back_and_drains_again(site: Site) -> None:
    async with clients(site, 5) as sockets:
        for client in sockets:
            await answered(client)
        done = await site.adjango("drain_connections", *SLOWLY)
        assert re.search(r"^node-1 drained, 5 connections in \d+\.\d s$", done.stdout, re.M)
        assert re.search(r"^node-1 (notifying|settling|closing) \d/5 left$", done.stdout, re.M)
        assert [await close_code(client) for client in sockets] == [1012] * 5
    assert site.node.running
    with pytest.raises(Exception, match="503"):
        async with connect(site.ws("/echo/"), open_timeout=10):
            pass

    done = await site.adjango("drain_connections", "--undo")
    assert done.stdout == "node-1 up again\n"
    async with clients(site, 1) as (client,):
        await answered(client)
        done = await site.adjango("drain_connections", "--json", "--window=0", "--timeout=8")
        answer = json.loads(done.stdout)
        assert answer["done"] is True
        (node,) = answer["nodes"]
        assert (node["name"], node["state"], node["outcome"]) == ("node-1", "drained", "done")
        assert (node["total"], node["remaining"], node["left_sessions"]) == (1, 0, [])


async def test_a_handler_that_outlives_the_deadline_is_named(site: Site) -> None:
    async with clients(site, 2) as (idle, busy):
        await answered(idle)
        await answered(busy)
        await busy.send('{"sleep": 60}')
        done = await site.adjango("drain_connections", "--window=0.2", "--timeout=4", check=False)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if "CommandError" in line]
        found = re.search(r"node-1 dropped 1 busy connection at the deadline \(([\w-]+)\)", line)
        assert found is not None, line
        sessions = {value for (value,) in site.sql("SELECT uuid FROM graceful_ws_session")}
        assert found[1].replace("-", "") in sessions
        assert await close_code(idle) == 1012
        again = await site.adjango("drain_connections", "--json", check=False)
        (node,) = json.loads(again.stdout)["nodes"]
        assert (again.returncode, node["outcome"], node["left_sessions"]) == (1, "busy", [found[1]])


async def test_two_nodes_and_an_unknown_one(make_site: Callable[..., Site]) -> None:
    site = make_site(settings=QUICK, nodes=2)
    first, second = (node.ws("/echo/") for node in site.nodes)
    async with connect(first) as one, connect(second) as two:
        await answered(one)
        await answered(two)
        wrong = await site.adjango("drain_connections", "--node", "node-9", check=False)
        assert wrong.returncode == 1
        assert re.search(
            r"no node 'node-9', did you mean 'node-[12]'\? Live nodes: node-1, node-2\.$",
            wrong.stderr.strip(),
        )
        await site.adjango("drain_connections", "--node=node-2", "--window=0", "--timeout=8")
        assert await close_code(two) == 1012
        await answered(one)  # nobody asked its node


async def test_a_node_killed_while_it_drains_is_named(make_site: Callable[..., Site]) -> None:
    site = make_site(settings={**QUICK, "dead_after": 1.0})
    async with clients(site, 1) as (client,):
        await answered(client)
        asking = asyncio.create_task(
            site.adjango("drain_connections", "--window=6", "--timeout=20", check=False)
        )
        states = "SELECT state FROM graceful_ws_node"
        await eventually(lambda: site.sql(states) == [("draining",)], 15)
        site.node.kill()
        done = await asking
    assert done.returncode == 1
    assert re.search(r"node-1 (fell silent|died) with 1 connection", done.stderr)


async def test_undo_does_not_hold_a_node_that_was_told_to_stop(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(settings={**QUICK, "drain_window": 8, "drain_deadline": 14, "drain_rate": 0.2})
    async with clients(site, 2) as sockets:
        for client in sockets:
            await answered(client)
        site.node.terminate()
        states = "SELECT state FROM graceful_ws_node"
        await eventually(lambda: site.sql(states) == [("draining",)], 10)
        done = await site.adjango("drain_connections", "--undo", check=False)
        assert done.returncode == 1
        assert "node-1 was told to stop: start it again." in done.stderr
        assert [await close_code(client) for client in sockets] == [1012] * 2
        assert await site.node.await_exit(20) == 0
        assert site.sql(states) == [("stopped",)]


def command(site: Site, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "django", "drain_connections", *arguments]
    environment = {**site.env, "TERM": "xterm"}  # which a CI may not have
    return subprocess.Popen(argv, env=environment, cwd=ROOT, text=True, **options)


async def test_ctrl_c_says_that_the_drain_goes_on(site: Site) -> None:
    async with clients(site, 1) as (client,):
        await answered(client)
        with command(site, *SLOWLY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
            states = "SELECT state FROM graceful_ws_node"
            await eventually(lambda: site.sql(states) == [("draining",)], 15)
            asking.send_signal(signal.SIGINT)
            _, said = await asyncio.to_thread(asking.communicate, timeout=15)
        assert asking.returncode == 130
        assert "The nodes do what they were asked all the same; --undo takes the drain" in said
        assert "Traceback" not in said
        assert await close_code(client) == 1012


async def test_a_terminal_gets_a_bar_that_is_redrawn(site: Site) -> None:
    async with clients(site, 5) as sockets:
        for client in sockets:
            await answered(client)
        with terminal() as (ours, theirs):
            asking = command(site, *SLOWLY, stdout=theirs, stderr=theirs, stdin=theirs)
            os.close(theirs)
            seen = await asyncio.to_thread(read_all, ours)
            assert asking.wait(15) == 0
    assert "\x1b[1F\x1b[J" in seen
    assert re.search(r"node-1  notifying [█░]{20} \d/5 left", seen)
    assert seen.rstrip().endswith("s")
    assert "node-1 drained, 5 connections in" in seen.replace("\r", "").splitlines()[-1]


class terminal:
    """A pseudo-terminal: our end, and that of the command."""

    def __enter__(self) -> tuple[int, int]:
        self._ours, theirs = pty.openpty()
        return self._ours, theirs

    def __exit__(self, *error: object) -> None:
        os.close(self._ours)


def read_all(end: int) -> str:
    seen = b""

    def look() -> bool:
        nonlocal seen
        try:
            data = os.read(end, 4096)
        except OSError:  # the command has ended, and with it the other end
            return True
        seen += data
        return not data

    eventually_sync(look, 30)
    return seen.decode()
