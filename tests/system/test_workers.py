"""Servers of several processes: what a signal to the first one, or to all of them, does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw
from tests.support.robot import Robot, robots
from tests.support.servers import ServerProcess, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

Server = tuple[str, tuple[str, ...], int]  # name, arguments, number of workers
ONE: list[Server] = [
    ("hypercorn", ("-w", "0"), 1),
    ("hypercorn", ("-w", "1"), 1),
    ("granian", ("--workers", "1"), 1),
]
GRANIANS_OTHER = ("--interface", "asgi", "--loop", "asyncio", "--runtime-mode", "st")
SEVERAL: list[Server] = [
    ("hypercorn", ("-w", "2"), 2),
    ("granian", ("--workers", "2", "--respawn-interval", "1", *GRANIANS_OTHER), 2),
    # Its parent gives a reload up when a new worker is not ready within 5 s, on a busy machine.
    ("uvicorn", ("--workers", "2", "--timeout-worker-healthcheck", "60"), 2),
    ("gunicorn", ("--workers", "2", "--graceful-timeout", "40"), 2),
]
SETTINGS = {"drain_window": 1.0}
NODES = "SELECT count(*) FROM graceful_ws_node WHERE name = 'node-1' AND state = 'up'"


def named(server: Server) -> str:
    return "-".join((server[0], server[1][1]))


def to_parent(process: ServerProcess, number: signal.Signals) -> None:
    process.signal(number)


def to_group(process: ServerProcess, number: signal.Signals) -> None:
    """As a terminal does for Ctrl-C, and systemd with its own KillMode."""
    os.killpg(process.pid, number)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def one_in_each_worker(site: Site, workers: int, stack: AsyncExitStack) -> list[Raw]:
    """Clients until each worker of the first node has one at least."""
    found: list[Raw] = []

    async def all_serve() -> bool:
        raw = await stack.enter_async_context(Raw(site.ws("/echo/")))
        await raw.hello()
        found.append(raw)
        return site.sql(NODES) == [(workers,)]

    await eventually(all_serve, 20, f"a node in each of {workers} workers")
    return found


async def send_numbers(robot: Robot) -> None:
    while not robot.enough:
        if len(robot.pending) < 100:
            robot.send({"n": robot.next_seq})
        await asyncio.sleep(0.01)


async def more(found: Sequence[Robot]) -> None:
    goals = [(robot, len(robot.received) + 20, len(robot.results) + 20) for robot in found]
    await eventually(
        lambda: all(
            len(robot.received) >= received and len(robot.results) >= results
            for robot, received, results in goals
        ),
        30,
        "traffic in both directions",
    )


async def settle(found: Sequence[Robot], loads: Sequence[asyncio.Task[None]]) -> None:
    for robot in found:
        robot.enough = True
    await asyncio.gather(*loads)


@pytest.mark.parametrize("tell", [to_parent, to_group])
@pytest.mark.parametrize("server", [*ONE, *SEVERAL], ids=named)
async def test_sigterm_drains_every_worker_and_loses_and_doubles_nothing(
    make_site: MakeSite,
    book: LedgerBook,
    server: Server,
    tell: Callable[[ServerProcess, signal.Signals], None],
) -> None:
    name, arguments, workers = server
    site = make_site(server=name, arguments=arguments, nodes=2, env=book.env, settings=SETTINGS)
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
            assert await raw.closed() == (1012, "the server restarts")
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
    assert not re.search("Traceback|panicked", site.node.log()), site.node.log_tail()


@pytest.mark.parametrize("server", SEVERAL, ids=named)
async def test_sighup_replaces_the_workers_and_loses_and_doubles_nothing(
    make_site: MakeSite, book: LedgerBook, server: Server
) -> None:
    name, arguments, workers = server
    site = make_site(server=name, arguments=arguments, env=book.env, settings=SETTINGS)
    async with AsyncExitStack() as stack, robots(4, [site.ws("/ledger/")]) as found:
        loads = [asyncio.create_task(send_numbers(robot)) for robot in found]
        await more(found)
        clients = await one_in_each_worker(site, workers, stack)
        pid = site.node.pid
        site.node.signal(signal.SIGHUP)
        for raw in clients:
            assert await raw.closed(30) == (1012, "the server restarts")
        await eventually(lambda: all(robot.closes and robot.connected for robot in found), 20)
        await more(found)
        assert (site.node.running, site.node.pid) == (True, pid)
        await settle(found, loads)
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot)
            await robot.bye()
    assert {code for robot in found for code in robot.closes} == {1012}
    query = "SELECT state, count(*) FROM graceful_ws_node WHERE state = 'stopped' GROUP BY state"
    await eventually(lambda: site.sql(query) == [("stopped", workers)], 10)


@pytest.mark.parametrize("workers", [1, 2])
async def test_second_ctrl_c_in_a_terminal_closes_at_once(
    make_site: MakeSite, workers: int
) -> None:
    settings = {"drain_window": 30.0, "drain_deadline": 60.0, "drain_rate": 0.1}
    site = make_site(server="hypercorn", arguments=("-w", str(workers)), settings=settings)
    async with AsyncExitStack() as stack:
        clients = await one_in_each_worker(site, workers, stack)
        to_group(site.node, signal.SIGINT)
        for raw in clients:
            await raw.expect("drain")
        await asyncio.sleep(1.2)  # what counts as a second signal is a matter of time
        assert all(raw.is_open for raw in clients)
        to_group(site.node, signal.SIGINT)
        for raw in clients:
            assert await raw.closed(5) == (1012, "the server restarts")
        assert await site.node.await_exit(8) == 0
