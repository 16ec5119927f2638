"""Messages for a session, or for all of a user's, from anywhere: kept at once, and numbered by the
session's owner.

A message for a user waits under the reserved name ``user:…`` until its transaction has committed;
then it is handed to each session that the user has by then, so that a page which opened meanwhile
gets it too.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from graceful_ws.models import OutboundMessage, Session, StreamMessage

from . import streams
from .base import alias, connection, writing
from .sql import among, insert_many

OUTBOUND = ("session_id", "seq", "data", "created_at")


class SessionUnknown(LookupError):
    """There is no such session, or it has ended."""


def leave(public_id: uuid.UUID, data: str) -> tuple[int, uuid.UUID | None]:
    """Keeps a message for a session, in the caller's transaction if there is one; takes no lock.
    Returns the session's primary key and the node it is attached to. Raises SessionUnknown."""
    sessions = Session.objects.using(alias()).filter(uuid=public_id)
    found = sessions.exclude(state=Session.State.ENDED).values_list("pk", "node_id").first()
    if found is None:
        raise SessionUnknown(f"no live session {public_id}")
    pk, node = found
    using = connection()
    # As a model's save() does it: an error ends the caller's transaction.
    with transaction.mark_for_rollback_on_error(using.alias):
        insert_many(using, OutboundMessage, OUTBOUND, [(pk, None, data, timezone.now())])
    return int(pk), node


USER = "user:"
COPIES = 5000  # messages that one transaction gives to sessions


def leave_for_user(user: Any, data: str) -> str:
    """Keeps a message for a user (primary key), in the caller's transaction if there is one.
    Returns the name under which it waits."""
    name = f"{USER}{user}"
    if len(name) > streams.NAME_BYTES:
        raise ValueError(f"the primary key of user {user!r} is too long for send_to_user")
    streams.leave(name, data)
    return name


def hand_out(name: str) -> list[tuple[int, uuid.UUID | None]] | None:
    """Hands what waits for a user to the user's sessions, in order, once. Returns the sessions and
    the nodes that they are attached to; None when nothing waits."""
    with writing() as using:
        rows = StreamMessage.objects.using(using.alias).filter(stream=name).order_by("pk")
        # Whoever came second finds them gone.
        locked = rows.select_for_update().values_list("pk", flat=True)
        taken = list(locked[: streams.BATCH])
        if not taken:
            return None
        sessions = Session.objects.using(using.alias).filter(user_id=name.removeprefix(USER))
        live = sessions.exclude(state=Session.State.ENDED).order_by("pk")
        found: list[tuple[int, uuid.UUID | None]] = list(live.values_list("pk", "node_id"))
        if found:
            taken = taken[: max(1, COPIES // len(found))]
            _copy(using, taken, [pk for pk, _ in found])
        gone = StreamMessage.objects.using(using.alias).filter(pk__in=taken)
        gone._raw_delete(using.alias)
        return found


def _copy(using: BaseDatabaseWrapper, messages: list[int], sessions: list[int]) -> None:
    """In the database: a hundred sessions may get five hundred large ones, and PostgreSQL takes no
    statement of a gigabyte."""
    of_messages, these = among(using, messages)
    of_sessions, those = among(using, sessions)
    sql = (
        f"INSERT INTO {OutboundMessage._meta.db_table} (session_id, data, created_at)"
        f" SELECT s.id, m.data, m.created_at FROM {StreamMessage._meta.db_table} m"
        f" CROSS JOIN {Session._meta.db_table} s"
        f" WHERE m.id{of_messages} AND s.id{of_sessions} ORDER BY m.id, s.id"
    )
    with using.cursor() as cursor:
        cursor.execute(sql, these + those)


def waiting(node: uuid.UUID) -> list[int]:
    """The sessions attached to a node for which something waits to be numbered."""
    rows = OutboundMessage.objects.using(alias()).filter(
        seq__isnull=True, session__node=node, session__state=Session.State.ATTACHED
    )
    return list(rows.order_by().values_list("session_id", flat=True).distinct())
