"""Which session a hello gets, and what becomes of the connection that had it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from graceful_ws.models import Session, Subscription
from graceful_ws.store import nodes
from graceful_ws.store.attach import (
    Followed,
    Identity,
    OtherIdentity,
    StaleAttempt,
    attach,
    hash_token,
)
from graceful_ws.store.entries import CountTry, Note
from graceful_ws.store.rounds import commit_all
from tests.store.kit import (
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
    row,
    statements,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")

ANNA = Identity(user_id=1, auth_hash="a")


def snapshot() -> list[dict[str, Any]]:
    return list(Session.objects.order_by("pk").values())


# --- new --------------------------------------------------------------------------------------


def test_a_hello_without_a_token_makes_a_session(database: Database) -> None:
    where = node()
    owner = attached(node=where, remote_address="127.0.0.1", user_agent="test", identity=ANNA)
    assert owner.token is not None
    assert not owner.resumed
    assert (owner.generation, owner.last_seq, owner.last_client_seq) == (1, 0, 0)
    assert (owner.position, owner.tries, dict(owner.outcomes)) == (0, 0, {})
    assert list(owner.subscriptions) == []
    kept = row(owner)
    assert (kept.uuid, kept.state, kept.node_id) == (owner.uuid, "attached", where)
    assert (kept.remote_address, kept.user_agent, kept.user_id) == ("127.0.0.1", "test", 1)
    assert kept.left_at is kept.ended_at is None


def test_the_token_itself_is_not_stored() -> None:
    owner = attached()
    assert owner.token is not None
    kept = row(owner)
    assert bytes(kept.token_hash) == hash_token(owner.token) == owner.token_hash
    assert owner.token not in repr(snapshot())


def test_an_unknown_token_gets_a_new_session_and_a_new_token() -> None:
    owner = attached(token="unknown", attempt=7)
    assert not owner.resumed
    assert owner.token not in (None, "unknown")
    assert kinds(attach([hello(token="unknown")])) == [""]
    assert Session.objects.count() == 2


def test_a_wrong_token_gets_the_same_answer_as_an_unknown_one() -> None:
    old = attached(identity=ANNA)
    assert old.token is not None
    before = snapshot()
    owner = attached(token=old.token[:-1] + "?")
    assert not owner.resumed
    assert owner.session != old.session
    assert snapshot()[:1] == before


# --- resume -----------------------------------------------------------------------------------


def test_a_resume_finds_the_numbers_and_goes_on_behind_them() -> None:
    old = attached(identity=ANNA)
    done(append(old, "1", "2"), complete(old, 1))
    done(detach(old))
    where = node()
    owner = attached(token=old.token, attempt=2, last_seq_id=1, identity=ANNA, node=where)
    assert (owner.session, owner.uuid, owner.token) == (old.session, old.uuid, None)
    assert (owner.resumed, owner.taken_over, owner.generation) == (True, False, 2)
    assert (owner.last_seq, owner.last_client_seq, owner.position) == (2, 1, 1)
    kept = row(owner)
    assert (kept.state, kept.node_id, kept.left_at, kept.resumes) == ("attached", where, None, 1)
    assert (kept.close_code, kept.close_reason, kept.cause) == (None, "", "")
    assert done(append(owner, "3"), complete(owner, 2)) == [3, True]


def test_a_resume_reads_and_consumes_nothing() -> None:
    old = attached()
    done(append(old, "1", "2"), complete(old, 1, '{"result":1}'), complete(old, 2))
    answers = [
        attached(token=old.token, attempt=attempt, last_seq_id=0, pending_from=1)
        for attempt in (2, 3, 4)
    ]
    assert [answer.generation for answer in answers] == [2, 3, 4]
    for answer in answers:
        assert (answer.last_seq, answer.position, answer.outcomes) == (2, 0, {1: '{"result":1}'})
    assert messages(old) == [(1, "1"), (2, "2")]


def test_without_a_position_the_replay_starts_behind_what_was_acknowledged() -> None:
    old = attached()
    done(append(old, "1", "2", "3"), Note(old.session, old.generation, acked_seq=2))
    assert attached(token=old.token, attempt=2).position == 2


@pytest.mark.parametrize(("instance", "position"), [("one", 2), ("two", 1)])
def test_a_hello_older_than_its_own_acknowledgement_goes_on_behind_that(
    instance: str, position: int
) -> None:
    """Its rows are gone, and the same client object has them; another one is told of the gap."""
    old = attached()
    done(append(old, "1", "2", "3"), Note(old.session, old.generation, acked_seq=2))
    owner = attached(token=old.token, attempt=2, instance=instance, last_seq_id=1)
    assert owner.position == position


def test_outcomes_are_told_from_where_the_client_asks() -> None:
    old = attached()
    done(*(complete(old, seq, f'{{"result":{seq}}}') for seq in range(1, 6)))
    for asked, told in ((1, [1, 2, 3, 4, 5]), (4, [4, 5]), (5, [5]), (6, []), (None, [])):
        attempt = row(old).attempt + 1
        owner = attached(token=old.token, attempt=attempt, pending_from=asked)
        assert list(owner.outcomes) == told
    assert owner.last_client_seq == 5


def test_each_resume_of_a_round_gets_its_own_outcomes_and_subscriptions() -> None:
    olds = [attached() for _ in range(3)]
    for old, stream in zip(olds, "abc", strict=True):
        done(complete(old, 1, f'{{"result":"{stream}"}}'), complete(old, 2, '{"result":2}'))
        Subscription.objects.create(session_id=old.session, stream=stream, epoch="e", from_seq=3)
    froms = (1, 2, None)
    owners = attach(
        [
            hello(token=old.token, attempt=2, pending_from=start)
            for old, start in zip(olds, froms, strict=True)
        ]
    )
    assert [list(owner.outcomes) for owner in owners] == [[1, 2], [2], []]
    assert [owner.subscriptions for owner in owners] == [
        [Followed(s, "e", 3, 0, None)] for s in "abc"
    ]


@pytest.mark.parametrize("late", [False, True])
def test_a_session_can_be_resumed_for_its_window(late: bool) -> None:
    old = attached()
    done(append(old, "1"), detach(old))
    left = timezone.now() - timedelta(seconds=600 + (10 if late else -10))
    Session.objects.filter(pk=old.session).update(left_at=left)
    owner = attached(token=old.token, attempt=2, resume_window=600.0)
    assert owner.resumed == (not late)
    assert (owner.session == old.session) == (not late)
    assert (owner.token is None) == (not late)


def test_an_attached_session_does_not_expire() -> None:
    old = attached()
    long_ago = timezone.now() - timedelta(days=2)
    Session.objects.filter(pk=old.session).update(attached_at=long_ago, seen_at=long_ago)
    assert attached(token=old.token, attempt=2).resumed


@pytest.mark.parametrize("how", ["bye", "operator", "other consumer", "not resumable"])
def test_what_cannot_be_resumed_gets_a_new_session_and_stays_as_it_is(how: str) -> None:
    old = attached(resumable=how != "not resumable")
    if how == "bye":
        done(detach(old, end=True))
    elif how == "operator":
        nodes.end_session(old.uuid, 4506, "")
    before = snapshot()
    consumer = "tests.consumers.Ledger" if how == "other consumer" else "tests.consumers.Echo"
    owner = attached(token=old.token, attempt=2, consumer=consumer)
    assert not owner.resumed
    assert owner.token not in (None, old.token)
    assert snapshot()[:1] == before


# --- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (ANNA, Identity(user_id=2, auth_hash="a")),
        (ANNA, Identity(user_id=1, auth_hash="changed")),
        (ANNA, Identity()),
        (Identity(), ANNA),
        (Identity(session_key_hash="k"), Identity(session_key_hash="other")),
        (Identity(session_key_hash="k"), Identity()),
    ],
    ids=["user", "auth hash", "logged out", "logged in", "session key", "no session key"],
)
def test_a_token_is_worth_nothing_to_another_identity(mine: Identity, theirs: Identity) -> None:
    old = attached(identity=mine)
    before = snapshot()
    for instance in ("one", "two"):
        [outcome] = attach([hello(token=old.token, attempt=2, identity=theirs, instance=instance)])
        assert isinstance(outcome, OtherIdentity)
    assert snapshot() == before
    assert attached(token=old.token, attempt=2, identity=mine).resumed


def test_a_session_made_without_a_django_session_can_be_resumed_with_one() -> None:
    old = attached(identity=Identity())
    assert attached(token=old.token, attempt=2, identity=Identity(session_key_hash="k")).resumed


# --- instances and attempts -------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [4, 5])
def test_the_same_instance_needs_a_greater_attempt_and_else_nothing_changes(attempt: int) -> None:
    old = attached(attempt=5)
    done(append(old, "1"))
    before = snapshot()
    [outcome] = attach([hello(token=old.token, attempt=attempt)])
    assert isinstance(outcome, StaleAttempt)
    assert snapshot() == before
    assert done(append(old, "2")) == [2]


def test_another_instance_takes_over_whatever_its_attempt() -> None:
    old = attached(attempt=5)
    done(append(old, "1"), complete(old, 1), CountTry(old.session, old.generation, client_seq=2))
    owner = attached(token=old.token, instance="two", attempt=0)
    assert (owner.resumed, owner.taken_over, owner.generation) == (True, True, 2)
    assert (owner.last_seq, owner.last_client_seq, owner.tries) == (1, 1, 0)
    assert row(owner).tries == 0
    assert done(append(owner, "2"), complete(owner, 2)) == [2, True]


def test_the_same_instance_keeps_the_count_of_starts() -> None:
    old = attached()
    done(CountTry(old.session, old.generation, client_seq=1))
    owner = attached(token=old.token, attempt=2)
    assert (owner.taken_over, owner.tries) == (False, 1)
    assert done(CountTry(owner.session, owner.generation, client_seq=1)) == [2]


def test_the_same_hello_twice_in_two_rounds_attaches_once() -> None:
    old = attached()
    entry, again = (hello(token=old.token, attempt=2) for _ in range(2))
    [owner] = attach([entry])
    assert kinds(attach([again])) == ["StaleAttempt"]
    assert row(old).generation == owner.generation == 2
    assert done(append(owner, "1")) == [1]


def test_the_same_hello_twice_in_one_round_attaches_once() -> None:
    old = attached()
    owner, refused = attach([hello(token=old.token, attempt=2) for _ in range(2)])
    assert isinstance(refused, StaleAttempt)
    assert row(old).generation == owner.generation == 2


@pytest.mark.postgres_only
def test_the_same_hello_twice_attaches_once_when_the_first_found_the_row_locked(
    database: Database,
) -> None:
    old = attached()
    entry, again = (hello(token=old.token, attempt=2) for _ in range(2))
    with locked_elsewhere(database, old):
        assert kinds(attach([entry])) == ["Later"]
    [owner] = attach([again])
    assert owner.generation == 2
    assert kinds(attach([entry])) == ["StaleAttempt"]


def test_an_abandoned_hello_that_comes_after_its_successor_changes_nothing() -> None:
    old = attached()
    owner = attached(token=old.token, attempt=3)
    before = snapshot()
    assert kinds(attach([hello(token=old.token, attempt=2)])) == ["StaleAttempt"]
    assert snapshot() == before
    assert done(append(owner, "1")) == [1]


@pytest.mark.parametrize("instances", [("one", "one"), ("one", "two"), ("two", "three")])
def test_two_hellos_of_one_round_do_not_share_a_generation(instances: tuple[str, str]) -> None:
    old = attached()
    first, second = attach(
        [
            hello(token=old.token, attempt=attempt, instance=instance)
            for attempt, instance in enumerate(instances, 2)
        ]
    )
    assert (first.generation, second.generation) == (2, 3)
    assert row(old).generation == 3
    assert done(append(second, "1")) == [1]
    assert kinds(commit_all([append(first, "late")])) == ["Fenced"]


# --- many in one round ------------------------------------------------------------------------


def hellos(count: int) -> list[Any]:
    """So many new ones, so many that resume and one that is refused."""
    olds = [attached() for _ in range(count)]
    for old in olds:
        done(complete(old, 1, '{"result":1}'))
    resumed = [hello(token=old.token, attempt=2, pending_from=1) for old in olds]
    mixed = [entry for pair in zip(resumed, map(_new, olds), strict=True) for entry in pair]
    return [*mixed, hello(token=olds[0].token, attempt=1)]


def _new(_: Any) -> Any:
    return hello()


def test_a_round_takes_as_many_statements_for_thirty_hellos_as_for_four() -> None:
    counts = []
    for many in (2, 15):
        entries = hellos(many)
        with statements() as seen:
            outcomes = attach(entries)
        assert kinds(outcomes) == [""] * (2 * many) + ["StaleAttempt"]
        assert [one.resumed for one in outcomes[:-1]] == [True, False] * many
        assert all(one.outcomes == {1: '{"result":1}'} for one in outcomes[:-1:2])
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 10


def test_a_thousand_hellos_of_a_reconnect_storm_attach_in_one_round() -> None:
    owners = attach([hello() for _ in range(1000)])
    assert len({owner.session for owner in owners}) == 1000
    assert len({owner.token for owner in owners}) == 1000
    done(*(complete(owner, 1, '{"result":1}') for owner in owners))
    again = attach([hello(token=one.token, attempt=2, pending_from=1) for one in owners])
    assert [one.session for one in again] == [one.session for one in owners]
    assert all(one.resumed and one.generation == 2 and len(one.outcomes) == 1 for one in again)
