"""Whoever writes for a session holds its row's lock, and has read the generation under it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest
from django.db import transaction

from graceful_ws.models import Session
from graceful_ws.store import nodes, rounds
from graceful_ws.store.attach import Attach, Attached, StaleAttempt, attach
from graceful_ws.store.base import writing
from graceful_ws.store.entries import CountTry, Entry, Fenced, Later, Note, TakePending
from graceful_ws.store.rounds import claim, commit, commit_all, standing
from tests.store.kit import (
    WITHIN,
    Elsewhere,
    append,
    attached,
    complete,
    detach,
    done,
    hello,
    kinds,
    locked_elsewhere,
    messages,
    node,
    refused_by,
    row,
    wait_for_waiters,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def take_over(owner: Attached) -> Attached:
    return attached(token=owner.token, instance="two")


def everything(owner: Attached) -> list[Entry]:
    who = (owner.session, owner.generation)
    return [
        append(owner, "late"),
        complete(owner, 1),
        CountTry(*who, client_seq=1),
        TakePending(*who),
        Note(*who, acked_seq=1),
    ]


def test_nothing_queued_by_the_old_owner_is_written_after_a_take_over() -> None:
    old = attached()
    done(append(old, "1"))
    queued = everything(old)
    new = take_over(old)
    before = Session.objects.filter(pk=old.session).values().get()
    assert kinds(commit_all(queued)) == ["Fenced"] * len(queued)
    assert commit_all([detach(old)]) == [False]
    assert messages(old) == [(1, "1")]
    assert Session.objects.filter(pk=old.session).values().get() == before
    assert done(append(new, "2")) == [2]


@pytest.mark.parametrize("ending", ["detached", "ended", "closed by an operator", "node lost"])
def test_nothing_is_written_for_a_session_that_is_not_attached(ending: str) -> None:
    where = node()
    owner = attached(node=where)
    if ending == "closed by an operator":
        assert nodes.end_session(owner.uuid, 4506, "")
    elif ending == "node lost":
        assert nodes.declare_dead(where, 0)
        assert nodes.detach_dead() == 1
    else:
        done(detach(owner, end=ending == "ended"))
    assert kinds(commit_all(everything(owner))) == ["Fenced"] * 5
    with pytest.raises(Fenced):
        claim(owner.session, owner.generation, 1, ["late"], None, 64)
    assert messages(owner) == []


def test_a_session_that_does_not_exist_is_fenced() -> None:
    nobody = attached()
    Session.objects.all().delete()
    assert kinds(commit_all([append(nobody, "1")])) == ["Fenced"]
    with pytest.raises(Fenced):
        claim(nobody.session, 1, 1, [], None, 64)


class Paused:
    """Stops a write transaction in another thread just before it asks for its locks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.thread: int | None = None
        original = rounds._lock

        def lock(*args: Any) -> Any:
            if threading.get_ident() == self.thread:
                self.reached.set()
                assert self.go.wait(WITHIN)
            return original(*args)

        monkeypatch.setattr(rounds, "_lock", lock)

    def commit(self, entries: list[Entry]) -> list[Any]:
        self.thread = threading.get_ident()
        return commit_all(entries)


