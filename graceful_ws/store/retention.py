"""What goes, and when: in small batches, so that no transaction holds a lock for long."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import Any

from django.db.models import Exists, F, Func, IntegerField, Min, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Greatest
from django.utils import timezone

from graceful_ws.conf import settings
from graceful_ws.models import (
    AuditEntry,
    InboundResult,
    Node,
    OutboundMessage,
    Presence,
    Sample,
    Session,
    Stream,
    StreamMessage,
    Subscription,
)

from .base import alias, locked_rows, writing

BATCH = 500
CONDITIONS = 100  # in one query; SQLite's parser refuses a thousand
YOUNG = 60.0  # seconds for which a message of a stream is kept in any case
USED = 600.0  # seconds since its last message for which a stream is trimmed; later its age counts


def consumers() -> list[str]:
    """The labels of the consumers that sessions wait for."""
    detached = Session.objects.using(alias()).filter(state=Session.State.DETACHED)
    return list(detached.order_by().values_list("consumer", flat=True).distinct())


def expire(windows: Mapping[str, float] = MappingProxyType({})) -> list[tuple[uuid.UUID, str]]:
    """Ends sessions that nobody resumed in time. ``windows`` has the seconds of those consumers, by
    label, that differ from ``resume_window``. Returns (public id, consumer) of one batch."""
    now = timezone.now()
    gone = now - timedelta(seconds=settings.resume_window)
    late = Q(left_at__lt=gone) & ~Q(consumer__in=list(windows))
    for window in set(windows.values()):
        labels = [label for label, seconds in windows.items() if seconds == window]
        late |= Q(left_at__lt=now - timedelta(seconds=window), consumer__in=labels)
    shortest = now - timedelta(seconds=min([settings.resume_window, *windows.values()]))
    unused = now - timedelta(seconds=settings.anonymous_unused)
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        detached = sessions.filter(
            state=Session.State.DETACHED,
            left_at__lt=max(shortest, unused),  # said once more for the index
        )
        due = detached.filter(
            late
            | Q(
                ~_any_of(Subscription),
                ~_any_of(OutboundMessage),  # something waits for it
                left_at__lt=unused,
                user=None,
                last_seq=0,
                last_client_seq=0,
            )
        )
        ids = list(due.order_by("left_at").values_list("pk", flat=True)[:BATCH])
        if not ids:
            return []
        # Asked again under the lock: a resume may have come between.
        rows = list(locked_rows(due.filter(pk__in=ids), skip_locked=True))
        sessions.filter(pk__in=[row.pk for row in rows]).update(
            state=Session.State.ENDED, ended_at=now, generation=F("generation") + 1, cause="expired"
        )
        return [(row.uuid, row.consumer) for row in rows]


def _any_of(model: type[Subscription | OutboundMessage]) -> Exists:
    return Exists(model.objects.filter(session=OuterRef("pk")))


def purge(journal_age: float | None = None, ended_age: float | None = None) -> int:
    """Removes one batch of everything that may go; returns how many rows went. Ages in seconds;
    None takes the setting.

    Acknowledged messages are not its work: the round that notes the acknowledgement deletes them.
    """
    due = _due(journal_age, ended_age)
    sessions = due.pop("sessions")
    ids = list(sessions.values_list("pk", flat=True)[:BATCH])
    removed = sum(map(_delete, due.values()))
    if ids:
        of_sessions = [rows.filter(session__in=ids).order_by("session") for rows in _parts()]
        removed += sum(map(_delete, of_sessions))
        if not any(rows.exists() for rows in of_sessions):
            removed += _delete(Session.objects.using(alias()).filter(pk__in=ids))
    return removed + cap() + _idle_streams(_ago(_or(ended_age, settings.ended_age)))


def counts(journal_age: float | None = None, ended_age: float | None = None) -> dict[str, int]:
    """How many rows may go now, by what they are; without what belongs to the sessions among them,
    and without what the caps remove."""
    return {name: rows.count() for name, rows in _due(journal_age, ended_age).items()}


def _due(journal_age: float | None, ended_age: float | None) -> dict[str, QuerySet[Any]]:
    """What may go, in the order of the index that finds it: by the primary key SQLite reads all."""
    using = alias()
    old = _ago(_or(journal_age, settings.journal_age))
    ended = _ago(_or(ended_age, settings.ended_age))
    # A session left before it ended, and that is what there is an index of.
    over = {"state": Session.State.ENDED, "ended_at__lt": ended, "left_at__lt": ended}
    numbered = {"created_at__lt": old, "seq__isnull": False}
    gone = {"state__in": (Node.State.STOPPED, Node.State.DEAD), "beat_at__lt": ended}
    audited, sampled = _ago(settings.audit_age), _ago(settings.sample_age)
    return {
        "sessions": Session.objects.using(using).filter(**over).order_by("left_at"),
        "messages": OutboundMessage.objects.using(using).filter(**numbered).order_by("created_at"),
        "stream messages": (
            StreamMessage.objects.using(using).filter(**numbered).order_by("created_at")
        ),
        "audit entries": AuditEntry.objects.using(using).filter(at__lt=audited).order_by("at"),
        "samples": Sample.objects.using(using).filter(at__lt=sampled).order_by("at"),
        "nodes": Node.objects.using(using).filter(**gone),
    }


def _parts() -> list[QuerySet[Any]]:
    """What belongs to sessions."""
    models = (OutboundMessage, InboundResult, Subscription, Presence)
    return [model._base_manager.using(alias()).all() for model in models]


def _or(age: float | None, setting: float) -> float:
    return setting if age is None else age


def count_session(public_id: uuid.UUID) -> int | None:
    """How many rows a session has, its own among them; None when there is no such session."""
    session = Session.objects.using(alias()).filter(uuid=public_id).first()
    if session is None:
        return None
    return 1 + sum(rows.filter(session=session.pk).count() for rows in _parts())


def remove_session(public_id: uuid.UUID) -> int:
    """Removes a session that has ended, and what belongs to it; returns how many rows went."""
    ended = Session.objects.using(alias()).filter(uuid=public_id, state=Session.State.ENDED)
    removed = 0
    for pk in list(ended.values_list("pk", flat=True)):
        while some := sum(_delete(rows.filter(session=pk)) for rows in _parts()):
            removed += some
        removed += _delete(Session.objects.using(alias()).filter(pk=pk))
    return removed


def cap() -> int:
    """Keeps ``journal_rows`` and ``journal_bytes`` of each session with a long backlog; what a cap
    removes ends in a gap for the reader. Returns how many rows went."""
    sessions = Session.objects.using(alias()).annotate(backlog=F("last_seq") - F("acked_seq"))
    fewest = min(settings.journal_rows, settings.journal_bytes // settings.send_bytes)
    long = sessions.filter(backlog__gt=fewest).order_by("-backlog")[:BATCH]
    removed = 0
    for pk, last_seq in list(long.values_list("pk", "last_seq")):
        rows = OutboundMessage.objects.using(alias()).filter(session=pk, seq__isnull=False)
        cut = max(last_seq - settings.journal_rows, _largest_cut(rows))
        removed += _delete(rows.filter(seq__lte=cut))
    return removed


def trim_streams() -> int:
    """Removes messages of streams that nobody needs any more, and what is over ``journal_rows`` or
    ``journal_bytes`` of one stream: that ends in a gap for whoever still needed it. Returns how
    many rows went."""
    used = Stream.objects.using(alias()).filter(used_at__gte=_ago(USED)).order_by("pk")
    removed = last = 0
    while some := list(used.filter(pk__gt=last).values_list("pk", "name", "head")[:BATCH]):
        last = some[-1][0]
        removed += _trim({name: head for _, name, head in some})
    return removed


def _ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


def _trim(heads: dict[str, int]) -> int:
    """A subscription that is being written cannot be seen yet, so young messages are left alone."""
    using = alias()
    follows = Subscription.objects.using(using).filter(stream__in=heads)
    lowest = dict(
        follows.exclude(session__state=Session.State.ENDED)
        .order_by()
        .values_list("stream")
        .annotate(lowest=Min(Greatest("from_seq", "acked_seq")))
    )
    rows = StreamMessage.objects.using(using).filter(seq__isnull=False)
    sizes = rows.filter(stream__in=heads).order_by().values_list("stream")
    large = sizes.annotate(size=Sum(Bytes("data"))).filter(size__gt=settings.journal_bytes)
    cuts = {name: head - settings.journal_rows for name, head in heads.items()}
    for name, _ in large:
        cuts[name] = max(cuts[name], _largest_cut(rows.filter(stream=name)))
    gone = [Q(stream=name, seq__lte=cut) for name, cut in cuts.items() if cut > 0]
    needless = [
        Q(stream=name, seq__lte=lowest.get(name, head), created_at__lt=_ago(YOUNG))
        for name, head in heads.items()
    ]
    removed = 0
    conditions = [*gone, *needless]
    for start in range(0, len(conditions), CONDITIONS):
        some = reduce(or_, conditions[start : start + CONDITIONS])
        removed += _delete(rows.filter(some).order_by("stream", "seq"))
    return removed


def _largest_cut(rows) -> int:  # type: ignore[no-untyped-def]
    """The number up to which rows of a sequence are over ``journal_bytes``; 0 for none."""
    size = 0
    for seq, length in rows.order_by("-seq").values_list("seq", Bytes("data")).iterator():
        size += length
        if size > settings.journal_bytes:
            return int(seq)
    return 0


def _idle_streams(before: datetime) -> int:
    """Removes streams that nobody has used for long; one that comes back has another epoch."""
    streams = Stream.objects.using(alias())
    oldest = streams.filter(used_at__lt=before).order_by("used_at").values_list("name", "pk")
    old = dict(oldest[:BATCH])
    for model in (StreamMessage, Subscription, Presence):
        rows = model._base_manager.using(alias()).filter(stream__in=old)
        needed = set(rows.order_by().values_list("stream", flat=True).distinct())
        # Silent, but not forgotten: looked at again when its time comes.
        streams.filter(pk__in=[old.pop(name) for name in needed]).update(used_at=timezone.now())
    if not old:
        return 0
    with writing() as using:
        # Asked again in the statement that deletes: one that is numbered just now stays.
        gone = Stream.objects.using(using.alias).filter(pk__in=old.values(), used_at__lt=before)
        return int(gone._raw_delete(using.alias))


class Bytes(Func):
    """The length of a text in UTF-8."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        # octet_length() came with SQLite 3.43.
        template = "LENGTH(CAST(%(expressions)s AS BLOB))"
        return self.as_sql(compiler, connection, template=template, **context)


def _delete(rows) -> int:  # type: ignore[no-untyped-def]
    ids = list(rows.values_list("pk", flat=True)[:BATCH])
    if not ids:
        return 0
    with writing() as using:
        table = rows.model._base_manager.using(using.alias)
        return int(table.filter(pk__in=ids)._raw_delete(using.alias))
