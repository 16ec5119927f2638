"""Who is there: what an audience is told when a session comes, and once when it has gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q
from django.utils import timezone

from graceful_ws.conf import settings
from graceful_ws.core.frames import encode_data
from graceful_ws.models import Presence, Session, StreamMessage

from .base import alias, locked_rows, writing
from .sql import Batch, among, read
from .streams import MESSAGE, fresh, message

BATCH = 200

CAUSES = {"bye": "bye", "node_lost": "node_lost"}
CAUSES |= dict.fromkeys(("closed", "credentials", "idle"), "closed")


@dataclass(frozen=True, slots=True)
class Online:
    """Somebody whose streams were told that they are here, and not that they have gone."""

    client_id: str  # the session's public id
    user: Any  # primary key; None for an anonymous session
    since: datetime  # start of the session


def join_data(client_id: object, user: Any) -> str:
    """What a stream is told of somebody who comes, as encoded JSON."""
    return encode_data({"type": "client_join", **_who(client_id, user)})


def exit_data(client_id: object, user: Any, cause: str, code: int | None = None) -> str:
    """What a stream is told of somebody who has gone, as encoded JSON."""
    told: dict[str, Any] = {"type": "client_exit", **_who(client_id, user), "cause": cause}
    return encode_data(told if code is None else {**told, "code": code})


def _who(client_id: object, user: Any) -> dict[str, Any]:
    who: dict[str, Any] = {"client_id": str(client_id)}
    if user is not None:
        who["user"] = user if isinstance(user, int) else str(user)
    return who


def online(stream: str) -> list[Online]:
    """Who is there now, the longest first; a short disconnect does not count as gone."""
    rows = Presence.objects.using(alias()).filter(stream=stream, session__present=True)
    columns = ("session__uuid", "session__user_id", "session__started_at")
    found = rows.order_by("session__started_at", "session_id").values_list(*columns)
    return [Online(str(public_id), user, since) for public_id, user, since in found]


def announce_exits(*, absences: bool) -> list[str]:
    """Tells the audiences of sessions that are over, and with ``absences`` of those that have been
    away for ``exit_grace``. One batch; returns the streams that were told, [] when nobody left.

    The exits are inserted by the transaction that notes them: once, whoever dies in between.
    """
    now = timezone.now()
    gone = Q(state=Session.State.ENDED)
    if absences:
        away = now - timedelta(seconds=settings.exit_grace)
        gone |= Q(state=Session.State.DETACHED, left_at__lt=away)
    due = Session.objects.using(alias()).filter(gone, present=True, left_at__isnull=False)
    ids = list(due.order_by("left_at").values_list("pk", flat=True)[:BATCH])
    if not ids:
        return []
    with writing() as using:
        # Asked again under the lock: a resume may have come between.
        rows = {row.pk: row for row in locked_rows(due.filter(pk__in=ids), skip_locked=True)}
        told = Presence.objects.using(using.alias).filter(session__in=rows).order_by("pk")
        exits = [message(one.stream, _exit_of(rows[one.session_id])) for one in told]
        StreamMessage.objects.using(using.alias).bulk_create(exits)
        Session.objects.using(using.alias).filter(pk__in=rows).update(present=False)
        over = [row.pk for row in rows.values() if row.state == Session.State.ENDED]
        Presence.objects.using(using.alias).filter(session__in=over).delete()
        return sorted({one.stream for one in exits})


def _exit_of(session: Session) -> str:
    cause = CAUSES.get(session.cause, "timeout")
    return exit_data(session.uuid, session.user_id, cause, session.close_code)


def come_back(using: BaseDatabaseWrapper, sessions: Sequence[tuple[int, UUID, Any]]) -> list[str]:
    """Sessions whose exit was announced are there again: (id, public id, user). To be called in
    the transaction that attaches them, under their locks. Returns the streams that are told."""
    if not sessions:
        return []
    who = {pk: (public_id, user) for pk, public_id, user in sessions}
    one_of, params = among(using, who)
    columns = ("session_id", "stream")
    told = read(using, Presence, columns, f"WHERE session_id{one_of} ORDER BY id", params)
    now = timezone.now()
    joins = [fresh(stream, join_data(*who[session]), now) for session, stream in told]
    here = [(True, session) for session in dict(told)]
    batch = Batch(using).insert(StreamMessage, MESSAGE, joins)
    batch.update(Session, ("present",), ("id",), here).run()
    return sorted({stream for _, stream in told})
