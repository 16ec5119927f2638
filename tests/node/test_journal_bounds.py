"""Hellos in the journal, the bounds of its queues, its end, and all of it at random."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Callable

import pytest

from graceful_ws.models import Session
from graceful_ws.node.journal import ROUND_BYTES, Journal
from graceful_ws.node.waiting import Overloaded
from graceful_ws.store.attach import StaleAttempt
from graceful_ws.store.base import JournalUnavailable
from tests.node.kit import WRITER, soon, store, taken, writer_held
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
    refused_by,
    row,
)
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


# --- rounds -----------------------------------------------------------------------------------


async def test_a_round_takes_no_more_text_than_the_database_takes_in_time(journal: Journal) -> None:
    """PostgreSQL ends a transaction in which nothing arrives for long, and every try of the same
    round would end like that."""
    owners = [await store(attached) for _ in range(4)]
    large = "x" * (ROUND_BYTES // 2)
    async with writer_held(journal):
        begun = journal.rounds
        writes = [journal.submit(append(owner, large)) for owner in owners]
        writes += [journal.submit(complete(owner, 1, large)) for owner in owners]
        writes.append(journal.submit(append(owners[0], large * 3)))  # more than one round has
        writes.append(journal.submit(append(owners[0], "small")))
        await asyncio.sleep(0)
    outcomes = await soon(asyncio.gather(*writes))
    assert outcomes == [1] * 4 + [True] * 4 + [2, 3]
    assert journal.rounds - begun >= 5


# --- hellos -----------------------------------------------------------------------------------


async def test_hellos_of_a_round_attach_together(journal: Journal) -> None:
    old = await store(attached)
    stale = hello(token=old.token, attempt=1)
    resume = hello(token=old.token, attempt=2)
    async with writer_held(journal):
        hellos = [
            asyncio.create_task(journal.attach(entry, lambda: True))
            for entry in (stale, resume, hello(), hello())
        ]
        await asyncio.sleep(0)
    refused, resumed, *new = await soon(asyncio.gather(*hellos, return_exceptions=True))
    assert isinstance(refused, StaleAttempt)
    assert (resumed.resumed, resumed.session) == (True, old.session)
    assert len({one.session for one in new} | {old.session}) == 3


async def test_a_hello_with_data_that_is_refused_fails_alone(
    journal: Journal, database: Database
) -> None:
    async with writer_held(journal):
        hellos = [
            asyncio.create_task(journal.attach(entry, lambda: True))
            for entry in (hello(), hello(user_agent=refused_by(database)), hello())
        ]
        await asyncio.sleep(0)
    first, refused, last = await soon(asyncio.gather(*hellos, return_exceptions=True))
    assert isinstance(refused, Exception)
    assert first.session != last.session
    assert journal.healthy


async def test_a_hello_whose_socket_is_gone_never_reaches_the_database(journal: Journal) -> None:
    owner = await store(attached)
    async with writer_held(journal):
        journal.submit(append(owner, "1"))
        await taken(journal)
        gone = asyncio.create_task(journal.attach(hello(), lambda: False))
        here = asyncio.create_task(journal.attach(hello(), lambda: True))
        await eventually(lambda: len(journal) == 2, WITHIN)
    with pytest.raises(asyncio.CancelledError):
        await soon(gone)
    assert (await soon(here)).session
    assert await store(Session.objects.count) == 2


async def test_a_hello_that_waited_too_long_is_dropped_before_the_database(
    journal: Journal, limits: Callable[..., None]
) -> None:
    limits(attach_timeout=0.05)
    owner = await store(attached)
    async with writer_held(journal):
        journal.submit(append(owner, "1"))
        await taken(journal)
        late = asyncio.create_task(journal.attach(hello(), lambda: True))
        await eventually(lambda: len(journal) == 1, WITHIN)
        await asyncio.sleep(0.06)
    with pytest.raises(JournalUnavailable):
        await soon(late)
    assert await store(Session.objects.count) == 1
    limits(attach_timeout=WITHIN)
    assert (await soon(journal.attach(hello(), lambda: True))).generation == 1


async def test_past_the_bound_of_its_queue_a_hello_is_refused_at_once(
    journal: Journal, limits: Callable[..., None]
) -> None:
    limits(attach_queue=2)
    owner = await store(attached)
    async with writer_held(journal):
        journal.submit(append(owner, "1"))
        await taken(journal)
        hellos = [asyncio.create_task(journal.attach(hello(), lambda: True)) for _ in range(2)]
        await eventually(lambda: len(journal) == 2, WITHIN)
        with pytest.raises(Overloaded):
            await soon(journal.attach(hello(), lambda: True))
    assert [one.generation for one in await soon(asyncio.gather(*hellos))] == [1, 1]


# --- bounds and the end -----------------------------------------------------------------------


async def test_past_the_bound_of_the_queue_senders_wait_and_completions_do_not(
    journal: Journal,
) -> None:
    journal.bound = 3
    owner = await store(attached)
    async with writer_held(journal):
        journal.submit(append(owner, "0"))
        await taken(journal)
        writes = [asyncio.create_task(journal.write(append(owner, "x"))) for _ in range(3)]
        await eventually(lambda: len(journal) == 3, WITHIN)
        writes += [asyncio.create_task(journal.write(append(owner, "y"))) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(journal) == 3
        done = journal.submit(complete(owner, 1))
        assert len(journal) == 4
    assert await soon(asyncio.gather(*writes)) == [2, 3, 4, 5, 6, 7]
    assert await soon(done) is True


async def test_flush_returns_when_nothing_waits(journal: Journal) -> None:
    owner = await store(attached)
    await soon(journal.flush())
    async with writer_held(journal):
        journal.submit(append(owner, "1"))
        await taken(journal)
        gone = journal.submit(detach(owner))
        flushed = asyncio.create_task(journal.flush())
        await asyncio.sleep(0)
        assert not flushed.done()
    await soon(flushed)
    assert gone.done()
    assert (await store(row, owner)).state == "detached"


async def test_flush_returns_when_all_that_waits_is_withdrawn(journal: Journal) -> None:
    owner = await store(attached)
    async with writer_held(journal):
        journal.submit(append(owner, "1"))
        await taken(journal)
        journal.submit(append(owner, "never")).cancel()
    await soon(journal.flush())


async def test_after_the_stop_nobody_waits_and_no_thread_is_left(journal: Journal) -> None:
    other = Journal()  # whose writer never runs
    owner = await store(attached)
    future = other.submit(append(owner, "1"))
    waiting = asyncio.create_task(other.attach(hello(), lambda: True))
    await eventually(lambda: len(other) == 2, WITHIN)
    await other.threads.run(int)
    before = threading.active_count()
    await soon(other.stop())
    assert threading.active_count() == before - 1
    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await soon(waiting)
    with pytest.raises(JournalUnavailable):
        await soon(other.attach(hello(), lambda: True))
    with pytest.raises(JournalUnavailable):
        await soon(other.write(append(owner, "1")))


async def test_a_writer_that_is_cancelled_leaves_nobody_waiting(database: Database) -> None:
    journal = Journal()
    running = asyncio.create_task(journal.run())
    owner = await store(attached)
    async with writer_held(journal):
        write = asyncio.create_task(journal.write(append(owner, "1")))
        hello_ = asyncio.create_task(journal.attach(hello(), lambda: True))
        await asyncio.sleep(0)
        await taken(journal)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await soon(journal.stop())
    outcomes = await soon(asyncio.gather(write, hello_, return_exceptions=True))
    assert [type(one) for one in outcomes] == [asyncio.CancelledError] * 2


# --- everything at once -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_random_connections_over_breaking_commits_lose_and_double_nothing(
    seed: int, journal: Journal, database: Database
) -> None:
    chance = random.Random(seed)
    owners = [await store(attached) for _ in range(3)]
    told: list[dict[int, str]] = [{} for _ in owners]
    faults = (chance.choice([None] * 6 + [BEFORE, AFTER]) for _ in itertools.count())

    async def connection(who: int) -> None:
        for n in range(15):
            text = f'"{who}:{n}"'

            def committed(first: int, text: str = text) -> None:
                assert first not in told[who]
                told[who][first] = text

            write = asyncio.create_task(journal.write(append(owners[who], text), committed))
            if chance.random() < 0.2:
                for _ in range(chance.randint(0, 20)):
                    await asyncio.sleep(0)
                write.cancel()
                await asyncio.wait([write])
            else:
                first = await write
                assert told[who][first] == text
            if chance.random() < 0.3:
                done = sum(1 for text in completed[who])
                completed[who].append(done)
                assert await journal.submit(complete(owners[who], done + 1, "{}")) is True

    completed: list[list[int]] = [[] for _ in owners]
    with breaking_commits(database, faults, thread=WRITER):
        await soon(asyncio.gather(*(connection(who) for who in range(3))))
        await soon(journal.flush())
    for who, owner in enumerate(owners):
        kept = dict(await store(messages, owner))
        assert kept == told[who]
        assert list(kept) == list(range(1, len(kept) + 1))
        assert len(set(kept.values())) == len(kept)
        assert (await store(row, owner)).last_client_seq == len(completed[who])
