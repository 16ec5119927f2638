"""The journal while the database is away or stuck, and when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections

from graceful_ws.core.breaker import BreakerState
from graceful_ws.node import health
from graceful_ws.node import journal as journal_module
from graceful_ws.node.journal import Journal
from graceful_ws.store.attach import Attached
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Note
from graceful_ws.store.following import Audience, Publish, Subscribe, Unsubscribe
from tests.node.kit import WRITER, soon, store
from tests.store.kit import (
    AFTER,
    BEFORE,
    WITHIN,
    append,
    attached,
    breaking_commits,
    complete,
    detach,
    hello,
    messages,
    outcomes_kept,
    row,
)
from tests.support.database_url import database_settings
from tests.support.databases import Database
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages of the tests are shorter than real ones."""
    monkeypatch.setattr(health, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(health, "DATABASE_RETRIES", (0.01, 0.02))


async def state(journal: Journal) -> BreakerState:
    return journal.health.breaker.state(asyncio.get_running_loop().time())


# --- a commit that breaks ---------------------------------------------------------------------


@pytest.mark.parametrize("when", [BEFORE, AFTER])
async def test_a_lost_connection_is_tried_again_and_nobody_notices(
    when: str, journal: Journal, database: Database
) -> None:
    owner = await store(attached)
    with breaking_commits(database, iter([when] * 5), thread=WRITER):
        entries = (append(owner, "1"), complete(owner, 1, "{}"), append(owner, "2"))
        assert await soon(asyncio.gather(*(journal.write(entry) for entry in entries))) == [
            1,
            True,
            2,
        ]
        new = await soon(journal.attach(hello(), lambda: True))
    assert new.generation == 1
    assert await store(messages, owner) == [(1, "1"), (2, "2")]
    assert journal.healthy


# --- PostgreSQL dies --------------------------------------------------------------------------


@pytest.mark.postgres_only
async def test_an_outage_is_survived_and_ends_by_itself(
    journal: Journal, database: Database, postgres_server: PostgresServer
) -> None:
    owner, leaving = await store(attached), await store(attached)
    assert await soon(journal.write(append(owner, "1"))) == 1

    await asyncio.to_thread(postgres_server.kill)
    done = journal.submit(complete(owner, 1, '{"result":1}'))
    gone = journal.submit(detach(leaving))
    with pytest.raises(JournalUnavailable):
        await soon(journal.write(append(owner, "lost, and its sender knows")))
    # Open: no waiting, no handler is started
    assert not journal.healthy
    refused = journal.submit(append(owner, "refused at once"))
    assert isinstance(refused.exception(), JournalUnavailable)
    handler = asyncio.create_task(journal.wait_healthy())
    late = asyncio.create_task(journal.attach(hello(), lambda: True))
    await asyncio.sleep(0.3)
    assert not (done.done() or gone.done() or handler.done())

    await asyncio.to_thread(postgres_server.restart)
    await soon(handler)
    assert await soon(done) is True
    assert await soon(gone) is True
    assert await soon(journal.write(append(owner, "2"))) == 2
    # Whether the hello waited too long depends on how long the restart took.
    [outcome] = await soon(asyncio.gather(late, return_exceptions=True))
    assert isinstance(outcome, Attached | JournalUnavailable)
    assert await store(messages, owner) == [(1, "1"), (2, "2")]
    assert await store(outcomes_kept, owner) == {1: '{"result":1}'}
    assert (await store(row, leaving)).state == "detached"


@pytest.mark.postgres_only
async def test_an_idle_node_finds_out_that_the_database_is_back(
    journal: Journal, database: Database, postgres_server: PostgresServer
) -> None:
    owner = await store(attached)
    assert await soon(journal.write(append(owner, "1"))) == 1
    await asyncio.to_thread(postgres_server.kill)
    with pytest.raises(JournalUnavailable):
        await soon(journal.write(append(owner, "lost")))
    assert len(journal) == 0
    await asyncio.to_thread(postgres_server.restart)
    await soon(journal.wait_healthy())
    assert await state(journal) is BreakerState.CLOSED
    assert await soon(journal.write(append(owner, "2"))) == 2


@pytest.mark.postgres_only
async def test_a_server_that_restarts_between_two_rounds_is_not_noticed(
    journal: Journal, database: Database, postgres_server: PostgresServer
) -> None:
    owner = await store(attached)
    for n in range(1, 4):
        assert await soon(journal.write(append(owner, str(n)))) == n
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.to_thread(postgres_server.restart)
    assert await soon(journal.write(append(owner, "4"))) == 4
    assert journal.healthy


@pytest.mark.postgres_only
async def test_a_server_killed_under_load_loses_and_doubles_nothing(
    journal: Journal, database: Database, postgres_server: PostgresServer
) -> None:
    owners = [await store(attached) for _ in range(4)]
    told: list[dict[int, str]] = [{} for _ in owners]
    stop = asyncio.Event()

    async def connection(who: int) -> None:
        n = done = 0
        while not stop.is_set() or n % 3:  # whole groups, so that the end is quiet
            n += 1
            text = f'"{who}:{n}"'
            try:
                await journal.write(
                    append(owners[who], text),
                    lambda first, text=text: told[who].update({first: text}),
                )
            except JournalUnavailable:  # then it was not kept, and the same text may go again
                n -= 1
                await asyncio.sleep(0.02)
                continue
            if n % 3 == 0:
                done += 1
                assert await journal.submit(complete(owners[who], done, "{}")) is True

    running = [asyncio.create_task(connection(who)) for who in range(4)]
    try:
        for _ in range(2):
            before = journal.written
            await eventually(lambda before=before: journal.written >= before + 40, WITHIN)
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.to_thread(postgres_server.restart)
        before = journal.written
        await eventually(lambda: journal.written >= before + 40, WITHIN)
    finally:
        stop.set()
    await soon(asyncio.gather(*running))
    for who, owner in enumerate(owners):
        kept = dict(await store(messages, owner))
        assert kept == told[who]
        assert list(kept) == list(range(1, len(kept) + 1))
        assert list(kept.values()) == [f'"{who}:{n}"' for n in range(1, len(kept) + 1)]


# --- a database that neither answers nor fails ------------------------------------------------


@pytest.mark.postgres_only
async def test_a_round_that_hangs_counts_as_an_outage_while_it_lasts(
    journal: Journal, database: Database, monkeypatch: pytest.MonkeyPatch, limits: Any
) -> None:
    monkeypatch.setattr(journal_module, "STUCK", 0.1)
    limits(journal_queue=2)
    owner = await store(attached)
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE graceful_ws_outboundmessage IN ACCESS EXCLUSIVE MODE")
        taken = journal.submit(append(owner, "1"))
        await eventually(lambda: len(journal) == 0, WITHIN)
        done = journal.submit(complete(owner, 1))
        queued = [asyncio.create_task(journal.write(append(owner, "x"))) for _ in range(4)]
        for refused in queued:  # those that waited for space in the queue, too
            with pytest.raises(JournalUnavailable):
                await soon(refused)
        assert not journal.healthy
        assert not (taken.done() or done.done())
        other.rollback()
    assert await soon(taken) == 1
    assert await soon(done) is True
    await soon(journal.wait_healthy())
    assert await soon(journal.write(append(owner, "2"))) == 2
    assert await store(messages, owner) == [(1, "1"), (2, "2")]


# --- healthy means that messages are taken ----------------------------------------------------


async def test_after_an_outage_healthy_means_that_messages_are_taken_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of entries goes well just after the hellos of the same moment opened the breaker;
    then nothing is left that would try again."""
    owner = await store(attached)
    loop = asyncio.get_running_loop()
    tries = 0

    def fails(entries: Any) -> list[Any]:
        nonlocal tries
        tries += 1
        if tries == 9:
            note = Note(owner.session, owner.generation)
            loop.call_soon_threadsafe(journal.submit, note)
        return [OperationalError("gone")] * len(entries)

    monkeypatch.setattr(journal_module, "attach_all", fails)
    with pytest.raises(asyncio.CancelledError):  # its socket goes when it was tried ten times
        await soon(journal.attach(hello(), lambda: tries < 10))
    await soon(journal.wait_healthy())
    assert await soon(journal.write(append(owner, "1"))) == 1


async def test_a_defect_in_a_round_is_told_to_those_who_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(entries: Any) -> list[Any]:
        raise RuntimeError("a defect")

    owner = await store(attached)
    journal = Journal()
    monkeypatch.setattr(journal_module, "commit_all", defect)
    write = asyncio.create_task(journal.write(append(owner, "1")))
    with pytest.raises(RuntimeError):
        await soon(journal.run())
    with pytest.raises(RuntimeError):
        await soon(write)
    await soon(journal.stop())


# --- SQLite: locked is slow, not down ---------------------------------------------------------


@contextlib.contextmanager
def write_lock(database: Database) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    other = sqlite3.connect(database_settings(database.url)["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """SQLite gives up waiting for the lock after 50 ms; by default it does after 5 s."""
    options = connections.settings["default"]["OPTIONS"]
    monkeypatch.setitem(options, "timeout", 0.05)


@pytest.fixture
async def entries(journal: Journal, impatient: None) -> AsyncIterator[list[Any]]:
    """One that may be refused, and two that are written in the end, whatever happens meanwhile."""
    owner = await store(attached)
    yield [append(owner, "1"), complete(owner, 1, "{}"), detach(owner)]
    kept = await store(row, owner)
    assert (kept.last_client_seq, kept.state) == (1, "detached")


@pytest.mark.sqlite_only
async def test_a_locked_database_is_slow_and_not_down(
    journal: Journal, database: Database, entries: list[Any]
) -> None:
    with write_lock(database):
        waiting = [asyncio.create_task(journal.write(entry)) for entry in entries]
        await eventually(lambda: journal.rounds >= 15, WITHIN)  # ten failures would open it
        assert journal.healthy
        assert await state(journal) is BreakerState.CLOSED
        assert not any(one.done() for one in waiting)
    assert await soon(asyncio.gather(*waiting)) == [1, True, True]


@pytest.mark.sqlite_only
async def test_a_hello_does_not_wait_longer_than_its_time_for_a_locked_database(
    journal: Journal, database: Database, entries: list[Any], settings: Any
) -> None:
    settings.GRACEFUL_WS = {"attach_timeout": 0.3}
    with write_lock(database):
        with pytest.raises(JournalUnavailable):
            await soon(journal.attach(hello(), lambda: True))
        waiting = [asyncio.create_task(journal.write(entry)) for entry in entries]
    assert await soon(asyncio.gather(*waiting)) == [1, True, True]
    assert journal.healthy


@pytest.mark.sqlite_only
async def test_a_database_that_is_locked_for_too_long_counts_as_down(
    journal: Journal,
    database: Database,
    entries: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(health, "SLOW_NOT_FAILED", 0.2)
    with write_lock(database), caplog.at_level(logging.WARNING, "graceful_ws.journal"):
        waiting = [asyncio.create_task(journal.write(entry)) for entry in entries]
        with pytest.raises(JournalUnavailable):
            await soon(waiting[0])
        assert not journal.healthy
        assert not waiting[1].done()
    assert "locked" in caplog.text
    await soon(journal.wait_healthy())
    assert await soon(asyncio.gather(*waiting[1:])) == [True, True]


async def test_what_is_refused_while_the_breaker_is_open_is_refused_at_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that publishes is then asked for again, and does not wait for its time limit."""
    owner = await store(attached)
    who = (owner.session, owner.generation)

    def away(entries: Any) -> list[Any]:
        return [OperationalError("gone")] * len(entries)

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "commit_all", away)
        with pytest.raises(JournalUnavailable):
            await soon(journal.write(append(owner, "1")))
        for entry in (
            Publish(*who, stream="s", data="1"),
            Subscribe(*who, stream="s"),
            Unsubscribe(*who, stream="s"),
            Audience(*who, streams=["s"]),
        ):
            with pytest.raises(JournalUnavailable):
                await soon(journal.write(entry))
        note = journal.submit(Note(*who))
    await soon(note)  # what must be written waits, and is
