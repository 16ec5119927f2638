"""Django's signals of lost credentials: what they were good for ends at once, on every node.

A signal is only the fast way: it is not sent for ``QuerySet.update()``, another service or plain
SQL. Every node compares its users with the database each ``round_interval``.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import router, transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save, pre_delete

from graceful_ws.envelopes import ask
from graceful_ws.node.identity import session_key_hash
from graceful_ws.store import credentials

logger = logging.getLogger("graceful_ws.credentials")

Receiver = Callable[..., None]
FIELDS = frozenset({"password", "is_active"})
SESSIONS = "_graceful_ws_sessions"  # attribute of a user who is being deleted


def connect() -> None:
    """Once, when all models are there."""
    user_logged_out.connect(_logged_out, dispatch_uid="graceful_ws.logged_out")
    for model in apps.get_models():
        if issubclass(model, get_user_model()):  # proxies send signals of their own
            watch(model)


def watch(model: type[Model]) -> None:
    for signal, receiver in (
        (post_save, _saved),
        (pre_delete, _about_to_be_deleted),
        (post_delete, _deleted),
    ):
        signal.connect(receiver, sender=model, dispatch_uid=f"graceful_ws.{receiver.__name__}")


def _never_raises(receiver: Receiver) -> Receiver:
    """Whoever logs out or saves is not to be stopped: the nodes see it anyway, a little later."""

    @functools.wraps(receiver)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except Exception:
            logger.exception("could not end the sessions of a user")

    return wrapped


@_never_raises
def _logged_out(sender: Any, *, request: Any = None, user: Any = None, **kwargs: Any) -> None:
    """Only what was opened with this login ends; without a Django session (tokens), what was
    opened without one."""
    if not isinstance(user, get_user_model()) or user.pk is None:
        return
    key_hash = session_key_hash(getattr(request, "session", None))
    current = credentials.auth_hashes(user)[0]
    name = str(user.get_username()) if hasattr(user, "get_username") else ""
    _on_commit(
        router.db_for_write(type(user), instance=user),
        lambda: credentials.end_login(user.pk, "logged out", key_hash, current, actor=name),
    )


@_never_raises
def _saved(
    sender: Any,
    *,
    instance: Any,
    created: bool = False,
    raw: bool = False,
    update_fields: Any = None,
    using: str,
    **kwargs: Any,
) -> None:
    """A user that was deactivated, or has another password. What a save did not write, and what it
    wrote without saying so, costs no query here."""
    if created or raw or (update_fields is not None and not FIELDS & set(update_fields)):
        return
    user = instance.pk
    inactive = instance.__dict__.get("is_active") is False
    if inactive and not credentials.may_be_here(instance):
        why = "the user was deactivated"
        _on_commit(using, lambda: credentials.end_all(user, why))
    # set_password() leaves the new one here until it has been saved.
    elif getattr(instance, "_password", None) is not None or "password" in (update_fields or ()):
        valid, why = credentials.auth_hashes(instance), "the password was changed"
        _on_commit(using, lambda: credentials.end_old(user, why, valid))


@_never_raises
def _about_to_be_deleted(sender: Any, *, instance: Any, **kwargs: Any) -> None:
    # The deletion takes the user from the sessions' rows.
    setattr(instance, SESSIONS, credentials.live_sessions(instance.pk))


@_never_raises
def _deleted(sender: Any, *, instance: Any, using: str, **kwargs: Any) -> None:
    user, sessions = instance.pk, instance.__dict__.pop(SESSIONS, [])
    if sessions:
        why = "the user was deleted"
        _on_commit(using, lambda: credentials.end_sessions(sessions, user, why))


def _on_commit(using: str, end: Callable[[], set[uuid.UUID]]) -> None:
    transaction.on_commit(_never_raises(lambda: ask(end())), using=using, robust=True)
