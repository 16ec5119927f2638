"""Loss accounting: what was kept for somebody, and where it went.

A message that was kept for a session, its own or one of a stream that it follows, is accounted for
when

* its client has acknowledged it, or was told of a gap (which moves ``acked_seq`` as well),
* its client came after the session's end, and was told that everything is missing (``told_at``),
* the session was ended on purpose, and its client is told so by bye's answer or a close code,
* it waits: the session lives, and the message is still there.

Every other message is lost without anybody having been told, so far. Each is found by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, F, Max, Min, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from graceful_ws.models import OutboundMessage, Session, Stream, StreamMessage, Subscription

from .attach import ON_PURPOSE
from .base import alias

BATCH = 500
RANGES = 1000  # of one session and sequence that are told apart

ALIVE = (Session.State.ATTACHED, Session.State.DETACHED)


@dataclass(frozen=True, slots=True)
class Finding:
    """Messages ``first`` to ``last`` of one sequence; 0 for those without a number yet."""

    session: UUID
    user: Any
    consumer: str
    stream: str | None  # None: the session's own
    first: int
    last: int
    count: int
    why: str
    since: datetime | None  # of the oldest, or of the session's end; None: not known any more


@dataclass(slots=True)
class Summary:
    """What was looked at, and what waits in the right place."""

    sessions: int = 0
    waiting: int = 0
    oldest: datetime | None = None
    unnumbered: int = 0  # published, and waiting for their numbers

    def waits(self, count: int, since: datetime | None) -> None:
        self.waiting += count
        if since is not None and (self.oldest is None or since < self.oldest):
            self.oldest = since


class Audit:
    """One look at all sessions, or at one. ``waiting``: seconds after which a message that waits
    counts as a finding too; None: never. ``summary`` is complete when ``findings`` has ended."""

    def __init__(self, *, waiting: float | None = None, session: UUID | None = None) -> None:
        self.summary = Summary()
        self._session = session
        self._late = None if waiting is None else timezone.now() - timedelta(seconds=waiting)

    def findings(self) -> Iterator[Finding]:
        sessions = Session.objects.using(alias()).filter(resumable=True, told_at=None)
        sessions = sessions.exclude(state=Session.State.ENDED, cause__in=ON_PURPOSE)
        if self._session is not None:
            sessions = sessions.filter(uuid=self._session)
        last = 0
        while rows := list(_with_rows(sessions.filter(pk__gt=last)).order_by("pk")[:BATCH]):
            last = rows[-1].pk
            self.summary.sessions += len(rows)
            for row in rows:
                yield from self._own(row)
                yield from self._unnumbered(row)
            yield from self._streams({row.pk: row for row in rows})
        waits = StreamMessage.objects.using(alias()).filter(seq=None)
        self.summary.unnumbered = waits.count()

    # --- the session's own messages -----------------------------------------------------------

    def _own(self, row: Any) -> Iterator[Finding]:
        behind = row.last_seq - row.acked_seq
        if behind <= 0:
            return
        if row.state == Session.State.ENDED:
            first, why = row.acked_seq + 1, f"the session ended ({row.cause or '?'})"
            yield _finding(row, None, first, row.last_seq, behind, why, row.ended_at)
            return
        if row.kept < behind:
            for first, last in self._holes(row):
                why = "cleared before its client came; it will be told of a gap"
                yield _finding(row, None, first, last, last - first + 1, why, None)
        if row.kept:
            yield from self._waits(row, None, row.first, row.last, row.kept, row.oldest)

    def _holes(self, row: Any) -> list[tuple[int, int]]:
        """What is missing behind the acknowledged, in one statement: notes go on meanwhile."""
        kept = OutboundMessage.objects.using(alias()).filter(
            session=row.pk, seq__gt=F("session__acked_seq")
        )
        found = list(kept.order_by("seq").values_list("seq", "session__acked_seq"))
        return _ranges(
            [seq for seq, _ in found if seq is not None],
            found[0][1] if found else row.acked_seq,
            row,
        )

    def _waits(
        self, row: Any, stream: str | None, first: int, last: int, count: int, since: datetime
    ) -> Iterator[Finding]:
        self.summary.waits(count, since)
        if self._late is not None and since <= self._late:
            yield _finding(row, stream, first, last, count, "waits for its client", since)

    def _unnumbered(self, row: Any) -> Iterator[Finding]:
        """What was left for the session, and not taken up by its node yet."""
        if not row.left:
            return
        if row.state == Session.State.ENDED:
            why = f"left for a session that ended ({row.cause or '?'})"
            yield _finding(row, None, 0, 0, row.left, why, row.left_since)
        else:
            yield from self._waits(row, None, 0, 0, row.left, row.left_since)

    # --- streams ------------------------------------------------------------------------------

    def _streams(self, rows: dict[int, Any]) -> Iterator[Finding]:
        follows = Subscription.objects.using(alias()).filter(session__in=list(rows))
        found = list(follows.order_by("pk"))
        names = {one.stream for one in found}
        streams = {
            stream.name: stream
            for some in _some(sorted(names))
            for stream in Stream.objects.using(alias()).filter(name__in=some)
        }
        for one in found:
            stream = streams.get(one.stream)
            if stream is not None:
                yield from self._stream(rows[one.session_id], one, stream)

    def _stream(self, row: Any, one: Subscription, stream: Stream) -> Iterator[Finding]:
        ended = row.state == Session.State.ENDED
        position = max(one.from_seq, one.acked_seq)
        if one.epoch != stream.epoch:
            if row.state != Session.State.ATTACHED:  # else it is told just now
                why = "the numbers began anew while it was away; it will be told of a gap"
                yield _finding(row, one.stream, 0, 0, 0, why, row.left_at)
            return
        if stream.head <= position:
            return
        messages = StreamMessage.objects.using(alias()).filter(stream=one.stream, seq__gt=position)
        if ended:  # what came later was not for it
            messages = messages.filter(created_at__lte=row.ended_at)
        kept = messages.filter(seq__lte=stream.head).aggregate(
            count=Count("pk"), first=Min("seq"), last=Max("seq"), oldest=Min("created_at")
        )
        if ended:
            if kept["count"]:
                why = f"the session ended ({row.cause or '?'})"
                args = (one.stream, kept["first"], kept["last"], kept["count"])
                yield _finding(row, *args, why, row.ended_at)
            return
        if kept["count"] < stream.head - position and self._still_behind(one, position):
            first = kept["first"] or stream.head + 1
            count = stream.head - position - kept["count"]
            why = "cleared before its client came; it will be told of a gap"
            yield _finding(row, one.stream, position + 1, first - 1, count, why, None)
        if kept["count"]:
            args = (one.stream, kept["first"], kept["last"], kept["count"])
            yield from self._waits(row, *args, kept["oldest"])

    def _still_behind(self, one: Subscription, position: int) -> bool:
        """Its acknowledgements may have come between the two looks, and then its messages go."""
        now = Subscription.objects.using(alias()).filter(pk=one.pk, epoch=one.epoch).first()
        return now is not None and max(now.from_seq, now.acked_seq) == position


def _with_rows(sessions: QuerySet[Any]) -> QuerySet[Any]:
    """Each session with what is kept for it, of one moment: notes delete what they acknowledge."""
    mine = OutboundMessage.objects.filter(session=OuterRef("pk")).order_by()
    waits = mine.filter(seq__gt=OuterRef("acked_seq"), seq__lte=OuterRef("last_seq"))
    left = mine.filter(seq=None)

    def of(rows: QuerySet[Any], what: Any) -> Subquery:
        return Subquery(rows.values("session").annotate(found=what).values("found"))

    annotated: QuerySet[Any] = sessions.annotate(
        kept=Coalesce(of(waits, Count("pk")), 0),
        first=of(waits, Min("seq")),
        last=of(waits, Max("seq")),
        oldest=of(waits, Min("created_at")),
        left=Coalesce(of(left, Count("pk")), 0),
        left_since=of(left, Min("created_at")),
    )
    return annotated.filter(
        Q(last_seq__gt=F("acked_seq"))
        | Q(left__gt=0)
        | Q(pk__in=Subscription.objects.values("session"))
    )


def _ranges(seqs: Sequence[int], acked: int, row: Any) -> list[tuple[int, int]]:
    """The numbers behind ``acked`` and up to the row's last that are not among ``seqs``."""
    holes, expected = [], acked + 1
    for seq in [*seqs, row.last_seq + 1]:
        if seq > row.last_seq + 1:
            break  # it has come since
        if seq > expected:
            holes.append((expected, seq - 1))
        expected = seq + 1
    return holes[:RANGES]


