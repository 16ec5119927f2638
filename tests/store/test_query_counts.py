"""What the store asks of the database does not grow with what there is to do: a round, a resume, a
drained connection and a published message share statements with all others of their transaction.

Counted is what reaches the cursor, and several statements in one message one by one; one that is
run for many rows (``executemany``) is one. The upper bounds are generous: they are there lest both
cases grow together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from graceful_ws.models import StreamMessage
from graceful_ws.store import pending, presence, rounds, streams
from graceful_ws.store.attach import Attached, Identity, attach
from graceful_ws.store.entries import CountTry, Detach, Entry, Note, TakePending
from graceful_ws.store.following import Audience, Publish, Subscribe, Unsubscribe
from graceful_ws.store.rounds import commit
from tests.store.kit import (
    append,
    attached,
    complete,
    done,
    filled,
    hello,
    node,
    row,
    statements,
    stream_rows,
    unnumbered,
)

pytestmark = pytest.mark.usefixtures("database")

ROUND_AT_MOST = 25
RESUME_AT_MOST = 15
SEQUENCED_AT_MOST = 10
ROOMS = [f"room {n}" for n in range(20)]


@pytest.fixture(autouse=True)
def _no_grace(limits: Callable[..., None]) -> None:
    """Whoever is away is announced, however short the absence."""
    limits(exit_grace=-1.0)


def count(function: Callable[[], Any]) -> int:
    with statements() as seen:
        function()
    return sum(1 + sql.rstrip(";\n").count(";\n") for sql in seen)


def counted(entries: list[Entry]) -> int:
    """Statements of a round in which every entry has an outcome."""
    outcomes: list[Any] = []
    found = count(lambda: outcomes.extend(commit(entries)))
    assert not [one for one in outcomes if isinstance(one, BaseException)]
    return found


def owners(many: int) -> list[Attached]:
    """New sessions, attached in one round."""
    made = attach([hello(instance=str(n)) for n in range(many)])
    assert all(isinstance(one, Attached) for one in made)
    return made


# --- a round of the writer ----------------------------------------------------------------------


def everything(owner: Attached, epoch: str) -> list[Entry]:
    """One entry of each kind."""
    who = (owner.session, owner.generation)
    return [
        append(owner, "1", "2"),
        CountTry(*who, client_seq=1),
        complete(owner, 1, '{"result":1}', keep=1),
        Note(*who, acked_seq=1, streams={"room 0": (epoch, 1)}),
        TakePending(*who),
        Subscribe(*who, stream="room 1", joined='"in"'),
        Publish(*who, stream="room 2", data="1"),
        Audience(*who, streams=["room 3"], joined='"in"', left='"out"'),
        Unsubscribe(*who, stream="room 0", left='"out"'),
    ]


def prepared(many: int) -> list[Attached]:
    """Sessions that follow a room and have something waiting to be numbered."""
    made = owners(many)
    done(*(Subscribe(one.session, one.generation, stream="room 0") for one in made))
    for one in made:
        pending.leave(one.uuid, "1")
    return made


def test_a_round_of_fifty_sessions_takes_as_many_statements_as_that_of_one() -> None:
    streams.create(ROOMS)
    epoch = streams.tips(["room 0"])["room 0"].epoch
    counts = []
    for many in (1, 50):
        entries = [entry for owner in prepared(many) for entry in everything(owner, epoch)]
        counts.append(counted(entries))
    assert counts[0] == counts[1] <= ROUND_AT_MOST


def test_a_hundred_entries_of_a_session_take_as_many_statements_as_one() -> None:
    [owner] = owners(1)
    first = counted([append(owner, "1"), complete(owner, 1, '{"result":1}')])
    many = [(append(owner, "1"), complete(owner, n, '{"result":1}')) for n in range(2, 52)]
    assert counted([entry for pair in many for entry in pair]) == first <= ROUND_AT_MOST
    assert (row(owner).last_seq, row(owner).last_client_seq) == (51, 51)


def test_a_thousand_messages_of_a_round_take_as_many_statements_as_one() -> None:
    [owner] = owners(1)
    first = counted([append(owner, "1")])
    assert counted([append(owner, *"1" * 1000)]) == first <= ROUND_AT_MOST


def test_taking_in_a_hundred_messages_that_wait_takes_as_many_statements_as_one() -> None:
    [owner] = owners(1)
    counts = []
    for many in (1, 100):
        for _ in range(many):
            pending.leave(owner.uuid, "1")
        counts.append(counted([TakePending(owner.session, owner.generation)]))
    assert counts[0] == counts[1] <= ROUND_AT_MOST
    assert row(owner).last_seq == 101


# --- a resume -----------------------------------------------------------------------------------


def away(many: int, followed: int) -> list[Attached]:
    """Sessions that follow so many rooms, and whose last message has an outcome."""
    made = owners(many)
    for one in made:
        who = (one.session, one.generation)
        done(
            complete(one, 1, '{"result":1}'),
            *(Subscribe(*who, stream=name, joined='"in"') for name in ROOMS[:followed]),
        )
    return made


def resumed(sessions: list[Attached], attempt: int) -> int:
    """Statements of a round in which they all come back."""
    entries = [
        hello(token=one.token, instance=str(n), attempt=attempt, pending_from=1)
        for n, one in enumerate(sessions)
    ]
    outcomes: list[Any] = []
    found = count(lambda: outcomes.extend(attach(entries)))
    assert all(one.resumed and one.outcomes == {1: '{"result":1}'} for one in outcomes)
    return found


@pytest.mark.parametrize("followed", [0, 1, 20])
def test_fifty_resumes_of_a_round_take_as_many_statements_as_one(followed: int) -> None:
    streams.create(ROOMS)
    one, fifty = resumed(away(1, followed), 2), resumed(away(50, followed), 2)
    assert one == fifty <= RESUME_AT_MOST


def test_a_session_that_follows_twenty_streams_resumes_with_as_many_statements_as_with_one() -> (
    None
):
    streams.create(ROOMS)
    assert resumed(away(1, 1), 2) == resumed(away(1, 20), 2)


def test_fifty_returns_that_are_announced_take_as_many_statements_as_one() -> None:
    streams.create(ROOMS)
    counts = []
    for many in (1, 50):
        sessions = away(many, 2)
        done(*(Detach(one.session, one.generation, end=False) for one in sessions))
        presence.announce_exits(absences=True)
        assert not any(row(one).present for one in sessions)
        counts.append(resumed(sessions, 2))
        assert all(row(one).present for one in sessions)
    assert counts[0] == counts[1] <= RESUME_AT_MOST


def test_new_sessions_take_as_many_statements_for_fifty_as_for_one() -> None:
    counts = [count(partial(owners, many)) for many in (1, 50)]
    assert counts[0] == counts[1] <= RESUME_AT_MOST


def test_a_page_of_a_journal_is_one_statement_however_long() -> None:
    [owner] = owners(1)
    done(append(owner, *"1" * 300))
    filled("room 0", 300)
    for rows in (1, 256):
        for page in (
            partial(rounds.page, owner.session, 0, rows),
            partial(streams.page, "room 0", 0, rows),
        ):
            assert count(page) == 1
            assert len(page()) == rows


# --- the end of connections ---------------------------------------------------------------------


@pytest.mark.parametrize("end", [False, True], ids=["detached", "ended"])
def test_a_hundred_drained_connections_take_as_many_statements_as_one(end: bool) -> None:
    streams.create(ROOMS)
    epoch = streams.tips(["room 0"])["room 0"].epoch
    counts = []
    for many in (1, 100):
        made = owners(many)
        done(*(append(one, "1", "2") for one in made))
        done(*(Subscribe(one.session, one.generation, stream="room 0") for one in made))
        entries: list[Entry] = [
            Detach(
                one.session,
                one.generation,
                acked_seq=1,
                streams={"room 0": (epoch, 0)},
                end=end,
                close_code=1012,
                close_reason="the server restarts",
            )
            for one in made
        ]
        counts.append(counted(entries))
        assert {row(one).state for one in made} == {"ended" if end else "detached"}
    assert counts[0] == counts[1] <= ROUND_AT_MOST


def test_a_hundred_exits_take_as_many_statements_as_one() -> None:
    streams.create(ROOMS)
    counts = []
    for many in (1, 100):
        made = away(many, 1)
        done(*(Detach(one.session, one.generation, end=True, cause="bye") for one in made))
        counts.append(count(partial(presence.announce_exits, absences=False)))
        assert not any(row(one).present for one in made)
    assert counts[0] == counts[1] <= ROUND_AT_MOST


# --- publishing ---------------------------------------------------------------------------------


def test_five_hundred_published_messages_are_numbered_with_as_many_statements_as_one() -> None:
    streams.create(["room 0"])
    filled("room 0", 1)  # its row stands somewhere
    counts = []
    for many in (1, streams.BATCH):
        StreamMessage.objects.bulk_create(streams.message("room 0", str(n)) for n in range(many))
        counts.append(count(lambda: streams.number("room 0")))
        assert not unnumbered("room 0")
    assert counts[0] == counts[1] <= SEQUENCED_AT_MOST
    assert [seq for seq, _ in stream_rows("room 0")] == list(range(1, streams.BATCH + 3))


def test_a_hundred_messages_of_a_round_for_streams_take_as_many_statements_as_one() -> None:
    [owner] = owners(1)
    who = (owner.session, owner.generation)
    counts = [
        counted([Publish(*who, stream=f"room {n % 7}", data="1") for n in range(many)])
        for many in (1, 100)
    ]
    assert counts[0] == counts[1] <= ROUND_AT_MOST


def test_publishing_is_one_statement() -> None:
    assert count(lambda: streams.leave("room 0", "1")) == 1


def test_where_four_hundred_streams_stand_takes_as_many_statements_as_one() -> None:
    names = [f"stream {n}" for n in range(400)]
    streams.create(names)
    assert count(lambda: streams.tips(names)) == count(lambda: streams.tips(names[:1])) == 1


def test_a_message_for_a_user_takes_as_many_statements_for_a_hundred_sessions_as_for_one() -> None:
    counts = []
    for user, many in ((1, 1), (2, 100)):
        for n in range(many):
            attached(node=node(), identity=Identity(user_id=user), instance=str(n))
        name = pending.leave_for_user(user, "1")
        counts.append(count(partial(pending.hand_out, name)))
    assert counts[0] == counts[1] <= SEQUENCED_AT_MOST
