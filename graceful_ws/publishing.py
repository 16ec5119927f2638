"""Sending to a session from anywhere: views, tasks, signals, shells, other consumers."""

from __future__ import annotations

import uuid
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction

from graceful_ws.conf import settings
from graceful_ws.core.frames import encode_data
from graceful_ws.store.base import alias
from graceful_ws.store.pending import SessionUnknown, leave, wake

__all__ = ["SessionUnknown", "asend_to_session", "send_to_session"]


def send_to_session(session_id: str | uuid.UUID, data: Any) -> None:
    """Sends ``data`` to a session by its public id (``consumer.session_id``), wherever it is.

    Inside ``transaction.atomic()`` it is sent if and only if the transaction commits. A detached
    session gets it when it resumes. It is one of the session's own messages: numbered, in order
    with those that its consumer sends, and delivered once.

    Raises SessionUnknown when there is no such session or it has ended, ValueError when ``data``
    is not strict JSON or over ``send_bytes``.
    """
    public_id = session_id if isinstance(session_id, uuid.UUID) else _parse(session_id)
    text = encode_data(data)
    if len(text) * 4 > settings.send_bytes and len(text.encode()) > settings.send_bytes:
        raise ValueError(f"{len(text.encode())} bytes, over send_bytes ({settings.send_bytes})")
    pk = leave(public_id, text)
    transaction.on_commit(lambda: wake(pk), using=alias(), robust=True)


async def asend_to_session(session_id: str | uuid.UUID, data: Any) -> None:
    """``send_to_session`` for coroutines; returns when the message is kept."""
    await sync_to_async(send_to_session)(session_id, data)


def _parse(session_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(session_id)
    except ValueError:
        raise SessionUnknown(f"not a session id: {session_id!r}") from None
