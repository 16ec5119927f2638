"""What the dashboard asks the database. As the rest of the admin it only reads, in few queries."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Case, F, IntegerField, Q, QuerySet, Value, When
from django.utils import timezone

from graceful_ws.admin_base import with_users
from graceful_ws.conf import settings
from graceful_ws.live import history
from graceful_ws.models import Node, Session
from graceful_ws.store import nodes as store
from graceful_ws.store import samples
from graceful_ws.store.base import alias

NODES = 200  # nodes that are listed
SESSIONS = 25  # sessions
SEARCH = 100  # characters of what is searched for
USERS_FOUND = 1000  # users whose names match it

ALIVE = (Session.State.ATTACHED, Session.State.DETACHED)
OF_STATS = ("messages_in", "messages_out", "hellos", "closes", "rtt")  # what the charts go on from

_one_at_a_time = threading.Lock()  # an hour of samples is the most that a page costs


def snapshot() -> dict[str, Any]:
    """All that a page begins with."""
    now = timezone.now()
    with _one_at_a_time:
        hour, last = _history(now)
    listed = _nodes(now)
    for node in listed:
        if node["id"] in last:
            node["at"], node["figures"] = last[node["id"]]
    return {
        "type": "snapshot",
        "now": _ms(now),
        "history": hour,
        "nodes": listed,
        "totals": samples.totals().as_dict(),
        "sessions": sessions()["sessions"],
    }


def totals() -> dict[str, Any]:
    """What is not published: sessions that have no connection, and nodes that say nothing."""
    now = timezone.now()
    return {
        "type": "totals",
        "now": _ms(now),
        "totals": samples.totals().as_dict(),
        "nodes": _nodes(now),
    }


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _history(now: datetime) -> tuple[dict[str, Any], dict[str, tuple[int, dict[str, Any]]]]:
    """The hour, and the last sample of each node."""
    step = max(history.STEP, math.ceil(settings.sample_interval))
    rows = list(Node.objects.using(alias()).values_list("pk", "name", "state", "beat_at"))
    names = {pk: name for pk, name, _, _ in rows}
    beat = timedelta(seconds=settings.beat_interval)  # it may have lived so long after its last
    ends = {pk: _ms(at + beat) for pk, _, state, at in rows if state not in store.LIVE}
    last: dict[str, tuple[int, dict[str, Any]]] = {}

    def found() -> Iterator[tuple[uuid.UUID, str, int, dict[str, Any]]]:
        # Two steps more: what the first ones are compared with.
        since = now - timedelta(seconds=history.SPAN + 2 * step)
        for node, at, figures in samples.history(since):
            last[str(node)] = _ms(at), _short(figures)
            yield node, names.get(node, "?"), _ms(at), figures

    return history.build(found(), _ms(now), step, ends).as_dict(), last


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    stats = {name: figures["stats"][name] for name in OF_STATS}
    return {**figures, "stats": stats}


def _nodes(now: datetime) -> list[dict[str, Any]]:
    """Those that serve, by name, and behind them those that went within the hour."""
    recent = Q(state__in=store.LIVE) | Q(beat_at__gte=now - timedelta(seconds=history.SPAN))
    gone = Case(
        When(state__in=store.LIVE, then=Value(0)), default=Value(1), output_field=IntegerField()
    )
    rows = Node.objects.using(alias()).filter(recent).order_by(gone, "name", "-started_at")
    listed = []
    for node in rows[:NODES]:
        status = store.status_of(node)
        columns = {name: getattr(node, name) for name in samples.COLUMNS}
        listed.append(
            {
                **samples.describe(columns),
                "connections": node.connections,
                "beat_age": round((now - node.beat_at).total_seconds(), 1),
                "is_live": status.is_live,
                "drain": status.progress or None,
            }
        )
    return listed


def sessions(search: str = "", order: str = "newest") -> dict[str, Any]:
    """Sessions that live, the newest first or those with the most unacknowledged messages."""
    rows = Session.objects.using(alias()).filter(state__in=ALIVE)
    if search.strip():
        rows = rows.filter(_matches(search.strip()))
    behind = F("last_seq") - F("acked_seq")
    rows = rows.order_by(behind.desc(), "-pk") if order == "unacked" else rows.order_by("-pk")
    now = timezone.now()
    columns = (
        *("uuid", "user", "consumer", "state", "connection_state", "remote_address"),
        *("started_at", "last_seq", "acked_seq", "rtt_ms", "node"),
    )
    found: QuerySet[Any] = with_users(rows.only(*columns))
    listed = list(found[: SESSIONS + 1])
    names = dict(
        Node.objects.using(alias())
        .filter(pk__in={row.node_id for row in listed})
        .values_list("pk", "name")
    )
    return {
        "type": "sessions",
        "search": search,
        "order": order,
        "more": len(listed) > SESSIONS,
        "sessions": [_session(row, names, now) for row in listed[:SESSIONS]],
    }


def _matches(search: str) -> Q:
    """A part of the session's id, of the user's name or of the address."""
    model = get_user_model()
    named = {f"{model.USERNAME_FIELD}__icontains": search}
    users = model._default_manager.filter(**named).values_list("pk", flat=True)[:USERS_FOUND]
    return Q(uuid__icontains=search) | Q(remote_address__icontains=search) | Q(user__in=list(users))


def _session(row: Any, names: dict[Any, str], now: datetime) -> dict[str, Any]:
    return {
        "uuid": str(row.uuid),
        "pk": row.pk,
        "user": row.user.get_username() if row.user is not None else None,
        "consumer": row.consumer.rpartition(".")[2],
        "address": row.remote_address,
        "state": row.connection_state or row.state,
        "attached": row.state == Session.State.ATTACHED,
        "node": names.get(row.node_id),
        "age": round((now - row.started_at).total_seconds(), 1),
        "unacked": row.last_seq - row.acked_seq,
        "rtt_ms": row.rtt_ms,
    }
