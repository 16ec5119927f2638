"""An entry that nobody waits for lets others join its round, and is not forgotten for it."""

from __future__ import annotations

import asyncio

import pytest

from graceful_ws.node import journal as under_test
from graceful_ws.node.journal import Journal
from tests.node.kit import soon, store, taken, writer_held
from tests.store.kit import append, attached, complete, messages, row

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only others end the patience."""
    monkeypatch.setattr(under_test, "PATIENCE", 3600.0)


async def test_a_patient_entry_is_written_though_nobody_else_comes(journal: Journal) -> None:
    owner = await store(attached)
    for seq in (1, 2):
        assert await soon(journal.submit(complete(owner, seq), patient=True))
    assert (await store(row, owner)).last_client_seq == 2
    assert journal.rounds == 2


@pytest.mark.usefixtures("for_ever")
async def test_who_comes_takes_it_along_in_the_order_of_their_coming(journal: Journal) -> None:
    owner = await store(attached)
    told: list[str] = []
    patient = journal.submit(complete(owner, 1), lambda _: told.append("done"), patient=True)
    await asyncio.sleep(0.02)
    assert not patient.done()
    assert await soon(journal.write(append(owner, "reply"), lambda _: told.append("reply"))) == 1
    assert patient.done()
    assert told == ["done", "reply"]
    assert journal.rounds == 1


@pytest.mark.usefixtures("for_ever")
async def test_one_that_comes_during_a_round_has_had_its_patience_when_another_waits(
    journal: Journal,
) -> None:
    owner = await store(attached)
    async with writer_held(journal):
        first = journal.submit(append(owner, "first"))
        await taken(journal)
        waiting = [
            journal.submit(append(owner, "second")),
            journal.submit(complete(owner, 1), patient=True),
        ]
    await soon(asyncio.gather(first, *waiting))
    assert journal.rounds == 2


async def test_one_that_comes_alone_during_a_round_is_written_after_it(journal: Journal) -> None:
    owner = await store(attached)
    async with writer_held(journal):
        first = journal.submit(append(owner, "first"))
        await taken(journal)
        patient = journal.submit(complete(owner, 1), patient=True)
        await asyncio.sleep(5 * under_test.PATIENCE)  # which ends meanwhile
    await soon(asyncio.gather(first, patient))
    assert (await store(row, owner)).last_client_seq == 1


async def test_a_flush_waits_for_it(journal: Journal) -> None:
    owner = await store(attached)
    patient = journal.submit(complete(owner, 1), patient=True)
    await soon(journal.flush())
    assert patient.done()


@pytest.mark.usefixtures("for_ever")
async def test_it_ends_with_the_journal(journal: Journal) -> None:
    owner = await store(attached)
    patient = journal.submit(complete(owner, 1), patient=True)
    timer = journal._patience
    assert timer is not None
    await journal.stop()
    assert patient.cancelled()
    assert timer.cancelled()
    await soon(journal.flush())  # nobody waits for it
    assert await store(messages, owner) == []
