"""The database is locked, killed, restarted: open sockets stay open and nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.support.database_url import database_settings
from tests.support.ledger import LedgerBook
from tests.support.postgres import PostgresServer
from tests.support.raw import Raw, again
from tests.support.robot import Robot, robots
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite


@asynccontextmanager
async def numbers_sent(found: Sequence[Robot]) -> AsyncIterator[None]:
    async def send(robot: Robot) -> None:
        while not robot.enough:
            if len(robot.pending) < 60:
                robot.send({"n": robot.next_seq})
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(send(robot)) for robot in found]
    try:
        await eventually(lambda: all(len(robot.results) > 20 for robot in found), 20)
        yield
    finally:
        for robot in found:
            robot.enough = True
        await asyncio.gather(*tasks)


def done(found: Sequence[Robot]) -> int:
    return sum(len(robot.results) for robot in found)


def is_ready(site: Site, expected: bool) -> bool:
    try:
        with urllib.request.urlopen(site.url("/graceful/ready/"), timeout=10) as response:
            return expected and response.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return not expected and error.code == 503


def hold_lock(site: Site, seconds: float) -> None:
    """As a backup or a shell of somebody else would, outside the servers."""
    path = database_settings(site.database.url)["NAME"]
    other = sqlite3.connect(path, timeout=10, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)
    other.execute("ROLLBACK")
    other.close()


async def test_sqlite_locked_for_eight_seconds_closes_no_socket_and_buries_no_node(
    make_site: MakeSite, book: LedgerBook
) -> None:
    settings = {"heartbeat_interval": 0.5, "heartbeat_timeout": 0.5}
    site = make_site(nodes=2, env=book.env, settings=settings)
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with robots(4, urls) as found:
        async with numbers_sent(found):
            await asyncio.to_thread(hold_lock, site, 8.0)
            before = done(found)
            await eventually(lambda: done(found) > before + 40, 20, "work goes on by itself")
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot)
            assert robot.closes == {}
            await robot.bye()
    states = site.sql("SELECT state, count(*) FROM graceful_ws_node GROUP BY state")
    assert states == [("up", 2)]


async def test_postgres_killed_and_restarted_under_load_loses_nothing(
    make_site: MakeSite, book: LedgerBook, postgres_server: PostgresServer
) -> None:
    settings = {"heartbeat_interval": 0.5, "heartbeat_timeout": 0.5}
    site = make_site(database="postgres", nodes=2, env=book.env, settings=settings)
    urls = [node.ws("/ledger/") for node in site.nodes]
    async with robots(4, urls) as found:
        async with numbers_sent(found):
            for outage in (0.0, 3.0):
                await asyncio.to_thread(postgres_server.kill)
                await asyncio.sleep(outage)
                if outage:
                    acked, at = done(found), [len(robot.received) for robot in found]
                    await eventually(lambda: asyncio.to_thread(is_ready, site, False), 5)
                    assert done(found) == acked, "acknowledged without a database"
                    assert [len(robot.received) for robot in found] == at
                await asyncio.to_thread(postgres_server.restart)
                before = done(found)
                await eventually(lambda n=before: done(found) > n + 40, 20, "work goes on")
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot, starts=2)
            assert robot.closes == {}
            assert robot.nacks == {}
            await robot.bye()
    await eventually(lambda: asyncio.to_thread(is_ready, site, True), 5)
    states = site.sql("SELECT state, count(*) FROM graceful_ws_node GROUP BY state")
    assert states == [("up", 2)]


async def test_transactions_take_effect_exactly_once_through_a_killed_postgres(
    make_site: MakeSite, book: LedgerBook, postgres_server: PostgresServer
) -> None:
    site = make_site(database="postgres", env=book.env)
    async with robots(3, [site.ws("/transaction/")]) as found:
        for robot in found:
            for n in range(400):
                name = f"{robot.instance}-{n}"
                robot.send({"name": name, "result": {"handled": n + 1}})
        for progress in (100, 400, 700):
            await eventually(lambda n=progress: done(found) > n, 30)
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.to_thread(postgres_server.restart)
        for robot in found:
            await robot.settled(30)
            await eventually(lambda r=robot: len(r.received) == 400, 10)
            assert robot.complaints == []
            assert robot.closes == {}
            assert robot.nacks == {}
            names = [f"{robot.instance}-{n}" for n in range(400)]
            assert [data["name"] for data in robot.received] == names
            assert robot.results == {n: {"handled": n} for n in range(1, 401)}
            query = "SELECT actor FROM graceful_ws_auditentry WHERE actor LIKE %s ORDER BY id"
            assert [name for (name,) in site.sql(query, f"{robot.instance}-%")] == names
            await robot.bye()


async def test_hello_without_a_database_is_1013_and_the_session_resumes_when_it_is_back(
    make_site: MakeSite, postgres_server: PostgresServer
) -> None:
    site = make_site(database="postgres", settings={"attach_timeout": 1.0})
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("before")
        await raw.close(1001)
    await asyncio.to_thread(postgres_server.kill)
    async with again(raw) as refused:
        await refused.hello(later=True)
        assert (await refused.closed())[0] == 1013
    await asyncio.to_thread(postgres_server.restart)

    async def resumes() -> bool:
        nonlocal refused
        async with again(refused) as refused:
            await refused.hello(later=True, last_seq_id=0)
            await eventually(lambda: refused.frames or not refused.is_open, 10)
            return bool(refused.all("welcome"))

    await eventually(resumes, 20)
    async with again(refused) as later:
        assert (await later.hello(last_seq_id=0))["resumed"]
        assert await later.got(1) == "before"
        await later.bye()


async def test_client_that_leaves_while_the_database_is_away_is_detached_when_it_is_back(
    make_site: MakeSite, postgres_server: PostgresServer
) -> None:
    site = make_site(database="postgres")
    async with Raw(site.ws("/echo/")) as raw, Raw(site.ws("/echo/")) as byes:
        await raw.hello()
        await byes.hello()
        await asyncio.to_thread(postgres_server.kill)
        raw.cut()
        assert (await byes.bye())[0] == 1000
    await asyncio.to_thread(postgres_server.restart)
    query = "SELECT state FROM graceful_ws_session ORDER BY state"
    await eventually(lambda: site.sql(query) == [("detached",), ("ended",)], 15)


async def test_process_told_to_stop_without_a_database_ends_in_time_and_loses_nothing(
    make_site: MakeSite, book: LedgerBook, postgres_server: PostgresServer
) -> None:
    site = make_site(database="postgres", env=book.env, settings={"drain_deadline": 5.0})
    async with robots(2, [site.ws("/ledger/")]) as found:
        async with numbers_sent(found):
            await asyncio.to_thread(postgres_server.kill)
            begun = time.monotonic()
            site.node.terminate()
            assert await site.node.await_exit(15) == 0
            assert time.monotonic() - begun < 5.0 + 5.0
            await asyncio.to_thread(postgres_server.restart)
            await asyncio.to_thread(site.node.start)
            before = done(found)
            await eventually(lambda: done(found) > before + 40, 20, "work goes on")
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot, starts=2)
            assert robot.closes == {1012: 1}
            await robot.bye()
