"""The connection is lost during a commit: it may have happened or not, and neither may show.

Every entry is tried with both, and with what may come between the break and the second try.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from graceful_ws.models import Session
from graceful_ws.node.transaction import CommitUnknown, receive_in_transaction
from graceful_ws.publishing import send_to_session
from graceful_ws.store import nodes
from graceful_ws.store.attach import Attach, Attached, attach_all
from graceful_ws.store.base import forget_connection, is_outage
from graceful_ws.store.entries import CountTry, Entry, TakePending
from graceful_ws.store.rounds import claim, commit_all, standing
from tests.store.kit import (
    AFTER,
    BEFORE,
    append,
    attached,
    breaking_commits,
    complete,
    detach,
    done,
    hello,
    kinds,
    messages,
    node,
    outcomes_kept,
    refused_by,
    row,
    settle,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")
lost = pytest.mark.parametrize("when", [BEFORE, AFTER])


@pytest.fixture
def broken(database: Database) -> Callable[..., list[Any]]:
    """Tries entries in a round whose commit breaks."""

    def commit_breaks(when: str, *entries: Entry) -> None:
        with breaking_commits(database, iter([when])):
            outcomes = commit_all(entries)
        assert all(is_outage(outcome) for outcome in outcomes), outcomes
        forget_connection()

    return commit_breaks


def handled(owner: Attached, seq: int, *replies: str) -> int:
    """A handler's own transaction takes a number meanwhile."""
    with transaction.atomic():
        return claim(owner.session, owner.generation, seq, replies, None, 64)


@lost
def test_messages_are_kept_once(when: str, broken: Any) -> None:
    owner = attached()
    entries = [append(owner, "1", "2"), append(owner, "3")]
    broken(when, *entries)
    assert settle(entries) == [1, 3]
    assert messages(owner) == [(1, "1"), (2, "2"), (3, "3")]


@lost
def test_messages_are_kept_once_when_a_handler_took_numbers_meanwhile(
    when: str, broken: Any
) -> None:
    owner = attached()
    entry = append(owner, "same text")
    broken(when, entry)
    reply = handled(owner, 1, "same text")
    [first] = settle([entry])
    assert {first, reply} == {1, 2}
    assert messages(owner) == [(1, "same text"), (2, "same text")]


@lost
def test_messages_are_kept_once_when_other_data_is_refused_in_the_second_round(
    when: str, broken: Any, database: Database
) -> None:
    """What is rolled back then is the second try; what became of the first is still unknown."""
    owner, other = attached(), attached()
    entries = [append(owner, "1"), append(owner, "2")]
    broken(when, *entries)
    bad = append(other, refused_by(database))
    outcomes = settle([bad, *entries])
    assert isinstance(outcomes[0], Exception)
    assert outcomes[1:] == [1, 2]
    assert messages(owner) == [(1, "1"), (2, "2")]


@lost
def test_messages_are_kept_once_when_two_commits_in_a_row_break(when: str, broken: Any) -> None:
    owner = attached()
    entry = append(owner, "1")
    broken(BEFORE, entry)
    broken(when, entry)
    assert settle([entry]) == [1]
    assert messages(owner) == [(1, "1")]


@lost
def test_messages_left_for_a_session_are_taken_once(when: str, broken: Any) -> None:
    owner = attached()
    send_to_session(owner.uuid, 1)
    send_to_session(owner.uuid, 2)
    entry = TakePending(owner.session, owner.generation)
    broken(when, entry)
    send_to_session(owner.uuid, 3)
    handled(owner, 1, "reply")
    [(first, taken)] = settle([entry])
    [(_, rest)] = done(TakePending(owner.session, owner.generation))
    assert taken + rest == ["1", "2", "3"]
    told = dict(enumerate(taken, first))
    kept = dict(messages(owner))
    assert told.items() <= kept.items()
    assert sorted(kept) == [1, 2, 3, 4]
    assert sorted(kept.values()) == ["1", "2", "3", "reply"]


@lost
@pytest.mark.parametrize("outcome", [None, '{"result":1}'])
def test_a_completion_takes_its_number_once_and_knows_it_was_the_one(
    when: str, outcome: str | None, broken: Any
) -> None:
    owner = attached()
    entry = complete(owner, 1, outcome)
    broken(when, entry)
    assert settle([entry, complete(owner, 2)]) == [True, True]
    assert row(owner).last_client_seq == 2
    assert outcomes_kept(owner) == ({} if outcome is None else {1: outcome})


def test_a_nack_whose_commit_broke_does_not_claim_what_the_handler_won(broken: Any) -> None:
    owner = attached()
    nack = complete(owner, 1, '{"nack":{"code":"timeout"}}')
    broken(BEFORE, nack)
    with transaction.atomic():
        claim(owner.session, owner.generation, 1, [], '{"result":1}', 64)
    assert settle([nack]) == [False]
    assert outcomes_kept(owner) == {1: '{"result":1}'}


@lost
def test_a_start_is_counted_once(when: str, broken: Any) -> None:
    owner = attached()
    entry = CountTry(owner.session, owner.generation, client_seq=1)
    broken(when, entry)
    assert settle([entry]) == [1]
    assert row(owner).tries == 1


