"""Messages for a session from anywhere: kept at once, numbered by the session's owner."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from django.utils import timezone

from graceful_ws.models import OutboundMessage, Session

from .base import alias


class SessionUnknown(LookupError):
    """There is no such session, or it has ended."""


wakers: list[Callable[[int], None]] = []  # of this process: told the primary key, in any thread


def wake(session: int) -> None:
    """Something waits for a session. The nodes of this process hear it now, others find it."""
    for waker in wakers:
        waker(session)


def leave(public_id: uuid.UUID, data: str) -> int:
    """Keeps a message for a session, in the caller's transaction if there is one; takes no lock.
    Returns the session's primary key. Raises SessionUnknown."""
    sessions = Session.objects.using(alias()).filter(uuid=public_id)
    pk = sessions.exclude(state=Session.State.ENDED).values_list("pk", flat=True).first()
    if pk is None:
        raise SessionUnknown(f"no live session {public_id}")
    OutboundMessage.objects.using(alias()).create(
        session_id=pk, seq=None, data=data, created_at=timezone.now()
    )
    return int(pk)


def waiting(node: uuid.UUID) -> list[int]:
    """The sessions attached to a node for which something waits to be numbered."""
    rows = OutboundMessage.objects.using(alias()).filter(
        seq__isnull=True, session__node=node, session__state=Session.State.ATTACHED
    )
    return list(rows.order_by().values_list("session_id", flat=True).distinct())
