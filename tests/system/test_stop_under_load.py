"""Servers that stop, are killed and come back while messages travel in both directions."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.support.ledger import LedgerBook
from tests.support.robot import Robot, robots
from tests.support.servers import SERVERS
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

ABSENT = "SELECT state, cause FROM graceful_ws_session WHERE state = 'detached'"


@asynccontextmanager
async def under_load(
    urls: Sequence[str], count: int = 6, *, moves: bool = False
) -> AsyncIterator[list[Robot]]:
    """Robots that get ticks and send numbers all the time, until told to stop."""
    async with robots(count, urls, moves=moves) as found:
        loads = [asyncio.create_task(send_numbers(robot)) for robot in found]
        try:
            await eventually(lambda: all(len(robot.results) > 20 for robot in found), 20)
            yield found
        finally:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)


async def send_numbers(robot: Robot) -> None:
    while not robot.enough:
        if len(robot.pending) < 100:
            robot.send({"n": robot.next_seq})
        await asyncio.sleep(0.01)


async def more(found: Sequence[Robot], count: int = 20) -> None:
    """Until every robot has so many more messages, and so many more of its own done."""
    goals = [(robot, len(robot.received) + count, len(robot.results) + count) for robot in found]
    await eventually(
        lambda: all(
            len(robot.received) >= received and len(robot.results) >= results
            for robot, received, results in goals
        ),
        30,
        "traffic in both directions",
    )


async def deafen(url: str, found: Sequence[Robot], book: LedgerBook) -> Sequence[Robot]:
    """Until half of the robots of one node have at least five messages to miss, so that replay
    has work."""
    there = [robot for robot in found if robot.url == url]
    deaf = there[: (len(there) + 1) // 2]
    for robot in deaf:
        robot.deaf = True
    await eventually(
        lambda: all(
            len(book.accepted(robot.session_id)) >= len(robot.received) + 5 for robot in deaf
        ),
        20,
        "messages on their way to those who do not hear",
    )
    return deaf


async def settle(found: Sequence[Robot], book: LedgerBook, *, starts: int = 1) -> None:
    """Ends the load, waits for what is on its way, and compares."""
    book.stop_ticking()
    for robot in found:
        robot.enough = True
    for robot in found:
        await book.complete(robot)
    for robot in found:
        book.verify(robot, starts=starts)
        await robot.bye()


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_to_one_of_two_nodes_loses_duplicates_and_reorders_nothing(
    make_site: MakeSite, book: LedgerBook, server: str, number: signal.Signals
) -> None:
    site = make_site(server=server, nodes=2, env=book.env)
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with under_load(urls, 8) as found:
        deaf = await deafen(site.ws("/ledger/"), found, book)
        site.node.signal(number)
        assert await site.node.await_exit(15) == 0
        await eventually(lambda: all(robot.connected for robot in found), 20)
        await more(found)
        closed = [robot for robot in found if robot.closes]
        await settle(found, book)
    assert closed, "nobody was on the node that stopped"
    assert set().union(*(robot.closes for robot in closed)) == {1012}
    assert set().union(*(robot.reasons for robot in closed)) == {"the server restarts"}
    assert all(robot.resumed >= 1 and robot.drains for robot in closed)
    assert all(robot.replayed >= 5 for robot in closed if robot in deaf)
    assert site.sql("SELECT state FROM graceful_ws_node WHERE name = 'node-1'") == [("stopped",)]


@pytest.mark.parametrize("server", SERVERS)
async def test_client_that_moves_before_the_break_is_never_closed_and_starts_no_handler_twice(
    make_site: MakeSite, book: LedgerBook, server: str
) -> None:
    site = make_site(server=server, nodes=2, env=book.env, settings={"drain_window": 6.0})
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with under_load(urls, moves=True) as found:
        site.node.terminate()
        assert await site.node.await_exit(15) == 0
        await more(found)
        moved = [robot for robot in found if robot.drains]
        await settle(found, book)
    assert moved
    assert all(robot.resumed == 1 for robot in moved)
    assert not any(robot.closes for robot in found)


@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
async def test_kill_dash_nine_loses_nothing_and_the_other_node_detaches_who_does_not_come_back(
    make_site: MakeSite, book: LedgerBook, vendor: str
) -> None:
    site = make_site(database=vendor, nodes=2, env=book.env)
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with under_load(urls, 8) as found, robots(1, urls[:1]) as absent:
        absent[0].stopped = True
        deaf = await deafen(site.ws("/ledger/"), found, book)
        site.node.signal(signal.SIGKILL)
        await site.node.await_exit()
        await more(found)
        await eventually(
            lambda: (site.sql(ABSENT), absent[0].connected) == ([("detached", "node_lost")], False),
            3.0 + 4.0,  # dead_after, a beat and a half, and a busy machine
            "the session of the dead node is detached",
        )
        killed = [robot for robot in found if robot.closes]
        # What ran when the process died runs once more: nobody can know how far it came.
        await settle(found, book, starts=2)
    assert killed, "nobody was on the node that died"
    assert set().union(*(robot.closes for robot in killed)) == {1006}
    assert all(robot.replayed >= 5 for robot in killed if robot in deaf)
    states = dict(site.sql("SELECT name, state FROM graceful_ws_node"))
    assert states == {"node-1": "dead", "node-2": "up"}


async def test_restarts_of_a_single_node_lose_nothing(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = make_site(env=book.env)
    async with under_load([site.ws("/ledger/")]) as found:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            deaf = await deafen(site.ws("/ledger/"), found, book)
            site.node.signal(number)
            status = await site.node.await_exit(15)
            assert status == (-9 if number == signal.SIGKILL else 0)
            await asyncio.to_thread(site.node.start)
            await more(found)
            assert all(robot.replayed >= 5 for robot in deaf)
        await settle(found, book, starts=2)
    for robot in found:
        assert robot.closes == {1012: 2, 1006: 1}
        assert robot.resumed == 3


async def test_node_that_slept_through_its_own_death_writes_nothing_and_comes_back(
    make_site: MakeSite, book: LedgerBook
) -> None:
    # On PostgreSQL: SQLite's one lock would be held for as long as its holder stands still. There a
    # transaction that stands still is ended after 10 s.
    site = make_site(database="postgres", nodes=2, env=book.env)
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with under_load(urls) as found:
        there = [robot for robot in found if robot.url == urls[0]]
        site.node.signal(signal.SIGSTOP)
        there[0].hang_up()  # and is taken in by the other node
        await eventually(lambda: there[0].url == urls[1] and there[0].resumed == 1, 20)
        query = "SELECT count(*) FROM graceful_ws_session WHERE cause = 'node_lost'"
        await eventually(lambda: site.sql(query) == [(len(there) - 1,)], 20, "the rest is detached")
        site.node.signal(signal.SIGCONT)
        await eventually(lambda: all(robot.resumed for robot in there), 15)
        await more(found)
        await settle(found, book, starts=2)
    assert set().union(*(robot.closes for robot in there[1:])) == {4104}
    states = site.sql("SELECT name, state FROM graceful_ws_node ORDER BY name, state")
    assert states == [("node-1", "dead"), ("node-1", "up"), ("node-2", "up")]
