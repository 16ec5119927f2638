"""Numbers start at 1, have no gap, and are given only to what is kept."""

from __future__ import annotations

from threading import Barrier

import pytest
from django.db import DatabaseError, transaction

from graceful_ws.store.attach import Attached, attach
from graceful_ws.store.entries import Detach, Later
from graceful_ws.store.rounds import claim, commit, commit_all
from tests.store.kit import (
    Elsewhere,
    append,
    attached,
    complete,
    done,
    hello,
    kinds,
    messages,
    outcomes_kept,
    refused_by,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def numbers(owner: Attached) -> list[int]:
    return [seq for seq, _ in messages(owner)]


def test_messages_are_numbered_from_one_without_a_gap() -> None:
    owner = attached()
    assert done(append(owner, "1", "2"), append(owner, "3")) == [1, 3]
    assert done(append(owner, "4")) == [4]
    assert messages(owner) == [(1, "1"), (2, "2"), (3, "3"), (4, "4")]
    assert row(owner).last_seq == 4


def test_sessions_of_one_round_are_numbered_for_themselves() -> None:
    owners = [attached() for _ in range(3)]
    assert done(*(append(owner, "a") for owner in owners for _ in range(2))) == [1, 2] * 3
    assert [numbers(owner) for owner in owners] == [[1, 2]] * 3


def append_later(owner: Attached, *data: str) -> None:
    """As the journal does with a row that is locked elsewhere."""
    entry = append(owner, *data)
    while isinstance(outcome := commit_all([entry])[0], Later):
        pass
    assert isinstance(outcome, int), outcome


def test_concurrent_writers_of_one_session_leave_no_gap(elsewhere: Elsewhere) -> None:
    owner = attached()
    start = Barrier(4)

    def writer(name: int) -> None:
        start.wait(10)
        for n in range(10):
            append_later(owner, f'"{name}:{n}:a"', f'"{name}:{n}:b"')

    def handler() -> None:
        start.wait(10)
        for n in range(1, 11):
            with transaction.atomic():
                claim(owner.session, owner.generation, n, [f'"h:{n}:a"', f'"h:{n}:b"'], None, 64)

    running = [elsewhere.start(writer, name) for name in range(3)]
    running.append(elsewhere.start(handler))
    for future in running:
        future.result(30)
    kept = messages(owner)
    assert [seq for seq, _ in kept] == list(range(1, 81))
    assert row(owner).last_seq == 80
    for writers in "012h":  # each in its own order, its pairs together
        own = [(seq, text) for seq, text in kept if text[1] == writers]
        starts = [int(text.split(":")[1]) for _, text in own[::2]]
        assert starts == sorted(starts)
        assert all(
            second[0] == first[0] + 1 for first, second in zip(own[::2], own[1::2], strict=True)
        )


def test_concurrent_writers_of_different_sessions_leave_no_gap(elsewhere: Elsewhere) -> None:
    owners = [attached() for _ in range(3)]
    start = Barrier(3)

    def writer(name: int) -> None:
        start.wait(10)
        for _ in range(10):
            # Each in its own order: rows are locked in the order of their ids all the same.
            left = [append(owner, str(name)) for owner in owners[name:] + owners[:name]]
            while left:
                outcomes = commit_all(left)
                left = [
                    entry
                    for entry, outcome in zip(left, outcomes, strict=True)
                    if isinstance(outcome, Later)
                ]
                assert all(isinstance(one, int | Later) for one in outcomes), outcomes

    for future in [elsewhere.start(writer, name) for name in range(3)]:
        future.result(30)
    assert [numbers(owner) for owner in owners] == [list(range(1, 31))] * 3


def test_a_failed_append_takes_no_number(database: Database) -> None:
    owner = attached()
    done(append(owner, "1"))
    [error] = commit_all([append(owner, "2", refused_by(database))])
    assert isinstance(error, Exception)
    assert row(owner).last_seq == 1
    assert done(append(owner, "2")) == [2]
    assert numbers(owner) == [1, 2]


def test_refused_data_fails_its_own_entry_and_the_rest_of_the_round_commits(
    database: Database,
) -> None:
    owner, other = attached(), attached()
    bad = refused_by(database)
    outcomes = commit_all(
        [
            append(owner, "1"),
            append(other, "1"),
            append(owner, bad),
            complete(other, 1, '{"result":1}'),
            append(owner, "2"),
            append(other, "2"),
            append(other, "never", bad),
            append(owner, "3"),
            complete(owner, 1),
        ]
    )
    failed = [index for index, kind in enumerate(kinds(outcomes)) if kind]
    assert failed == [2, 6], outcomes
    assert [outcomes[index] for index in (0, 1, 4, 5, 7)] == [1, 1, 2, 2, 3]
    assert messages(owner) == [(1, "1"), (2, "2"), (3, "3")]
    assert messages(other) == [(1, "1"), (2, "2")]
    assert outcomes_kept(other) == {1: '{"result":1}'}
    assert row(owner).last_client_seq == row(other).last_client_seq == 1


def test_a_round_of_only_refused_data_fails_each_for_itself(database: Database) -> None:
    owner = attached()
    outcomes = commit_all([append(owner, refused_by(database)) for _ in range(5)])
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert row(owner).last_seq == 0


@pytest.mark.postgres_only
def test_a_value_too_long_for_its_column_fails_its_own_entry() -> None:
    owner, other = attached(), attached()
    gone = Detach(other.session, other.generation, close_reason="x" * 124)
    outcomes = commit_all([append(owner, "1"), gone, append(other, "1")])
    assert kinds(outcomes) == ["", "DataError", ""]
    assert row(other).state == "attached"
    assert numbers(owner) == numbers(other) == [1]


@pytest.mark.postgres_only
def test_a_number_too_large_for_its_column_fails_its_own_entry() -> None:
    owner, other = attached(), attached()
    outcomes = commit_all([append(owner, "1"), Detach(other.session, 1, close_code=2**63)])
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], DatabaseError)


def test_a_full_round_of_a_thousand_sessions_commits_at_once() -> None:
    owners = attach([hello() for _ in range(1000)])
    outcomes = commit([append(owner, "1") for owner in owners])
    assert outcomes == [1] * 1000
    assert commit([complete(owner, 1, "{}") for owner in owners]) == [True] * 1000