@pytest.mark.postgres_only
def test_a_take_over_between_the_begin_and_the_lock_of_a_round_fences_it(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = attached()
    paused = Paused(monkeypatch)
    outcomes = elsewhere.start(paused.commit, [append(old, "late")])
    assert paused.reached.wait(WITHIN)
    new = take_over(old)
    assert done(append(new, "1")) == [1]
    paused.go.set()
    assert kinds(outcomes.result(WITHIN)) == ["Fenced"]
    assert messages(old) == [(1, "1")]


@pytest.mark.postgres_only
def test_a_claim_that_waits_for_a_take_over_under_way_is_fenced(
    database: Database, elsewhere: Elsewhere
) -> None:
    old = attached()

    def handler() -> None:
        with transaction.atomic():
            claim(old.session, old.generation, 1, ["late"], None, 64)

    late: Future[None]
    with transaction.atomic():
        new = take_over(old)
        late = elsewhere.start(handler)
        wait_for_waiters(database)
    with pytest.raises(Fenced):
        late.result(WITHIN)
    assert messages(old) == []
    assert row(old).last_client_seq == 0
    assert done(complete(new, 1)) == [True]


@pytest.mark.postgres_only
def test_a_take_over_waits_for_a_claim_under_way_and_sees_its_number(
    elsewhere: Elsewhere,
) -> None:
    old = attached()
    with transaction.atomic():
        claim(old.session, old.generation, 1, ["reply"], '{"result":1}', 64)
        hellos = [hello(token=old.token, instance="two", pending_from=1)]
        [outcome] = elsewhere.run(attach, hellos)
        assert isinstance(outcome, Later)
    [new] = attach(hellos)
    assert (new.last_seq, new.last_client_seq) == (1, 1)
    assert new.outcomes == {1: '{"result":1}'}


@pytest.mark.postgres_only
def test_a_session_locked_elsewhere_waits_and_the_rest_of_the_round_commits(
    database: Database,
) -> None:
    locked, free = attached(), attached()
    mine = [append(locked, "1"), append(locked, "2"), complete(locked, 1)]
    with locked_elsewhere(database, locked):
        outcomes = commit_all([mine[0], append(free, "1"), *mine[1:], detach(free)])
        assert kinds(outcomes) == ["Later", "", "Later", "Later", ""]
        assert messages(free) == [(1, "1")]
        assert kinds(commit_all(mine)) == ["Later"] * 3
    assert done(*mine) == [1, 2, True]
    assert messages(locked) == [(1, "1"), (2, "2")]


@pytest.mark.postgres_only
def test_a_lock_that_ends_while_a_refused_round_is_cut_does_not_change_the_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half finds the row locked and the second finds it free: what was queued later
    must not overtake."""
    owner, other = attached(), attached()
    with locked_elsewhere(database, owner) as holder:
        rounds_begun = 0

        def release(entries: Any) -> Any:
            nonlocal rounds_begun
            rounds_begun += 1
            if rounds_begun == 3:  # the whole round was refused, the first half has committed
                holder.rollback()
            return commit(entries)

        monkeypatch.setattr(rounds, "commit", release)
        first, second = append(owner, "first"), append(owner, "second")
        outcomes = commit_all(
            [first, append(other, "1"), append(other, refused_by(database)), second]
        )
    assert rounds_begun >= 3
    again = [
        entry
        for entry, outcome in zip([first, second], [outcomes[0], outcomes[3]], strict=True)
        if isinstance(outcome, Later)
    ]
    done(*again)
    assert messages(owner) == [(1, "first"), (2, "second")]
    assert messages(other) == [(1, "1")]


@pytest.mark.postgres_only
def test_a_hello_for_a_session_locked_elsewhere_waits_and_the_others_attach(
    database: Database,
) -> None:
    locked, free = attached(), attached()
    waiting = hello(token=locked.token, attempt=2)
    with locked_elsewhere(database, locked):
        outcomes = attach([waiting, hello(token=free.token, attempt=2), hello()])
        assert kinds(outcomes) == ["Later", "", ""]
        assert row(locked).generation == 1
    [outcome] = attach([waiting])
    assert outcome.resumed
    assert outcome.session == locked.session
    assert outcome.generation == 2


@pytest.mark.postgres_only
def test_a_hello_that_waited_for_the_lock_of_its_successor_is_stale(elsewhere: Elsewhere) -> None:
    owner = attached()
    abandoned = hello(token=owner.token, attempt=2)
    with writing():
        successor = attached(token=owner.token, attempt=3)
        assert kinds(elsewhere.run(attach, [abandoned])) == ["Later"]
    [outcome] = attach([abandoned])
    assert isinstance(outcome, StaleAttempt)
    assert row(owner).generation == successor.generation == 2


@pytest.mark.postgres_only
def test_a_lock_on_the_user_row_does_not_hold_up_the_session(
    database: Database, elsewhere: Elsewhere
) -> None:
    """``select_for_update()`` on its user in a view must not block the writer's commit."""
    from django.contrib.auth.models import User

    from graceful_ws.store.attach import Identity

    user = User.objects.create_user("visitor")
    who = Identity(user_id=user.pk, auth_hash="hash")
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        [owner] = elsewhere.run(attach, [hello(identity=who)])
        assert elsewhere.run(commit_all, [append(owner, "1"), complete(owner, 1)]) == [1, True]


@pytest.mark.postgres_only
def test_a_foreign_key_to_the_session_does_not_hold_up_its_writer(database: Database) -> None:
    """A row that refers to the session, in a transaction still open, shares a lock on its key."""
    owner = attached()
    with psycopg.connect(database.url) as other:
        other.execute(
            "SELECT id FROM graceful_ws_session WHERE id = %s FOR KEY SHARE", (owner.session,)
        )
        assert done(append(owner, "1"), complete(owner, 1)) == [1, True]
        assert attached(token=owner.token, attempt=2).resumed
        other.rollback()


@pytest.mark.postgres_only
def test_standing_says_nothing_while_a_commit_may_be_under_way(elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():
        claim(owner.session, owner.generation, 1, ["reply"], '{"result":1}', 64)
        with pytest.raises(Later):
            elsewhere.run(standing, owner.session, 1)
    found = standing(owner.session, 1)
    assert found is not None
    numbers, outcome = found
    assert (numbers.last_seq, numbers.last_client_seq, outcome) == (1, 1, '{"result":1}')


def test_standing_of_a_session_that_does_not_exist_is_none() -> None:
    assert standing(12345, 1) is None


@pytest.mark.sqlite_only
def test_a_write_transaction_on_sqlite_locks_out_others_from_its_first_moment(
    elsewhere: Elsewhere,
) -> None:
    """A deferred one that has read gets SQLITE_BUSY at once when it wants to write."""
    owner = attached()
    with writing():
        assert row(owner).last_seq == 0
        late = elsewhere.start(commit_all, [append(owner, "1")])
        with pytest.raises(TimeoutError):
            late.result(0.2)
        Session.objects.filter(pk=owner.session).update(user_agent="changed")
    assert late.result(WITHIN) == [1]


def test_two_writers_and_take_overs_never_share_a_number(elsewhere: Elsewhere) -> None:
    """Owners come and go while two threads append for whom they believe to own the session."""
    first = attached()
    owners = [first]
    told: list[tuple[int, str]] = []
    stop = threading.Event()

    def writer(name: str) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            owner = owners[-1]
            text = f'"{name}:{n}:{owner.generation}"'
            [outcome] = commit_all([append(owner, text)])
            if isinstance(outcome, int):
                told.append((outcome, text))
            else:
                assert isinstance(outcome, Fenced | Later), outcome

    running = [elsewhere.start(writer, name) for name in "ab"]
    try:
        for attempt in range(2, 22):
            outcome: Any = Later()
            entry: Attach = hello(token=first.token, attempt=attempt)
            while isinstance(outcome, Later):
                [outcome] = attach([entry])
            owners.append(outcome)
    finally:
        stop.set()
        for future in running:
            future.result(WITHIN)
    kept = messages(first)
    assert [seq for seq, _ in kept] == list(range(1, len(kept) + 1))
    assert sorted(told) == kept
    generations = [int(text.strip('"').split(":")[2]) for _, text in kept]
    assert generations == sorted(generations)
