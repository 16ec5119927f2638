"""What goes, and when: in small batches, so that no transaction holds a lock for long."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Exists, F, Func, IntegerField, Min, OuterRef, Q, Sum
from django.db.models.functions import Greatest
from django.utils import timezone

from graceful_ws.conf import settings
from graceful_ws.models import (
    AuditEntry,
    InboundResult,
    Node,
    OutboundMessage,
    Presence,
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


def expire() -> list[tuple[uuid.UUID, str]]:
    """Ends sessions that nobody resumed in time. Returns (public id, consumer) of each."""
    now = timezone.now()
    gone = now - timedelta(seconds=settings.resume_window)
    unused = now - timedelta(seconds=settings.anonymous_unused)
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        detached = sessions.filter(
            state=Session.State.DETACHED,
            left_at__lt=max(gone, unused),  # said once more for the index
        )
        due = detached.filter(
            Q(left_at__lt=gone)
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


def purge() -> int:
    """Removes one batch of everything that may go; returns how many rows went.

    Acknowledged messages are not its work: the round that notes the acknowledgement deletes them.
    """
    now = timezone.now()
    using = alias()
    old = now - timedelta(seconds=settings.journal_age)
    ended = now - timedelta(seconds=settings.ended_age)
    audited = now - timedelta(seconds=settings.audit_age)
    sessions = Session.objects.using(using)
    # It left before it ended, and that is what there is an index of.
    over = sessions.filter(state=Session.State.ENDED, ended_at__lt=ended, left_at__lt=ended)
    ids = list(over.order_by("left_at").values_list("pk", flat=True)[:BATCH])
    messages = OutboundMessage.objects.using(using)
    nodes = Node.objects.using(using)
    gone = nodes.filter(state__in=(Node.State.STOPPED, Node.State.DEAD), beat_at__lt=ended)
    streams = StreamMessage.objects.using(using)
    audit = AuditEntry.objects.using(using)
    of_sessions = [
        model.objects.using(using).filter(session__in=ids).order_by("session")
        for model in (OutboundMessage, InboundResult, Subscription, Presence)
    ]
    removed = sum(
        _delete(rows)
        for rows in (
            # In the order of the index that finds them: by the primary key SQLite reads them all.
            messages.filter(created_at__lt=old, seq__isnull=False).order_by("created_at"),
            streams.filter(created_at__lt=old, seq__isnull=False).order_by("created_at"),
            audit.filter(at__lt=audited).order_by("at"),
            gone,
            *(of_sessions if ids else ()),
        )
    )
    if ids and not any(rows.exists() for rows in of_sessions):
        removed += _delete(sessions.filter(pk__in=ids))
    return removed + cap() + _idle_streams(ended)


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
