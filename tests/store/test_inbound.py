"""What became of a client's numbers: each is done once, with its outcome and its replies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from graceful_ws.store.attach import Attached
from graceful_ws.store.base import writing
from graceful_ws.store.entries import CountTry, Fenced
from graceful_ws.store.rounds import claim, commit_all, standing
from tests.store.kit import (
    WITHIN,
    Elsewhere,
    append,
    attached,
    complete,
    done,
    kinds,
    locked_elsewhere,
    messages,
    outcomes_kept,
    refused_by,
    row,
    wait_for_waiters,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")

NACK = '{"nack":{"code":"timeout"}}'


def count_try(owner: Attached, seq: int) -> CountTry:
    return CountTry(owner.session, owner.generation, client_seq=seq)


# --- completions ------------------------------------------------------------------------------


def test_a_completion_moves_the_number_by_one() -> None:
    owner = attached()
    assert done(complete(owner, 1), complete(owner, 2, '{"result":2}')) == [True, True]
    assert done(complete(owner, 3)) == [True]
    assert row(owner).last_client_seq == 3
    assert outcomes_kept(owner) == {2: '{"result":2}'}


@pytest.mark.parametrize("seq", [2, 3, 100])
def test_a_number_that_is_not_the_next_one_is_not_taken(seq: int) -> None:
    owner = attached()
    assert kinds(commit_all([complete(owner, seq, "{}")])) == ["Fenced"]
    assert row(owner).last_client_seq == 0
    assert outcomes_kept(owner) == {}


def test_a_number_is_taken_once_and_its_first_outcome_stays() -> None:
    owner = attached()
    assert done(complete(owner, 1, '{"result":1}')) == [True]
    assert done(complete(owner, 1, NACK)) == [False]
    assert done(complete(owner, 1, '{"result":1}')) == [False]
    assert done(complete(owner, 1)) == [False]
    assert row(owner).last_client_seq == 1
    assert outcomes_kept(owner) == {1: '{"result":1}'}


def test_a_number_is_taken_once_within_one_round() -> None:
    owner = attached()
    assert done(complete(owner, 1, '{"result":1}'), complete(owner, 1, NACK)) == [True, False]
    assert outcomes_kept(owner) == {1: '{"result":1}'}


def test_a_completion_and_messages_of_its_handler_keep_their_order() -> None:
    owner = attached()
    assert done(append(owner, "a"), complete(owner, 1), append(owner, "b")) == [1, True, 2]
    assert (row(owner).last_seq, row(owner).last_client_seq) == (2, 1)


def test_only_outcomes_of_late_numbers_are_kept() -> None:
    owner = attached()
    for seq in range(1, 31):
        done(complete(owner, seq, f'{{"result":{seq}}}', keep=8))
        kept = list(outcomes_kept(owner))
        assert kept == list(range(kept[0], seq + 1))
        assert min(seq, 8) <= len(kept) < 16
    assert outcomes_kept(owner)[30] == '{"result":30}'


def test_only_outcomes_of_late_numbers_are_kept_when_all_come_in_one_round() -> None:
    owner, other = attached(), attached()
    done(complete(other, 1, "{}", keep=8))
    done(*(complete(owner, seq, "{}", keep=8) for seq in range(1, 31)))
    assert set(range(23, 31)) <= outcomes_kept(owner).keys() <= set(range(16, 31))
    assert outcomes_kept(other) == {1: "{}"}


# --- starts -----------------------------------------------------------------------------------


def test_each_start_is_counted_until_the_number_is_done() -> None:
    owner = attached()
    assert done(count_try(owner, 1)) == [1]
    assert done(count_try(owner, 1)) == [2]
    assert done(complete(owner, 1, NACK)) == [True]
    assert row(owner).tries == 0
    assert done(count_try(owner, 2)) == [1]


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_a_start_of_another_number_is_not_counted(seq: int) -> None:
    owner = attached()
    done(complete(owner, 1))
    assert kinds(commit_all([count_try(owner, seq)])) == ["Fenced"]
    assert row(owner).tries == 0


# --- receive_in_transaction -------------------------------------------------------------------


def handler(owner: Attached, seq: int, *replies: str) -> int:
    """Creates a user, then takes the number: as ``receive_in_transaction`` does."""
    with writing():
        User.objects.create_user(f"visitor {seq}")
        return claim(owner.session, owner.generation, seq, replies, '{"result":"booked"}', 64)


def effects() -> int:
    return User.objects.count()


def test_effect_number_outcome_and_replies_commit_together() -> None:
    owner = attached()
    done(append(owner, "1"), count_try(owner, 1))
    assert handler(owner, 1, "2", "3") == 2
    assert messages(owner) == [(1, "1"), (2, "2"), (3, "3")]
    assert outcomes_kept(owner) == {1: '{"result":"booked"}'}
    kept = row(owner)
    assert (kept.last_seq, kept.last_client_seq, kept.tries, effects()) == (3, 1, 0, 1)
    assert handler(owner, 2) == 4


def test_nothing_is_seen_of_it_before_the_commit(elsewhere: Elsewhere) -> None:
    owner = attached()
    with transaction.atomic():
        handler(owner, 1, "reply")
        assert elsewhere.run(lambda: (messages(owner), outcomes_kept(owner), effects())) == (
            [],
            {},
            0,
        )
    assert messages(owner) == [(1, "reply")]


def test_a_handler_that_fails_after_its_claim_leaves_nothing() -> None:
    owner = attached()
    with pytest.raises(RuntimeError), transaction.atomic():
        handler(owner, 1, "reply")
        raise RuntimeError
    assert (messages(owner), outcomes_kept(owner), effects()) == ([], {}, 0)
    assert (row(owner).last_seq, row(owner).last_client_seq) == (0, 0)
    assert handler(owner, 1, "reply") == 1


def consumed(owner: Attached) -> None:
    done(complete(owner, 1, NACK))


def taken_over(owner: Attached) -> None:
    attached(token=owner.token, instance="two")


def resumed(owner: Attached) -> None:
    attached(token=owner.token, attempt=2)


@pytest.mark.parametrize("event", [consumed, taken_over, resumed])
def test_a_claim_that_comes_too_late_takes_the_effect_back(
    event: Callable[[Attached], None],
) -> None:
    owner = attached()
    event(owner)
    outcomes = outcomes_kept(owner)
    with pytest.raises(Fenced):
        handler(owner, 1, "reply")
    assert (messages(owner), outcomes_kept(owner), effects()) == ([], outcomes, 0)


@pytest.mark.parametrize("seq", [2, 0])
def test_a_claim_of_another_number_than_the_next_is_fenced(seq: int) -> None:
    owner = attached()
    with pytest.raises(Fenced):
        handler(owner, seq)
    assert effects() == 0


def test_replies_that_are_refused_take_number_and_effect_with_them(database: Database) -> None:
    owner = attached()
    with pytest.raises(Exception, match=r"NUL|surrogates"):
        handler(owner, 1, "fine", refused_by(database))
    assert (messages(owner), outcomes_kept(owner), effects()) == ([], {}, 0)
    assert row(owner).last_client_seq == 0


# --- a nack against the handler's own transaction ---------------------------------------------


def test_a_nack_after_the_claim_says_that_the_handler_has_won() -> None:
    owner = attached()
    handler(owner, 1)
    assert done(complete(owner, 1, NACK)) == [False]
    assert outcomes_kept(owner) == {1: '{"result":"booked"}'}
    found = standing(owner.session, 1)
    assert found is not None
    assert (found[0].last_client_seq, found[1]) == (1, '{"result":"booked"}')


def test_a_claim_after_the_nack_rolls_the_handler_back() -> None:
    owner = attached()
    assert done(complete(owner, 1, NACK)) == [True]
    with pytest.raises(Fenced):
        handler(owner, 1, "late")
    assert (messages(owner), effects()) == ([], 0)
    assert outcomes_kept(owner) == {1: NACK}


@pytest.mark.postgres_only
def test_a_nack_waits_for_a_claim_under_way(database: Database, elsewhere: Elsewhere) -> None:
    owner = attached()
    nack = complete(owner, 1, NACK)
    with transaction.atomic():
        handler(owner, 1)
        assert kinds(elsewhere.run(commit_all, [nack])) == ["Later"]
    assert done(nack) == [False]
    assert outcomes_kept(owner) == {1: '{"result":"booked"}'}


@pytest.mark.postgres_only
def test_a_claim_that_waited_for_the_nack_rolls_the_handler_back(
    database: Database, elsewhere: Elsewhere
) -> None:
    owner = attached()
    with locked_elsewhere(database, owner) as other:
        late = elsewhere.start(handler, owner, 1, "late")
        wait_for_waiters(database)
        # The nack's round, as the transaction that holds the row
        other.execute(
            "UPDATE graceful_ws_session SET last_client_seq = 1 WHERE id = %s", (owner.session,)
        )
        other.commit()
    with pytest.raises(Fenced):
        late.result(WITHIN)
    assert (messages(owner), effects()) == ([], 0)


@pytest.mark.parametrize("first", ["nack", "handler"])
def test_nack_and_handler_at_the_same_time_have_one_winner(
    first: str, elsewhere: Elsewhere
) -> None:
    """SQLite: one waits for the other's write lock; PostgreSQL: for the row, in rounds."""
    for seq in range(1, 9):
        if seq == 1:
            owner = attached()

        def nack(seq: int = seq, owner: Attached = owner) -> bool:
            while True:
                [outcome] = commit_all([complete(owner, seq, NACK)])
                if isinstance(outcome, bool):
                    return outcome

        def handle(seq: int = seq, owner: Attached = owner) -> bool:
            try:
                handler(owner, seq)
            except Fenced:
                return False
            return True

        pair = [nack, handle] if first == "nack" else [handle, nack]
        futures = [elsewhere.start(function) for function in pair]
        assert sorted(future.result(WITHIN) for future in futures) == [False, True]
        won = outcomes_kept(owner)[seq] != NACK
        assert User.objects.filter(username=f"visitor {seq}").exists() == won
    assert row(owner).last_client_seq == 8
