"""Figures of nodes: kept for an hour, and told to whoever watches them live."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import F, Min, Sum
from django.utils import timezone

from graceful_ws.models import Node, OutboundMessage, Sample, Session, Subscription

from .base import alias, writing
from .streams import LIVE, message

__all__ = [
    "COLUMNS",
    "LIVE",
    "Totals",
    "describe",
    "history",
    "is_watched",
    "keep",
    "oldest_unacked",
    "totals",
]

# What the dashboard is told of a node beside its figures.
COLUMNS = (
    *("id", "name", "host", "pid", "server", "version", "state", "requested_state", "beat"),
    "started_at",
)


def keep(node: uuid.UUID, figures: dict[str, Any], *, sample: bool, publish: bool) -> bool:
    """Keeps the figures of a node as a sample, or publishes them to whoever watches, or both. True
    when they were published: the stream is to be numbered."""
    now = timezone.now()
    with writing() as using:
        if sample:
            Sample.objects.using(using.alias).create(
                node_id=node, at=now, figures=json.dumps(figures)
            )
        if not publish:
            return False
        row = Node.objects.using(using.alias).filter(pk=node).values(*COLUMNS).first()
        if row is None:
            return False
        told = {
            "type": "node",
            "node": describe(row),
            "at": round(now.timestamp() * 1000),
            "figures": figures,
        }
        message(LIVE, json.dumps(told)).save(using=using.alias, force_insert=True)
        return True


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """A node's row, of ``COLUMNS``, as JSON can carry it."""
    return {**row, "id": str(row["id"]), "started_at": row["started_at"].isoformat()}


def is_watched() -> bool:
    """Whether somebody who is here follows the figures."""
    followers = Subscription.objects.using(alias()).filter(stream=LIVE)
    return followers.filter(session__state=Session.State.ATTACHED).exists()


def history(since: datetime) -> Iterator[tuple[uuid.UUID, datetime, dict[str, Any]]]:
    """(node, when, figures), the oldest first."""
    rows = Sample.objects.using(alias()).filter(at__gte=since).order_by("at")
    for node, at, figures in rows.values_list("node_id", "at", "figures").iterator():
        yield node, at, json.loads(figures)


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all sessions that live. ``unacked`` counts their own messages, not those of streams;
    ``oldest_unacked`` is the age in seconds of the oldest of them, None when there is none."""

    attached: int
    detached: int
    unacked: int
    oldest_unacked: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def totals() -> Totals:
    """Sessions that live, and what they have not acknowledged."""
    alive = (Session.State.ATTACHED, Session.State.DETACHED)
    counts: dict[str, int] = {}
    unacked = 0
    sessions = Session.objects.using(alias())
    for state in alive:  # one by one: each is a range of an index
        rows = sessions.filter(state=state).aggregate(
            unacked=Sum(F("last_seq") - F("acked_seq"), default=0)
        )
        counts[state] = sessions.filter(state=state).count()
        unacked += rows["unacked"]
    return Totals(
        counts[Session.State.ATTACHED], counts[Session.State.DETACHED], unacked, oldest_unacked()
    )


def oldest_unacked() -> float | None:
    """The age, in seconds, of the oldest message that a living session has not acknowledged."""
    rows = OutboundMessage.objects.using(alias()).filter(
        seq__gt=F("session__acked_seq"),
        session__state__in=(Session.State.ATTACHED, Session.State.DETACHED),
        session__last_seq__gt=F("session__acked_seq"),  # said once more: few sessions are behind
    )
    # Not the first one by age: before it stand all that ended sessions have left.
    oldest = rows.aggregate(oldest=Min("created_at"))["oldest"]
    return None if oldest is None else (timezone.now() - oldest).total_seconds()
