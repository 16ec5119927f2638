"""One round of the writer: many entries of many sessions in one transaction.

A round locks the rows of all its sessions, applies the entries in order to what it read under the
lock, and writes the result with a handful of statements. Numbers are given here and nowhere else:
a number given outside the transaction that writes the row would leave a hole when that fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from graceful_ws.models import InboundResult, OutboundMessage, Session

from .base import begin, connection, is_outage, locked_rows, writing
from .entries import COLUMNS, Append, Complete, Entry, Fenced, Later, Row, TakePending
from .following import Following, StreamUnknown
from .sql import Batch, among, read, select

MESSAGE = ("session_id", "seq", "data", "created_at")
RESULT = ("session_id", "client_seq", "outcome")
NUMBERS = ("last_seq", "acked_seq", "last_client_seq", "tries")
NOTED = ("seen_at", "connection_state", "rtt_ms")
DETACHED = (
    *("state", "generation", "left_at", "ended_at", "close_code", "close_reason", "cause"),
    *("node_id", "connection_state"),
)


class Round:
    """Collects what the entries of one transaction write."""

    def __init__(self, using: BaseDatabaseWrapper, now: datetime) -> None:
        self.using = using
        self.now = now
        self.messages: list[tuple[int, int, str, datetime]] = []
        self.results: list[tuple[int, int, str]] = []
        self.old_results: list[tuple[int, int]] = []
        self.notes: list[tuple[Any, ...]] = []
        self.detached: list[tuple[Any, ...]] = []
        self.present: list[tuple[bool, int]] = []
        self.acked: list[tuple[int, int]] = []
        self.pending: dict[int, list[tuple[int, str]]] = {}
        self.taken: list[tuple[int, int]] = []
        self.following = Following(self)

    def read_pending(self, sessions: Sequence[int]) -> None:
        """What waits to be numbered, in the order of the inserts; read under the rows' locks."""
        rows = OutboundMessage.objects.using(self.using.alias).filter(
            session__in=sessions, seq__isnull=True
        )
        for pk, session, data in rows.order_by("pk").values_list("pk", "session_id", "data"):
            self.pending.setdefault(session, []).append((pk, data))

    def append(self, row: Row, data: Sequence[str]) -> None:
        for seq, text in enumerate(data, row.last_seq + 1):
            self.messages.append((row.id, seq, text, self.now))
        row.last_seq += len(data)
        row.changed = True

    def complete(self, row: Row, client_seq: int, outcome: str | None, keep: int) -> None:
        row.last_client_seq = client_seq
        row.tries = 0
        row.changed = True
        if outcome is not None:
            self.results.append((row.id, client_seq, outcome))
        if client_seq % keep == 0:
            self.old_results.append((row.id, client_seq - keep))

    def has_message(self, entry: Append, first: int, written_at: datetime) -> bool:
        """Whether an append whose commit's answer was lost is kept. Its number alone proves
        nothing: a handler's own transaction may have taken it since."""
        rows = OutboundMessage.objects.using(self.using.alias)
        return rows.filter(
            session_id=entry.session, seq=first, created_at=written_at, data=entry.data[0]
        ).exists()

    def has_taken(self, first: int, pk: int) -> bool:
        """Whether the first row that was taken in has the number it was given."""
        rows = OutboundMessage.objects.using(self.using.alias)
        return rows.filter(pk=pk, seq=first).exists()

    def has_outcome(self, entry: Complete) -> bool:
        if entry.outcome is None:
            return True
        return (
            InboundResult.objects.using(self.using.alias)
            .filter(session_id=entry.session, client_seq=entry.client_seq, outcome=entry.outcome)
            .exists()
        )

    def write(self, rows: Iterable[Row]) -> None:
        """Everything collected, in a constant number of statements."""
        changed = [
            (row.last_seq, row.acked_seq, row.last_client_seq, row.tries, row.id)
            for row in rows
            if row.changed
        ]
        batch = Batch(self.using)
        batch.insert(OutboundMessage, MESSAGE, self.messages)
        batch.insert(InboundResult, RESULT, self.results)
        batch.update(Session, NUMBERS, ("id",), changed)
        batch.update(Session, ("present",), ("id",), self.present)
        batch.update(Session, NOTED, ("id",), self.notes)
        batch.update(Session, DETACHED, ("id",), self.detached)
        batch.update(OutboundMessage, ("seq",), ("id",), self.taken)
        batch.delete(
            OutboundMessage,
            ("session_id", "seq"),
            self.acked,
            where="session_id = {session_id} AND seq <= {seq}",
        )
        batch.delete(
            InboundResult,
            ("session_id", "client_seq"),
            self.old_results,
            where="session_id = {session_id} AND client_seq <= {client_seq}",
        )
        self.following.write(batch)
        batch.run(last=True)


