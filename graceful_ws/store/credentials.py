"""Ending what a user began who may not go on: logged out, deactivated, deleted, another password.

The user's own row decides, which may be in another database and may be changed by anybody; so nodes
compare it with what their connections were opened with (``standings``).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth import get_backends, get_user_model
from django.contrib.auth.backends import AllowAllUsersModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import router
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from graceful_ws.core.close_codes import CloseCode, cut_reason
from graceful_ws.models import AuditEntry, Session

from .base import locked_rows, reading, writing

BATCH = 500  # sessions ended by one transaction
CAUSE = "credentials"  # of the session's end, and the event of the audit trail

# --- whose credentials are good -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """What a user's row says."""

    fingerprint: int | None  # of what it depends on; None: there is no such user
    why: str  # why the user may not be here; "" if they may
    valid: frozenset[str]  # the auth hashes that are good


GONE = Standing(None, "the user was deleted", frozenset())


def standings(known: Mapping[Any, Standing | None]) -> dict[Any, Standing]:
    """Where users (primary keys) stand now. One query; what has changed since ``known`` takes a
    second one, and only that is hashed. A replica may be behind, so it is not asked."""
    model = get_user_model()
    users = model._default_manager.using(router.db_for_write(model)).order_by()
    columns = _columns(model)
    rows = users.filter(pk__in=list(known)).values_list("pk", *columns)
    prints = {row[0]: hash(repr(row[1:])) for row in rows}
    found = {pk: before or GONE for pk, before in known.items()}
    changed = [pk for pk, now in prints.items() if found[pk].fingerprint != now]
    if changed:
        for user in users.filter(pk__in=changed):
            found[user.pk] = standing(user, prints[user.pk])
    return {pk: one if pk in prints else GONE for pk, one in found.items()}


def standing(user: Any, fingerprint: int | None = None) -> Standing:
    """The same of one that is at hand."""
    why = "" if may_be_here(user) else "the user was deactivated"
    return Standing(fingerprint, why, frozenset(auth_hashes(user)))


def may_be_here(user: Any) -> bool:
    """As the authentication backends see it."""
    if getattr(user, "is_active", True):
        return True
    return any(isinstance(backend, AllowAllUsersModelBackend) for backend in get_backends())


def auth_hashes(user: Any) -> list[str]:
    """What proves that a login was made with the present password, the current one first: with
    ``SECRET_KEY`` or with one of ``SECRET_KEY_FALLBACKS``, as Django's ``get_user`` has it."""
    if not hasattr(user, "get_session_auth_hash"):
        return [""]
    hashes = [user.get_session_auth_hash()]
    if django_settings.SECRET_KEY_FALLBACKS and hasattr(user, "get_session_auth_fallback_hash"):
        hashes += user.get_session_auth_fallback_hash()
    return hashes


def _columns(model: Any) -> list[str]:
    """What a user's standing depends on: with a hash of the application's own, on anything."""
    fields = {field.attname for field in model._meta.concrete_fields}
    own = any(
        getattr(model, name, None) not in (None, getattr(AbstractBaseUser, name))
        for name in ("get_session_auth_hash", "_get_session_auth_hash")
    )
    if own:
        return sorted(fields - {"last_login"})
    return sorted(fields & {"password", "is_active"})


# --- ending ---------------------------------------------------------------------------------------


def end_all(
    user: Any,
    reason: str,
    *,
    code: int = CloseCode.CREDENTIALS_EXPIRED,
    also: Iterable[int] = (),
) -> set[uuid.UUID]:
    """Ends every session of a user (primary key), and those of primary keys ``also``. Returns the
    nodes that have connections to close."""
    also = list(also)
    which = Q(user_id=user) | Q(pk__in=also) if also else Q(user_id=user)
    return _end(which, user, reason, code)


def end_old(user: Any, reason: str, valid: Collection[str]) -> set[uuid.UUID]:
    """Ends those that were begun with another password: without one of the ``valid`` hashes."""
    return _end(Q(user_id=user) & ~Q(auth_hash__in=list(valid)), user, reason)


def end_login(
    user: Any, reason: str, key_hash: str, current: str, *, actor: str = ""
) -> set[uuid.UUID]:
    """Ends those of one login (the hash of its Django session's key; "": those without any), and
    those whose login has got another key since, which Django does when ``SECRET_KEY`` changes."""
    mine = Q(session_key_hash=key_hash) | ~Q(auth_hash=current)
    return _end(Q(user_id=user) & mine, user, reason, actor=actor)


def live_sessions(user: Any, most: int = 10_000) -> list[int]:
    """Primary keys of a user's sessions that have not ended."""
    return _ids(Q(user_id=user), 0, most)


def end_sessions(sessions: Collection[int], user: Any, reason: str) -> set[uuid.UUID]:
    """Ends these (primary keys), that were the user's."""
    return _end(Q(pk__in=list(sessions)), user, reason) if sessions else set()


def _ids(which: Q, after: int, most: int) -> list[int]:
    with reading() as using:
        live = Session.objects.using(using.alias).exclude(state=Session.State.ENDED)
        rows = live.filter(which, pk__gt=after).order_by("pk")
        return list(rows.values_list("pk", flat=True)[:most])


def _end(
    which: Q,
    user: Any,
    reason: str,
    code: int = CloseCode.CREDENTIALS_EXPIRED,
    *,
    actor: str = "",
) -> set[uuid.UUID]:
    """In batches. The audit trail hears of it once."""
    nodes: set[uuid.UUID] = set()
    after, told = 0, False
    while ids := _ids(which, after, BATCH):
        after = ids[-1]
        with writing() as using:
            sessions = Session.objects.using(using.alias)
            live = sessions.filter(which, pk__in=ids).exclude(state=Session.State.ENDED)
            rows = list(locked_rows(live.only("pk", "node_id"), skip_locked=False))
            if not rows:
                continue
            now = timezone.now()
            sessions.filter(pk__in=[row.pk for row in rows]).update(
                state=Session.State.ENDED,
                generation=F("generation") + 1,
                ended_at=now,
                left_at=Coalesce(F("left_at"), Value(now)),
                close_code=code,
                close_reason=cut_reason(reason),
                cause=CAUSE,
                connection_state="",
            )
            if not told:
                _audit(using.alias, now, user, reason, code, actor)
                told = True
            nodes.update(row.node_id for row in rows if row.node_id is not None)
    return nodes


def _audit(using: str, at: datetime, user: Any, reason: str, code: int, actor: str) -> None:
    AuditEntry.objects.using(using).create(
        at=at,
        actor=actor[:200],
        event=CAUSE,
        code=code,
        reason=f"user {user}: {reason}"[:200],
    )