@lost
@pytest.mark.parametrize("end", [False, True])
def test_a_detach_knows_that_it_was_the_one(when: str, end: bool, broken: Any) -> None:
    owner = attached()
    entry = detach(owner, end=end)
    broken(when, entry)
    assert settle([entry]) == [True]
    assert row(owner).state == ("ended" if end else "detached")


def test_a_detach_whose_commit_broke_does_not_claim_what_an_operator_did(broken: Any) -> None:
    owner = attached()
    entry = detach(owner, end=True)
    broken(BEFORE, entry)
    assert nodes.end_session(owner.uuid, 4506, "")
    assert settle([entry]) == [False]


# --- attach -----------------------------------------------------------------------------------


def attach_breaks(database: Database, when: str, *entries: Attach) -> None:
    with breaking_commits(database, iter([when])):
        outcomes = attach_all(entries)
    assert all(is_outage(outcome) for outcome in outcomes), outcomes
    forget_connection()


@lost
def test_a_new_session_is_made_once(when: str, database: Database) -> None:
    entry = hello()
    attach_breaks(database, when, entry)
    [owner] = attach_all([entry])
    assert (owner.resumed, owner.generation, owner.token) == (False, 1, entry.new_token)
    assert database.sql("SELECT count(*) FROM graceful_ws_session") == [(1,)]
    assert done(append(owner, "1")) == [1]


@lost
def test_a_resume_owns_the_session_whichever_way_its_commit_went(
    when: str, database: Database
) -> None:
    old = attached()
    done(append(old, "1"), complete(old, 1, "{}"))
    entry = hello(token=old.token, attempt=2, pending_from=1)
    attach_breaks(database, when, entry)
    [owner] = attach_all([entry])
    assert (owner.resumed, owner.taken_over, owner.generation) == (True, False, 2)
    assert (owner.last_seq, owner.outcomes) == (1, {1: "{}"})
    assert row(owner).resumes == 1
    assert done(append(owner, "2")) == [2]


@lost
def test_a_take_over_stays_one_whichever_way_its_commit_went(when: str, database: Database) -> None:
    old = attached()
    entry = hello(token=old.token, instance="two")
    attach_breaks(database, when, entry)
    [owner] = attach_all([entry])
    assert (owner.taken_over, owner.generation) == (True, 2)


@lost
def test_a_hello_is_kept_once_when_another_is_refused_in_the_second_round(
    when: str, database: Database
) -> None:
    old = attached()
    entries = [hello(), hello(token=old.token, attempt=2)]
    attach_breaks(database, when, *entries)
    bad = hello(user_agent=refused_by(database))
    outcomes = attach_all([bad, *entries])
    assert isinstance(outcomes[0], Exception)
    assert [one.resumed for one in outcomes[1:]] == [False, True]
    assert outcomes[2].generation == row(old).generation == 2
    assert database.sql("SELECT count(*) FROM graceful_ws_session") == [(2,)]


def test_a_new_session_that_a_node_lost_before_its_answer_is_taken_again(
    database: Database,
) -> None:
    where = node()
    entry = hello(node=where)
    attach_breaks(database, AFTER, entry)
    nodes.report(where, "dead")
    assert nodes.detach_dead() == 1
    [owner] = attach_all([entry])
    assert (owner.resumed, owner.generation, owner.token) == (False, 3, entry.new_token)
    assert done(append(owner, "1")) == [1]


def test_a_new_session_that_was_ended_before_its_answer_stays_ended(database: Database) -> None:
    entry = hello()
    attach_breaks(database, AFTER, entry)
    [(public_id,)] = Session.objects.values_list("uuid")
    assert nodes.end_session(public_id, 4506, "")
    assert kinds(attach_all([entry])) == ["StaleAttempt"]
    assert Session.objects.get().state == "ended"


def test_a_resume_whose_commit_broke_gives_way_to_its_successor(database: Database) -> None:
    old = attached()
    entry = hello(token=old.token, attempt=2)
    attach_breaks(database, BEFORE, entry)
    successor = attached(token=old.token, attempt=3)
    assert kinds(attach_all([entry])) == ["StaleAttempt"]
    assert row(old).generation == successor.generation


# --- receive_in_transaction -------------------------------------------------------------------


class Booking:
    """A consumer as the transaction sees it."""

    def receive_in_transaction(self, data: Any) -> Any:
        from django.contrib.auth.models import User

        from graceful_ws.node.transaction import collected

        User.objects.create_user(data)
        replies = collected()
        assert replies is not None
        replies.append(f'"{data}"')
        return data


@lost
def test_a_handlers_transaction_is_settled_by_its_number(when: str, database: Database) -> None:
    owner = attached()
    key = (owner.session, owner.generation, 1, 64)
    with breaking_commits(database, iter([when])), pytest.raises(CommitUnknown):
        receive_in_transaction(Booking(), key, "visitor")
    found = standing(owner.session, 1)
    assert found is not None
    kept = found[0].last_client_seq == 1
    assert kept == (when == AFTER)
    if not kept:  # the client sends it again
        receive_in_transaction(Booking(), key, "visitor")
    assert database.sql("SELECT username FROM auth_user") == [("visitor",)]
    assert messages(owner) == [(1, '"visitor"')]
    assert outcomes_kept(owner) == {1: '{"result":"visitor"}'}
