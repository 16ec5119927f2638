"""Threads with a database connection each, behind a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections, transaction

from graceful_ws.node.threads import Busy, Threads
from tests.node.kit import soon, store
from tests.store.kit import WITHIN
from tests.support.databases import Database
from tests.support.waiting import eventually


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    threads = Threads("test", 2, 4)
    yield threads
    await soon(threads.stop())
    assert not [one for one in threading.enumerate() if one.name.startswith("graceful-test")]


class Gate:
    """Keeps threads inside a function until it is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self._open = threading.Event()
        self._lock = threading.Lock()

    def wait(self) -> str:
        with self._lock:
            self.inside += 1
        assert self._open.wait(WITHIN)
        return threading.current_thread().name

    def open(self) -> None:
        self._open.set()


async def test_a_function_runs_in_a_thread_and_its_result_comes_back(threads: Threads) -> None:
    name, doubled = await soon(
        threads.run(lambda value: (threading.current_thread().name, value * 2), 21)
    )
    assert name == "graceful-test-1"
    assert doubled == 42


@pytest.mark.usefixtures("database")
async def test_with_debug_the_log_of_queries_does_not_grow(threads: Threads, settings: Any) -> None:
    """Django empties it when a request begins, and here none does."""
    settings.DEBUG = True

    def query() -> int:
        logged = len(connection.queries_log)
        assert not User.objects.exists()
        assert len(connection.queries_log) == logged + 1
        return logged

    assert [await soon(threads.run(query)) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("error", [ValueError("x"), OperationalError("x")])
async def test_what_a_function_raises_comes_back(error: Exception, threads: Threads) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error), match="x"):
        await soon(threads.run(fails))
    assert await soon(threads.run(int)) == 0