def _some(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _finding(
    row: Any,
    stream: str | None,
    first: int,
    last: int,
    count: int,
    why: str,
    since: datetime | None,
) -> Finding:
    return Finding(row.uuid, row.user_id, row.consumer, stream, first, last, count, why, since)


# --- for the admin --------------------------------------------------------------------------------


def oldest_unacked(sessions: Sequence[int]) -> dict[int, datetime]:
    """When the oldest message was kept that a session (primary key) has not acknowledged."""
    rows = OutboundMessage.objects.using(alias()).filter(
        session__in=sessions, seq__gt=F("session__acked_seq")
    )
    found = rows.order_by().values_list("session").annotate(oldest=Min("created_at"))
    return dict(found)


def behind(sessions: Sequence[int]) -> dict[int, int]:
    """How many messages of the streams that they follow sessions have not acknowledged."""
    follows = Subscription.objects.using(alias()).filter(session__in=sessions)
    head = Stream.objects.filter(name=OuterRef("stream"), epoch=OuterRef("epoch")).values("head")
    rows = follows.annotate(head=Subquery(head[:1])).values_list(
        "session", "head", "from_seq", "acked_seq"
    )
    counts: dict[int, int] = {}
    for session, top, first, acked in rows:
        if top is not None:
            counts[session] = counts.get(session, 0) + max(0, top - max(first, acked))
    return counts
