"""Group commit: what waits goes into one round, and everyone hears what became of his own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from graceful_ws.node.journal import Journal
from graceful_ws.store.attach import Attached
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced
from tests.node.kit import WRITER, soon, store, taken, writer_held
from tests.store.kit import (
    AFTER,
    BEFORE,
    WITHIN,
    append,
    attached,
    breaking_commits,
    complete,
    hello,
    locked_elsewhere,
    messages,
    refused_by,
)
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


# --- rounds -----------------------------------------------------------------------------------


async def test_what_waits_while_a_round_is_written_goes_into_the_next_one(
    journal: Journal,
) -> None:
    owners = [await store(attached) for _ in range(3)]
    async with writer_held(journal):
        first = journal.submit(append(owners[0], "first"))
        await taken(journal)
        waiting = [journal.submit(append(owners[n % 3], str(n))) for n in range(30)]
    assert await soon(first) == 1
    numbers = await soon(asyncio.gather(*waiting))
    assert journal.rounds == 2
    assert journal.written == 31
    assert [numbers[who::3] for who in range(3)] == [
        list(range(2, 12)),
        list(range(1, 11)),
        list(range(1, 11)),
    ]


async def test_entries_of_a_session_are_written_in_their_order(journal: Journal) -> None:
    owner = await store(attached)
    told: list[int] = []
    for n in range(1, 51):
        journal.submit(append(owner, str(n)), told.append)
        if n % 7 == 0:
            await asyncio.sleep(0)
    await soon(journal.flush())
    assert told == list(range(1, 51))
    assert await store(messages, owner) == [(n, str(n)) for n in range(1, 51)]


async def test_a_round_takes_only_so_many_entries(
    journal: Journal, limits: Callable[..., None]
) -> None:
    limits(round_entries=10)
    owner = await store(attached)
    async with writer_held(journal):
        waiting = [journal.submit(append(owner, str(n))) for n in range(35)]
    assert await soon(asyncio.gather(*waiting)) == list(range(1, 36))
    assert journal.rounds == 4


async def test_callbacks_run_on_the_event_loop_in_order_before_the_writers_go_on(
    journal: Journal,
) -> None:
    owner = await store(attached)
    told: list[tuple[str, int]] = []

    async def write(text: str) -> None:
        def committed(first: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.append((text, first))

        first = await journal.write(append(owner, text), committed)
        assert (text, first) in told

    await soon(asyncio.gather(*(write(text) for text in "abc")))
    assert told == [("a", 1), ("b", 2), ("c", 3)]


async def test_a_callback_that_raises_takes_nothing_from_the_others(journal: Journal) -> None:
    owner = await store(attached)
    told: list[int] = []

    def fails(first: int) -> None:
        raise RuntimeError("a defect in a callback")

    async with writer_held(journal):
        before = journal.submit(append(owner, "1"), told.append)
        bad = journal.submit(append(owner, "2"), fails)
        after = journal.submit(append(owner, "3"), told.append)
    assert await soon(asyncio.gather(before, bad, after)) == [1, 2, 3]
    assert told == [1, 3]
    assert await soon(journal.write(append(owner, "4"))) == 4


async def test_refused_data_is_told_to_its_own_writer_alone(
    journal: Journal, database: Database
) -> None:
    owner, other = await store(attached), await store(attached)
    async with writer_held(journal):
        futures = [
            journal.submit(append(owner, "1")),
            journal.submit(append(owner, refused_by(database))),
            journal.submit(append(owner, "2")),
            journal.submit(complete(other, 1)),
        ]
    first, refused, second, done = await soon(asyncio.gather(*futures, return_exceptions=True))
    assert (first, second, done) == (1, 2, True)
    assert isinstance(refused, Exception)
    assert not isinstance(refused, JournalUnavailable)
    assert journal.healthy


async def test_many_refused_in_a_row_are_no_reason_to_stop(
    journal: Journal, database: Database
) -> None:
    owner = await store(attached)
    for _ in range(12):
        with pytest.raises(Exception, match=r"NUL|surrogates"):
            await soon(journal.write(append(owner, refused_by(database))))
    assert journal.healthy
    assert await soon(journal.write(append(owner, "1"))) == 1


async def test_what_a_taken_over_connection_had_queued_is_fenced(journal: Journal) -> None:
    old = await store(attached)
    async with writer_held(journal):
        journal.submit(append(old, "1"))
        await taken(journal)
        late = [journal.submit(entry) for entry in (append(old, "late"), complete(old, 1))]
        new = asyncio.create_task(
            journal.attach(hello(token=old.token, instance="two"), lambda: True)
        )
        await eventually(lambda: len(journal) == 3, WITHIN)
    owner: Attached = await soon(new)
    outcomes = await soon(asyncio.gather(*late, return_exceptions=True))
    assert [type(one) for one in outcomes] == [Fenced, Fenced]
    assert owner.last_seq == 1
    assert await soon(journal.write(append(owner, "2"))) == 2
    assert await store(messages, owner) == [(1, "1"), (2, "2")]


@pytest.mark.postgres_only
async def test_a_session_locked_elsewhere_holds_up_nobody_and_is_written_after_all(
    journal: Journal, database: Database
) -> None:
    locked, free = await store(attached), await store(attached)
    with locked_elsewhere(database, locked):
        waiting = [journal.submit(append(locked, str(n))) for n in range(3)]
        waiting.append(journal.submit(complete(locked, 1)))
        resume = asyncio.create_task(
            journal.attach(hello(token=locked.token, attempt=2), lambda: True)
        )
        for n in range(1, 6):
            assert await soon(journal.write(append(free, str(n)))) == n
        assert not any(future.done() for future in (*waiting, resume))
        assert journal.healthy
    outcomes = await soon(asyncio.gather(*waiting, resume, return_exceptions=True))
    # Whichever came to the row first: the resume, or what the old owner had queued.
    if isinstance(outcomes[0], Fenced):
        assert [type(one) for one in outcomes[:4]] == [Fenced] * 4
    else:
        assert outcomes[:4] == [1, 2, 3, True]
    assert outcomes[4].generation == 2


# --- withdrawing ------------------------------------------------------------------------------


async def test_what_is_cancelled_before_the_writer_takes_it_is_not_written(
    journal: Journal,
) -> None:
    owner = await store(attached)
    told: list[int] = []
    async with writer_held(journal):
        first = journal.submit(append(owner, "1"))
        await taken(journal)
        withdrawn = asyncio.create_task(journal.write(append(owner, "never"), told.append))
        last = journal.submit(append(owner, "2"))
        await eventually(lambda: len(journal) == 2, WITHIN)
        withdrawn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await withdrawn
    assert await soon(asyncio.gather(first, last)) == [1, 2]
    assert told == []
    assert await store(messages, owner) == [(1, "1"), (2, "2")]


async def test_what_is_cancelled_after_the_writer_took_it_is_written_and_told(
    journal: Journal,
) -> None:
    owner = await store(attached)
    told: list[int] = []
    async with writer_held(journal):
        write = asyncio.create_task(journal.write(append(owner, "1"), told.append))
        await asyncio.sleep(0)
        last = journal.submit(append(owner, "2"), told.append)
        await taken(journal)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
    assert await soon(last) == 2
    assert told == [1, 2]
    assert await store(messages, owner) == [(1, "1"), (2, "2")]


@pytest.mark.parametrize("when", [BEFORE, AFTER])
async def test_what_is_cancelled_while_its_commit_is_unknown_is_settled_and_told(
    when: str, journal: Journal, database: Database
) -> None:
    owner = await store(attached)
    told: list[int] = []
    with breaking_commits(database, iter([when]), thread=WRITER):
        async with writer_held(journal):
            first = journal.submit(append(owner, "1"), told.append)
            await taken(journal)
            first.cancel()
            last = journal.submit(append(owner, "2"), told.append)
        assert await soon(last) == 2
    assert told == [1, 2]
    assert await store(messages, owner) == [(1, "1"), (2, "2")]
