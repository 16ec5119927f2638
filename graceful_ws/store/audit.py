"""What a node did to many sessions at once, for operators to read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from django.utils import timezone

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import AuditEntry

from .base import writing

RECLAIM = "reclaim"


def reclaimed(node: str, sessions: Iterable[tuple[uuid.UUID, str]]) -> None:
    """Sessions (public ids, each with the reason) whose connections were closed for memory."""
    with writing() as using:
        now = timezone.now()
        AuditEntry.objects.using(using.alias).bulk_create(
            AuditEntry(
                at=now,
                node=node,
                session=session,
                event=RECLAIM,
                code=CloseCode.RECLAIMED,
                reason=reason[:200],
            )
            for session, reason in sessions
        )
