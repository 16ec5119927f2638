"""``send_to_session``: left by anyone in any transaction, numbered by the session's owner."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import wait

import pytest
from django.db import transaction

from graceful_ws.models import OutboundMessage
from graceful_ws.publishing import SessionUnknown, asend_to_session, send_to_session
from graceful_ws.store import nodes, pending
from graceful_ws.store.attach import Attached
from graceful_ws.store.entries import TakePending
from graceful_ws.store.rounds import commit_all, page
from graceful_ws.store.wakers import wakers
from tests.store.kit import (
    WITHIN,
    Elsewhere,
    append,
    attached,
    detach,
    done,
    kinds,
    locked_elsewhere,
    messages,
    node,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def take(owner: Attached) -> TakePending:
    return TakePending(owner.session, owner.generation)


@pytest.fixture
def woken() -> Iterator[list[int]]:
    """The sessions whose owners in this process were told that something waits."""
    heard: list[int] = []

    class Heard:
        def published(self, stream: str) -> bool:
            return True

        def left(self, sessions: Iterable[tuple[int, uuid.UUID | None]]) -> bool:
            heard.extend(pk for pk, _ in sessions)
            return True

    waker = Heard()
    wakers.append(waker)
    yield heard
    wakers.remove(waker)


def test_what_is_sent_waits_without_a_number_until_its_owner_takes_it() -> None:
    owner = attached()
    done(append(owner, "1"))
    send_to_session(owner.uuid, {"n": 2})
    send_to_session(str(owner.uuid), 3)
    assert (row(owner).last_seq, page(owner.session, 0, 10)) == (1, [(1, "1")])
    assert done(take(owner)) == [(2, ['{"n":2}', "3"])]
    assert page(owner.session, 0, 10) == [(1, "1"), (2, '{"n":2}'), (3, "3")]
    assert row(owner).last_seq == 3
    assert done(append(owner, "4")) == [4]


async def test_coroutines_wait_until_it_is_kept() -> None:
    owner = await _in_django_thread(attached)
    await asend_to_session(owner.uuid, 1)
    assert await _in_django_thread(lambda: done(take(owner))) == [(1, ["1"])]


async def _in_django_thread(function):  # type: ignore[no-untyped-def]
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


def test_nothing_waits_after_a_rollback(woken: list[int]) -> None:
    owner = attached()
    with pytest.raises(RuntimeError), transaction.atomic():
        send_to_session(owner.uuid, 1)
        raise RuntimeError
    assert done(take(owner)) == [(1, [])]
    assert woken == []
    assert not OutboundMessage.objects.exists()


def test_the_owner_hears_of_it_after_the_commit(woken: list[int], elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():
        send_to_session(owner.uuid, 1)
        assert woken == []
        assert elsewhere.run(pending.waiting, row(owner).node_id) == []
    assert woken == [owner.session]
    send_to_session(owner.uuid, 2)
    assert woken == [owner.session] * 2
    assert done(take(owner)) == [(1, ["1", "2"])]


def test_what_is_sent_first_is_numbered_first_also_across_savepoints() -> None:
    owner = attached()
    with transaction.atomic():
        send_to_session(owner.uuid, 1)
        with transaction.atomic():
            send_to_session(owner.uuid, 2)
        with pytest.raises(RuntimeError), transaction.atomic():
            send_to_session(owner.uuid, "undone")
            raise RuntimeError
        send_to_session(owner.uuid, 3)
    assert done(take(owner)) == [(1, ["1", "2", "3"])]


@pytest.mark.postgres_only
def test_it_takes_no_lock_on_the_session(database: Database, elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():  # which stays open while others write for the session
        send_to_session(owner.uuid, "slow")
        assert elsewhere.run(lambda: done(append(owner, "1"))) == [1]
    with locked_elsewhere(database, owner):
        elsewhere.run(send_to_session, owner.uuid, "quick")
    assert done(take(owner)) == [(2, ['"slow"', '"quick"'])]


@pytest.mark.postgres_only
def test_transactions_that_commit_in_reverse_order_lose_nothing(elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():
        send_to_session(owner.uuid, "first inserted")
        elsewhere.run(send_to_session, owner.uuid, "first committed")
        assert elsewhere.run(lambda: done(take(owner))) == [(1, ['"first committed"'])]
    assert done(take(owner)) == [(2, ['"first inserted"'])]
    assert messages(owner) == [(1, '"first committed"'), (2, '"first inserted"')]


@pytest.mark.postgres_only
def test_of_what_waits_together_the_first_inserted_goes_first(elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():
        send_to_session(owner.uuid, 1)
        elsewhere.run(send_to_session, owner.uuid, 2)
    assert done(take(owner)) == [(1, ["1", "2"])]


def test_a_detached_session_gets_it_when_it_resumes() -> None:
    old = attached()
    done(append(old, "1"), detach(old))
    send_to_session(old.uuid, 2)
    assert kinds(commit_all([take(old)])) == ["Fenced"]
    owner = attached(token=old.token, attempt=2)
    assert done(take(owner)) == [(2, ["2"])]
    assert messages(owner) == [(1, "1"), (2, "2")]


@pytest.mark.parametrize("which", ["never was", "not an id", "bye", "closed by an operator"])
def test_a_session_that_is_not_there_is_an_error(which: str) -> None:
    owner = attached()
    public_id: str | uuid.UUID = owner.uuid
    if which == "never was":
        public_id = uuid.uuid4()
    elif which == "not an id":
        public_id = "nobody"
    elif which == "bye":
        done(detach(owner, end=True))
    else:
        nodes.end_session(owner.uuid, 4506, "")
    with pytest.raises(SessionUnknown):
        send_to_session(public_id, 1)
    assert not OutboundMessage.objects.exists()


def test_data_that_cannot_be_sent_is_an_error_and_not_kept() -> None:
    owner = attached()
    for data in (float("nan"), "\ud800", "é" * 600_000):
        with pytest.raises(ValueError, match=r".+"):
            send_to_session(owner.uuid, data)
    with pytest.raises(TypeError):
        send_to_session(owner.uuid, object())
    assert not OutboundMessage.objects.exists()


def test_taking_twice_takes_each_message_once() -> None:
    owner = attached()
    send_to_session(owner.uuid, 1)
    assert done(take(owner), append(owner, "2"), take(owner)) == [(1, ["1"]), 2, (3, [])]
    assert done(take(owner)) == [(3, [])]
    assert messages(owner) == [(1, "1"), (2, "2")]


def test_what_waits_for_one_session_is_not_taken_for_another() -> None:
    owner, other = attached(), attached()
    send_to_session(owner.uuid, 1)
    send_to_session(other.uuid, 2)
    assert done(take(other), append(owner, "3")) == [(1, ["2"]), 1]
    assert done(take(owner)) == [(2, ["1"])]


@pytest.mark.postgres_only
def test_what_waits_for_a_session_locked_elsewhere_stays(database: Database) -> None:
    locked, free = attached(), attached()
    send_to_session(locked.uuid, 1)
    send_to_session(free.uuid, 2)
    entries = [take(locked), take(free)]
    with locked_elsewhere(database, locked):
        assert kinds(commit_all(entries)) == ["Later", ""]
    assert done(entries[0]) == [(1, ["1"])]


def test_a_node_finds_the_sessions_for_which_something_waits() -> None:
    here, there = node("here"), node("there")
    mine, busy, detached = (attached(node=here) for _ in range(3))
    theirs = attached(node=there)
    done(append(busy, "1"), detach(detached))
    for owner in (mine, mine, detached, theirs):
        send_to_session(owner.uuid, 1)
    assert pending.waiting(here) == [mine.session]
    assert pending.waiting(there) == [theirs.session]
    done(take(mine))
    assert pending.waiting(here) == []


def test_senders_and_the_owner_at_the_same_time_lose_and_double_nothing(
    elsewhere: Elsewhere,
) -> None:
    owner = attached()

    def send(name: int) -> None:
        for n in range(10):
            send_to_session(owner.uuid, f"{name}:{n}")

    senders = [elsewhere.start(send, name) for name in range(3)]
    told: list[tuple[int, str]] = []

    def take_all() -> None:
        [(first, taken)] = done(take(owner))
        told.extend(enumerate(taken, first))

    while wait(senders, timeout=0.01).not_done:  # SQLite lets the others in only between
        take_all()
    for sender in senders:
        sender.result(WITHIN)
    take_all()
    assert messages(owner) == told
    assert [seq for seq, _ in told] == list(range(1, 31))
    for name in "012":
        own = [text for _, text in told if text[1] == name]
        assert own == [f'"{name}:{n}"' for n in range(10)]