async def test_a_stop_iteration_comes_back_as_an_error(threads: Threads) -> None:
    """A future refuses it: its waiter would never be told."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await soon(threads.run(next, iter(())))
    assert await soon(threads.run(int)) == 0


async def test_one_call_after_another_needs_one_thread(threads: Threads) -> None:
    names = {await soon(threads.run(lambda: threading.current_thread().name)) for _ in range(10)}
    assert names == {"graceful-test-1"}


async def test_so_many_run_side_by_side_and_no_more(threads: Threads) -> None:
    gate = Gate()
    calls = [asyncio.create_task(threads.run(gate.wait)) for _ in range(5)]
    await eventually(lambda: gate.inside == 2, WITHIN)
    assert not any(call.done() for call in calls)
    gate.open()
    names = await soon(asyncio.gather(*calls))
    assert set(names) == {"graceful-test-1", "graceful-test-2"}


async def test_a_call_never_waits_behind_a_long_one_while_a_thread_is_free() -> None:
    """Also when the long one was taken just now."""
    for _ in range(200):
        threads = Threads("test", 2, 4)
        await soon(threads.run(int))
        released = threading.Event()
        long = asyncio.create_task(threads.run(released.wait, WITHIN))
        await asyncio.sleep(0)
        await soon(threads.run(released.set))
        assert await soon(long)
        await soon(threads.stop())


async def test_past_the_bound_of_the_queue_a_call_is_refused_at_once(threads: Threads) -> None:
    gate = Gate()
    calls = [asyncio.create_task(threads.run(gate.wait)) for _ in range(2)]
    await eventually(lambda: gate.inside == 2, WITHIN)
    calls += [asyncio.create_task(threads.run(gate.wait)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await threads.run(gate.wait)
    gate.open()
    assert len(await soon(asyncio.gather(*calls))) == 6
    assert await soon(threads.run(int)) == 0


async def test_cancelling_the_caller_does_not_stop_the_function(threads: Threads) -> None:
    gate, ran = Gate(), threading.Event()

    def work() -> None:
        gate.wait()
        ran.set()

    call = asyncio.create_task(threads.run(work))
    await eventually(lambda: gate.inside == 1, WITHIN)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.open()
    await eventually(ran.is_set, WITHIN)


async def test_stop_waits_for_what_runs_and_for_what_waits() -> None:
    threads = Threads("test", 1, 2)
    gate = Gate()
    calls = [asyncio.create_task(threads.run(gate.wait)) for _ in range(1)]
    await eventually(lambda: gate.inside == 1, WITHIN)
    calls += [asyncio.create_task(threads.run(gate.wait)) for _ in range(2)]  # the queue is full
    await asyncio.sleep(0)
    stopping = asyncio.create_task(threads.stop())
    await asyncio.sleep(0.02)
    assert not stopping.done()
    gate.open()
    await soon(stopping)
    assert len(await soon(asyncio.gather(*calls))) == 3
    assert not [one for one in threading.enumerate() if one.name.startswith("graceful-test")]


async def test_stop_gives_up_on_a_thread_that_is_stuck() -> None:
    threads = Threads("test", 1, 2)
    gate = Gate()
    call = asyncio.create_task(threads.run(gate.wait))
    await eventually(lambda: gate.inside == 1, WITHIN)
    await soon(threads.stop(0.02))
    gate.open()
    await soon(call)


# --- database connections ---------------------------------------------------------------------


def wrapper_and_socket() -> tuple[int, Any]:
    connection.ensure_connection()
    return id(connections["default"]), connection.connection


async def test_a_thread_keeps_its_connection(database: Database, threads: Threads) -> None:
    first = await soon(threads.run(wrapper_and_socket))
    again = await soon(threads.run(wrapper_and_socket))
    assert first == again
    assert first[0] != (await store(wrapper_and_socket))[0]


async def test_after_an_outage_the_next_call_has_a_new_connection(
    database: Database, threads: Threads
) -> None:
    def outage() -> None:
        raise OperationalError("server closed the connection unexpectedly")

    def data_error() -> None:
        raise ValueError("data")

    first = await soon(threads.run(wrapper_and_socket))
    with pytest.raises(ValueError, match="data"):
        await soon(threads.run(data_error))
    assert await soon(threads.run(wrapper_and_socket)) == first
    with pytest.raises(OperationalError):
        await soon(threads.run(outage))
    assert (await soon(threads.run(wrapper_and_socket)))[1] is not first[1]


@pytest.mark.postgres_only
async def test_a_connection_that_the_server_ended_is_replaced(
    database: Database, threads: Threads
) -> None:
    def pid() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    first = await soon(threads.run(pid))
    database.sql("SELECT pg_terminate_backend(%s, 10000)", first)
    with pytest.raises(OperationalError):
        await soon(threads.run(pid))
    assert await soon(threads.run(pid)) != first


@pytest.mark.postgres_only
async def test_stop_closes_the_connections(database: Database) -> None:
    threads = Threads("test", 2, 4)
    gate = Gate()

    def work() -> None:
        connection.ensure_connection()
        gate.wait()

    calls = [asyncio.create_task(threads.run(work)) for _ in range(2)]
    await eventually(lambda: gate.inside == 2, WITHIN)

    def others() -> int:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return int(database.sql(query)[0][0])

    before = await asyncio.to_thread(others)
    gate.open()
    await soon(asyncio.gather(*calls))
    await soon(threads.stop())
    await eventually(lambda: asyncio.to_thread(lambda: others() == before - 2), WITHIN)


async def test_with_the_setting_for_tests_the_store_sees_an_open_transaction(
    database: Database, threads: Threads, settings: Any
) -> None:
    """So that a user's ``TestCase``, which never commits, works."""

    def begin() -> None:
        atomic.__enter__()
        User.objects.create_user("visitor")

    def rollback() -> None:
        transaction.set_rollback(True)
        atomic.__exit__(None, None, None)

    atomic = transaction.atomic()
    await sync_to_async(begin)()
    try:
        if database.vendor == "postgres":  # on SQLite it would wait for the lock
            assert await soon(threads.run(User.objects.count)) == 0
        settings.GRACEFUL_WS = {"store_in_django_thread": True}
        assert await soon(threads.run(User.objects.count)) == 1
    finally:
        await sync_to_async(rollback)()
    assert await soon(threads.run(User.objects.count)) == 0
