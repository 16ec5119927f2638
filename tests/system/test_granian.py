"""granian: its workers drain before its runtime cuts them, whoever is told to stop, and how."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw, again
from tests.support.robot import robots
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite
from tests.system.test_workers import (
    group_exists,
    more,
    one_in_each_worker,
    send_numbers,
    settle,
    to_group,
    to_parent,
)

SETTINGS = {"drain_window": 1.0}
RESTARTS = (1012, "the server restarts")
UP = "SELECT pid FROM graceful_ws_node WHERE name = 'node-1' AND state = 'up'"
MODES = {
    "default": (),
    "asgi-asyncio-st": ("--interface", "asgi", "--loop", "asyncio", "--runtime-mode", "st"),
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tell", [to_parent, to_group])
async def test_sigterm_drains_every_worker_and_loses_and_doubles_nothing(
    make_site: MakeSite,
    book: LedgerBook,
    tell: Callable[[ServerProcess, signal.Signals], None],
    workers: int,
    mode: str,
) -> None:
    arguments = ("--workers", str(workers), *MODES[mode])
    site = make_site(
        server="granian", arguments=arguments, nodes=2, env=book.env, settings=SETTINGS
    )
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with AsyncExitStack() as stack, robots(6, urls) as found:
        loads = [asyncio.create_task(send_numbers(robot)) for robot in found]
        await more(found)
        clients = await one_in_each_worker(site, workers, stack)
        busy = clients[0]
        # One worker is done long before the other.
        await busy.message({"sleep": 2.0, "result": "finished"})
        await busy.message({"result": "not begun"})
        plain = await stack.enter_async_context(Raw(site.ws("/echo/"), plain=True))
        await plain.send("served")
        await plain.expect("message", data="served")
        tell(site.node, signal.SIGTERM)
        for raw in clients:
            assert (await raw.expect("drain"))["reason"] == "the server restarts"
        assert (await busy.expect("ack", seq=1))["results"] == {"1": "finished"}
        for raw in [*clients, plain]:
            assert await raw.closed() == RESTARTS
        assert await site.node.await_exit(15) == 0
        await eventually(lambda: not group_exists(site.node.pid), 5, "no process is left")
        await eventually(lambda: all(robot.connected for robot in found), 20)
        await more(found)
        closed = [robot for robot in found if robot.closes]
        await settle(found, loads)
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot)
            await robot.bye()
    assert closed, "nobody was on the node that stopped"
    assert set().union(*(robot.closes for robot in closed)) == {1012}
    assert set().union(*(robot.reasons for robot in closed)) == {"the server restarts"}
    assert all(robot.resumed >= 1 and robot.drains for robot in closed)
    query = "SELECT DISTINCT state FROM graceful_ws_node WHERE name = 'node-1'"
    assert site.sql(query) == [("stopped",)]
    assert "Traceback" not in site.node.log(), site.node.log_tail()


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_replaces_the_workers_and_loses_and_doubles_nothing(
    make_site: MakeSite, book: LedgerBook, workers: int
) -> None:
    arguments = ("--workers", str(workers), "--respawn-interval", "1")
    site = make_site(server="granian", arguments=arguments, env=book.env, settings=SETTINGS)
    async with AsyncExitStack() as stack, robots(4, [site.ws("/ledger/")]) as found:
        loads = [asyncio.create_task(send_numbers(robot)) for robot in found]
        await more(found)
        clients = await one_in_each_worker(site, workers, stack)
        before = set(site.sql(UP))
        site.node.signal(signal.SIGHUP)
        for raw in clients:
            assert await raw.closed(30) == RESTARTS
        await eventually(lambda: before.isdisjoint(site.sql(UP)), 30, "the old ones are gone")
        await eventually(lambda: all(robot.closes and robot.connected for robot in found), 20)
        await more(found)
        await settle(found, loads)
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot)
            await robot.bye()
        site.node.terminate()
        assert await site.node.await_exit(15) == 0
    assert set().union(*(robot.closes for robot in found)) == {1012}
    assert not group_exists(site.node.pid)


async def test_ctrl_c_drains_two_workers_and_the_parent_exits_with_0(make_site: MakeSite) -> None:
    site = make_site(server="granian", arguments=("--workers", "2"), settings=SETTINGS)
    async with AsyncExitStack() as stack:
        clients = await one_in_each_worker(site, 2, stack)
        to_group(site.node, signal.SIGINT)
        for raw in clients:
            assert await raw.closed() == RESTARTS
        assert await site.node.await_exit(15) == 0
    assert not group_exists(site.node.pid)


async def test_workers_of_a_killed_parent_serve_on_and_drain_when_they_are_told(
    make_site: MakeSite,
) -> None:
    """granian's workers do not look after their parent: whoever kills one has to find them."""
    site = make_site(server="granian", settings=SETTINGS)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("one")
        site.node.signal(signal.SIGKILL)
        assert await site.node.await_exit() == -signal.SIGKILL
        await raw.ask("two")
        [(worker,)] = site.sql(UP)
        os.kill(worker, signal.SIGTERM)
        assert await raw.closed() == RESTARTS
        await eventually(lambda: not group_exists(site.node.pid), 10, "the worker is gone")
    await asyncio.to_thread(site.node.start)
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=2))["resumed"]
        await later.bye()