def commit(entries: Sequence[Entry]) -> list[Any]:
    """One transaction for all entries. Returns, entry by entry, its outcome or the Fenced or
    Later that befell it. Raises what the database raises; then nothing was kept, unless the
    connection broke during the commit itself."""
    outcomes: list[Any] = []
    for entry in entries:
        entry.begin()
    with writing(joined=True) as using:
        work = Round(using, timezone.now())
        rows, gone = _lock({entry.session for entry in entries}, using)
        asked = [entry.session for entry in entries if isinstance(entry, TakePending)]
        if asked:
            work.read_pending(asked)
        work.following.read(entries)
        for entry in entries:
            row = rows.get(entry.session)
            try:
                if row is None:
                    raise Fenced if entry.session in gone else Later
                outcomes.append(entry.apply(row, work))
            except (Fenced, Later, StreamUnknown) as error:
                outcomes.append(error)
        work.write(rows.values())
    return outcomes


def commit_all(entries: Sequence[Entry]) -> list[Any]:
    """``commit``, and when one entry's data is refused, the others without it: the round is cut in
    halves until the culprit stands alone and gets its error. When the database goes away the
    entries without an outcome get that error, and must be given again, first and in order."""
    try:
        return commit(entries)
    except Exception as error:
        if is_outage(error):
            return [error] * len(entries)
        for entry in entries:
            entry.rolled_back()
        if len(entries) == 1:
            return [error]
    middle = len(entries) // 2
    first, second = entries[:middle], entries[middle:]
    outcomes = commit_all(first)
    outage = next((outcome for outcome in outcomes if is_outage(outcome)), None)
    if outage is not None:
        return outcomes + [outage] * len(second)
    # A lock may have ended meanwhile: what waits for it must not be overtaken.
    late = {
        entry.session
        for entry, outcome in zip(first, outcomes, strict=True)
        if isinstance(outcome, Later)
    }
    rest = [entry for entry in second if entry.session not in late]
    found = iter(commit_all(rest) if rest else ())
    return outcomes + [Later() if entry.session in late else next(found) for entry in second]


def _lock(ids: Collection[int], using: BaseDatabaseWrapper) -> tuple[dict[int, Row], set[int]]:
    """Locks what is free. Rows locked elsewhere are left for the next round: one handler inside
    its transaction must not stop the node. Returns the rows, and the ids that do not exist."""
    rows = _locked(ids, using, "SKIP LOCKED")
    if len(rows) == len(ids):
        return rows, set()
    missing = set(ids).difference(rows)
    one_of, params = among(using, missing)
    locked = select(using, f"SELECT id FROM {Session._meta.db_table} WHERE id{one_of}", params)
    return rows, missing.difference([pk for (pk,) in locked])


def _locked(ids: Collection[int], using: BaseDatabaseWrapper, held: str = "") -> dict[int, Row]:
    """The rows that exist, locked in the order of their ids; on SQLite write transactions exclude
    each other anyway."""
    lock = f"FOR NO KEY UPDATE {held}" if using.vendor == "postgresql" else ""
    one_of, params = among(using, ids)
    table = Session._meta.db_table
    sql = f"{begin(using)}SELECT {COLUMNS} FROM {table} WHERE id{one_of} ORDER BY id {lock}"
    return {values[0]: Row(*values) for values in select(using, sql, params)}


def claim(
    session: int,
    generation: int,
    client_seq: int,
    replies: Sequence[str],
    outcome: str | None,
    keep: int,
) -> int:
    """The last step of ``receive_in_transaction``, inside the handler's own transaction: takes the
    client's number and writes the replies. Returns the number of the first reply.

    Raises Fenced when the session was taken over or the number is consumed already; then the
    caller's whole transaction must roll back.
    """
    with writing(joined=True) as using:
        row = _locked([session], using).get(session)
        if (
            row is None
            or row.generation != generation
            or row.state != Session.State.ATTACHED
            or row.last_client_seq != client_seq - 1
        ):
            raise Fenced
        work = Round(using, timezone.now())
        first = row.last_seq + 1
        work.append(row, replies)
        work.complete(row, client_seq, outcome, keep)
        work.write([row])
        return first


@dataclass(frozen=True, slots=True)
class Numbers:
    """Where a session stands, as committed."""

    session: int
    generation: int
    last_seq: int
    last_client_seq: int


def standing(session: int, client_seq: int = 0) -> tuple[Numbers, str | None] | None:
    """A session's numbers and the kept outcome of ``client_seq``; None when it does not exist.

    Reads under the row's lock: PostgreSQL may still be committing what was sent to it. Raises
    Later while somebody else holds the lock.
    """
    with writing() as using:
        rows = Session.objects.using(using.alias).filter(pk=session)
        locked = locked_rows(rows, skip_locked=True)
        values = locked.values_list("pk", "generation", "last_seq", "last_client_seq").first()
        if values is None:
            if rows.exists():
                raise Later
            return None
        results = InboundResult.objects.using(using.alias)
        found = results.filter(session_id=session, client_seq=client_seq)
        return Numbers(*values), found.values_list("outcome", flat=True).first()


def page(session: int, after: int, rows: int) -> list[tuple[int, str]]:
    """The session's own messages behind ``after``, in order: ``(seq, data)``."""
    where = "WHERE session_id = %s AND seq > %s ORDER BY seq LIMIT %s"
    return read(connection(), OutboundMessage, ("seq", "data"), where, [session, after, rows])
