"""Sending from anywhere: views, tasks, signals, shells, other consumers.

Inside ``transaction.atomic()`` of the database that holds the tables a message is sent if and only
if the transaction commits. Order is that of the calls: publish after saving what you publish about.
"""

from __future__ import annotations

import uuid
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CLOSE_CODES, NEVER_SENT, CloseCode, is_application_code
from graceful_ws.core.frames import encode_data
from graceful_ws.envelopes import ask, node_group, nudge, pending_envelope, said, stream_group
from graceful_ws.store import credentials, pending, presence, streams, wakers
from graceful_ws.store.base import alias, connection
from graceful_ws.store.pending import SessionUnknown
from graceful_ws.store.presence import Online

__all__ = [
    "Online",
    "SessionUnknown",
    "aclose_user",
    "aonline",
    "apublish",
    "asend_to_session",
    "asend_to_user",
    "close_user",
    "online",
    "publish",
    "send_to_session",
    "send_to_user",
]


def publish(stream: str, data: Any) -> None:
    """Sends ``data`` to everybody who follows ``stream``, numbered, in order and once each; those
    who are away get it when they resume.

    A name is any text of 1 to 100 bytes. Takes no lock: long transactions and other publishers are
    in nobody's way.

    Raises ValueError for another name, or when ``data`` is over ``send_bytes`` or not strict JSON;
    for types that JSON has not, such as Decimal or datetime, TypeError.
    """
    streams.leave(streams.check_name(stream), encoded(data))
    transaction.on_commit(lambda: _published(stream), using=alias(), robust=True)


async def apublish(stream: str, data: Any) -> None:
    """``publish`` for coroutines; returns when the message is kept. In a consumer
    ``self.publish(…)`` is faster: it shares the transactions of its process."""
    await sync_to_async(publish)(stream, data)


def send_to_user(user: Any, data: Any) -> None:
    """Sends ``data`` to every session of a user (or a user's primary key), on whatever page or
    machine, attached or not: to those that there are when the transaction commits. It is one of
    each session's own messages.

    Raises ValueError and TypeError for ``data`` as ``publish`` does, and ValueError without a user.
    """
    name = pending.leave_for_user(_key(user), encoded(data))
    transaction.on_commit(lambda: _published(name), using=alias(), robust=True)


async def asend_to_user(user: Any, data: Any) -> None:
    """``send_to_user`` for coroutines; returns when the message is kept."""
    await sync_to_async(send_to_user)(user, data)


def send_to_session(session_id: str | uuid.UUID, data: Any) -> None:
    """Sends ``data`` to a session by its public id (``consumer.session_id``), wherever it is.

    A detached session gets it when it resumes. It is one of the session's own messages: numbered,
    in order with those that its consumer sends, and delivered once.

    Raises SessionUnknown when there is no such session or it has ended, ValueError and
    TypeError for ``data`` as ``publish`` does.
    """
    public_id = session_id if isinstance(session_id, uuid.UUID) else _parse(session_id)
    session = pending.leave(public_id, encoded(data))
    transaction.on_commit(lambda: _left([session]), using=alias(), robust=True)


async def asend_to_session(session_id: str | uuid.UUID, data: Any) -> None:
    """``send_to_session`` for coroutines; returns when the message is kept."""
    await sync_to_async(send_to_session)(session_id, data)


def close_user(user: Any, reason: str = "", code: int = CloseCode.CREDENTIALS_EXPIRED) -> None:
    """Ends every session of a user (or a user's primary key): their connections close with ``code``
    on every node, at once where the layer tells it, else within ``round_interval``, and nothing of
    it can be resumed. A user who still may log in comes back with a new session: so take the
    permission first. In a transaction it happens when that commits.

    Logging out, another password, deactivating and deleting do this by themselves.

    Raises ValueError for a code that a server does not send, or without a user.
    """
    key, code = _key(user), int(code)
    if code in NEVER_SENT or not (code in CLOSE_CODES or is_application_code(code)):
        raise ValueError(f"{code} is no close code of a server, nor one of the application's own")

    def end() -> None:
        ask(credentials.end_all(key, reason or "closed by the application", code=code))

    if connection().in_atomic_block:
        transaction.on_commit(end, using=alias(), robust=True)
    else:
        end()


async def aclose_user(
    user: Any, reason: str = "", code: int = CloseCode.CREDENTIALS_EXPIRED
) -> None:
    """``close_user`` for coroutines; returns when the sessions have ended in the database."""
    await sync_to_async(close_user)(user, reason, code)


def online(stream: str) -> list[Online]:
    """Who is in ``stream`` now, the longest first: the sessions that follow it with ``presence``.
    One that is away for less than ``exit_grace`` counts as there."""
    return presence.online(streams.check_name(stream))


async def aonline(stream: str) -> list[Online]:
    """``online`` for coroutines."""
    return await sync_to_async(online)(stream)


def encoded(data: Any) -> str:
    """``data`` as it is kept and sent. Raises ValueError."""
    text = encode_data(data)
    if len(text) * 4 > settings.send_bytes and len(text.encode()) > settings.send_bytes:
        raise ValueError(f"{len(text.encode())} bytes, over send_bytes ({settings.send_bytes})")
    return text


def _key(user: Any) -> Any:
    key = getattr(user, "pk", user)
    try:
        field = get_user_model()._meta.pk
        found = None if isinstance(key, bool | float) else field.to_python(key)
        if key is user:  # a value that a form would take need not be one that was saved
            field.run_validators(found)
    except (ValidationError, TypeError):
        found = None
    if found is None:
        raise ValueError(f"{user!r} is no user that was saved, nor the primary key of one")
    return found


def _parse(session_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(session_id)
    except ValueError:
        raise SessionUnknown(f"not a session id: {session_id!r}") from None


# --- after the commit -------------------------------------------------------------------------
# Whatever fails here is made good by the nodes, which look every second for what was left.


def _published(name: str) -> None:
    """Numbers what was published: by a node of this process if there is one, or here and now."""
    if wakers.published(name):
        return
    if name.startswith(pending.USER):
        while found := pending.hand_out(name):
            _left(found)
        return
    while numbered := streams.number(name):
        nudge(stream_group(name), said(numbered))
        if len(numbered.data) < streams.BATCH:
            return


def _left(sessions: list[tuple[int, uuid.UUID | None]]) -> None:
    """Something waits for sessions: their nodes hear it now."""
    if wakers.left(sessions):
        return
    for node in {node for _, node in sessions if node is not None}:
        nudge(node_group(node), pending_envelope([pk for pk, at in sessions if at == node]))
