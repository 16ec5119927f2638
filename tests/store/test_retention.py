"""What goes and when, in small batches; and what never does."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from graceful_ws.models import (
    AuditEntry,
    InboundResult,
    Node,
    OutboundMessage,
    Session,
    StreamMessage,
    Subscription,
)
from graceful_ws.publishing import send_to_session
from graceful_ws.store import nodes, retention
from graceful_ws.store.attach import Attached
from graceful_ws.store.entries import Note, TakePending
from graceful_ws.store.rounds import commit
from tests.store.kit import (
    Elsewhere,
    ago,
    append,
    attached,
    complete,
    detach,
    done,
    locked_elsewhere,
    messages,
    node,
    outcomes_kept,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def purge_all() -> int:
    """As the reaper does: batch by batch."""
    removed = 0
    for _ in range(100):
        batch = retention.purge()
        removed += batch
        if batch < retention.BATCH:
            return removed
    raise AssertionError("purging has no end")


def numbers(owner: Attached) -> list[int]:
    return [seq for seq, _ in messages(owner)]


def note(owner: Attached, acked: int) -> Note:
    return Note(owner.session, owner.generation, acked_seq=acked)


# --- acknowledged -----------------------------------------------------------------------------


def test_what_was_acknowledged_goes_with_the_note() -> None:
    owner, other = attached(), attached()
    done(append(owner, "1", "2", "3"), append(other, "1"))
    done(note(owner, 2))
    assert (numbers(owner), numbers(other)) == ([3], [1])
    assert row(owner).acked_seq == 2
    assert done(append(owner, "4")) == [4]
    done(note(owner, 4))
    assert numbers(owner) == []
    assert done(append(owner, "5")) == [5]


def test_an_older_acknowledgement_changes_nothing() -> None:
    owner = attached()
    done(append(owner, "1", "2", "3"), note(owner, 2), note(owner, 1))
    assert (row(owner).acked_seq, numbers(owner)) == (2, [3])


def test_an_acknowledgement_of_the_future_counts_up_to_the_last_number() -> None:
    owner = attached()
    done(append(owner, "1"), note(owner, 2**62))
    assert row(owner).acked_seq == 1
    assert done(append(owner, "2")) == [2]
    assert numbers(owner) == [2]


def test_acknowledgements_come_with_the_detach_too() -> None:
    owner = attached()
    gone = detach(owner)
    gone.acked_seq = 1
    done(append(owner, "1", "2"), gone)
    assert numbers(owner) == [2]


def test_what_waits_for_its_number_is_not_acknowledged() -> None:
    owner = attached()
    done(append(owner, "1"))
    send_to_session(owner.uuid, 2)
    done(note(owner, 1))
    assert done(TakePending(owner.session, owner.generation)) == [(2, ["2"])]


def test_positions_in_streams_only_go_forward() -> None:
    owner, other = attached(), attached()
    for one in (owner, other):
        for stream in "ab":
            Subscription.objects.create(
                session_id=one.session, stream=stream, epoch="e", from_seq=1, acked_seq=5
            )
    ack = Note(
        owner.session, owner.generation, streams={"a": ("e", 7), "b": ("e", 3), "unknown": ("e", 1)}
    )
    done(ack)
    acked = Subscription.objects.order_by("session", "stream").values_list("acked_seq", flat=True)
    assert list(acked) == [7, 5, 5, 5]


# --- age and caps -----------------------------------------------------------------------------


def test_messages_go_at_their_age_acknowledged_or_not(limits: Any) -> None:
    limits(journal_age=100)
    owner = attached()
    done(append(owner, "1", "2", "3"))
    OutboundMessage.objects.filter(seq__lt=3).update(created_at=ago(101))
    StreamMessage.objects.create(stream="s", seq=1, data="1", created_at=ago(101))
    StreamMessage.objects.create(stream="s", seq=2, data="2", created_at=ago(99))
    assert purge_all() == 3
    assert numbers(owner) == [3]
    assert list(StreamMessage.objects.values_list("seq", flat=True)) == [2]
    assert done(append(owner, "4")) == [4]


def test_what_waits_for_its_number_does_not_age(limits: Any) -> None:
    limits(journal_age=100)
    owner = attached()
    send_to_session(owner.uuid, 1)
    OutboundMessage.objects.update(created_at=ago(1e6))
    StreamMessage.objects.create(stream="s", seq=None, data="1", created_at=ago(1e6))
    assert purge_all() == 0
    assert done(TakePending(owner.session, owner.generation)) == [(1, ["1"])]


def test_only_so_many_rows_of_a_session_are_kept(limits: Any) -> None:
    limits(journal_rows=5, send_bytes=1000, journal_bytes=10_000)
    owner, other = attached(), attached()
    done(append(owner, *"123456789"), append(other, *"12345"))
    assert purge_all() == 4
    assert (numbers(owner), numbers(other)) == ([5, 6, 7, 8, 9], [1, 2, 3, 4, 5])
    assert purge_all() == 0


@pytest.mark.parametrize("letter", ["x", "\u20ac"])
def test_only_so_many_bytes_of_a_session_are_kept(letter: str, limits: Any) -> None:
    limits(journal_rows=1000, send_bytes=1000, journal_bytes=3000)
    owner, small = attached(), attached()
    text = letter * (900 // len(letter.encode()))
    done(append(owner, *[text] * 9), append(small, *["x"] * 9))
    assert purge_all() == 6
    assert (numbers(owner), numbers(small)) == ([7, 8, 9], list(range(1, 10)))


def test_what_waits_for_its_number_is_kept_whatever_the_caps(limits: Any) -> None:
    limits(journal_rows=2, send_bytes=10, journal_bytes=100)
    owner = attached()
    done(append(owner, *"123456"))
    for n in range(5):
        send_to_session(owner.uuid, n)
    assert purge_all() == 4
    assert numbers(owner) == [5, 6]
    [(first, taken)] = done(TakePending(owner.session, owner.generation))
    assert (first, len(taken)) == (7, 5)


def test_a_long_backlog_goes_batch_by_batch(limits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    limits(journal_rows=5, send_bytes=100, journal_bytes=100_000)
    owner, aged = attached(), attached()
    done(append(owner, *["x"] * 48), append(aged, *["x"] * 5))
    OutboundMessage.objects.filter(session=aged.session).update(created_at=ago(1e6))
    assert retention.purge() == 15  # at most a batch of each kind
    assert len(numbers(owner)) == 38
    assert purge_all() == 33
    assert numbers(owner) == [44, 45, 46, 47, 48]


# --- ended sessions, nodes, audit trail -------------------------------------------------------


def everything_of(owner: Attached) -> int:
    done(append(owner, "1"), complete(owner, 1, "{}"))
    send_to_session(owner.uuid, 2)
    Subscription.objects.create(session_id=owner.session, stream="s", epoch="e", from_seq=1)
    return 5  # with the session


def left_of(owner: Attached) -> int:
    tables = (OutboundMessage, InboundResult, Subscription)
    rows = sum(table.objects.filter(session_id=owner.session).count() for table in tables)
    return rows + Session.objects.filter(pk=owner.session).count()


def test_an_ended_session_goes_with_all_its_rows(limits: Any) -> None:
    limits(ended_age=100)
    ended, recent, live, detached = (attached() for _ in range(4))
    for owner in (ended, recent, live, detached):
        assert left_of(owner) + 4 == everything_of(owner)
    done(detach(ended, end=True), detach(recent, end=True), detach(detached))
    Session.objects.filter(pk=ended.session).update(ended_at=ago(101), left_at=ago(101))
    Session.objects.filter(pk=recent.session).update(ended_at=ago(99), left_at=ago(99))
    assert purge_all() == 5
    assert [left_of(owner) for owner in (ended, recent, live, detached)] == [0, 5, 5, 5]


def test_a_session_goes_after_its_last_row(limits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    limits(ended_age=100)
    owner = attached()
    done(*(complete(owner, seq, "{}") for seq in range(1, 36)))
    for n in range(35):
        Subscription.objects.create(session_id=owner.session, stream=str(n), epoch="e", from_seq=1)
    done(detach(owner, end=True))
    Session.objects.update(ended_at=ago(101), left_at=ago(101))
    while retention.purge() >= retention.BATCH:
        assert Session.objects.exists() or left_of(owner) == 0
    assert left_of(owner) == 0


def test_gone_nodes_and_old_audit_entries_go(limits: Any) -> None:
    limits(ended_age=100, audit_age=1000)
    live, dead, stopped, recent = (node(name) for name in ("live", "dead", "stopped", "recent"))
    nodes.report(dead, "dead")
    nodes.report(stopped, "stopped")
    nodes.report(recent, "dead")
    Node.objects.exclude(pk=recent).update(beat_at=ago(101))
    nodes.audit("old")
    nodes.audit("new")
    AuditEntry.objects.filter(event="old").update(at=ago(1001))
    AuditEntry.objects.filter(event="new").update(at=ago(999))
    assert purge_all() == 3
    assert set(Node.objects.values_list("pk", flat=True)) == {live, recent}
    assert list(AuditEntry.objects.values_list("event", flat=True)) == ["new"]


# --- beside others ---------------------------------------------------------------------------


@pytest.mark.postgres_only
def test_purging_does_not_wait_for_sessions_locked_elsewhere(
    database: Database, limits: Any, elsewhere: Elsewhere
) -> None:
    limits(journal_age=100)
    owner = attached()
    done(append(owner, "1"))
    OutboundMessage.objects.update(created_at=ago(101))
    with locked_elsewhere(database, owner):
        assert elsewhere.run(retention.purge) == 1


def test_a_purge_and_a_writer_at_the_same_time_leave_no_gap_at_the_end(
    limits: Any, elsewhere: Elsewhere
) -> None:
    limits(journal_rows=5, send_bytes=10, journal_bytes=1000)
    owner = attached()

    def write() -> None:
        for n in range(40):
            commit([append(owner, str(n))])

    writer = elsewhere.start(write)
    while not writer.done():
        retention.purge()
    writer.result(30)
    retention.purge()
    assert numbers(owner) == [36, 37, 38, 39, 40]
    with transaction.atomic():
        assert outcomes_kept(owner) == {}
