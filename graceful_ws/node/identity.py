"""Who a connection speaks for."""

from __future__ import annotations

import hashlib
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookies
from django.core.exceptions import ValidationError

from graceful_ws.store.hello import Identity

NOBODY = Identity()


def identity(scope: Any) -> Identity:
    """From what Channels' session and auth middleware put in the scope."""
    key_hash = session_key_hash(scope.get("session"))
    user = scope.get("user")
    if not getattr(user, "is_authenticated", False):
        return Identity(None, "", key_hash) if key_hash else NOBODY
    if not _fits(pk := getattr(user, "pk", None)):  # a middleware's own kind of user
        kind = f"{type(user).__module__}.{type(user).__qualname__} {pk!r}"
        return Identity(None, hashlib.sha256(kind.encode()).hexdigest(), key_hash)
    hash_of = getattr(user, "get_session_auth_hash", None)
    former: tuple[str, ...] = ()
    if hash_of and django_settings.SECRET_KEY_FALLBACKS:
        former = tuple(user.get_session_auth_fallback_hash())
    checked = isinstance(user, get_user_model())
    return Identity(pk, hash_of() if hash_of else "", key_hash, former, checked)


def _fits(pk: Any) -> bool:
    """Whether it could be a key of the site's user model."""
    try:
        return pk is not None and bool(get_user_model()._meta.pk.to_python(pk) == pk)
    except ValidationError:
        return False


def session_key_hash(session: Any) -> str:
    """SHA-256 of the key of a Django session; "" for none. One that is kept in the cookie itself
    has no key: what stands for it changes with the data."""
    if session is None or isinstance(session, SignedCookies):
        return ""
    key = getattr(session, "session_key", None)
    return hashlib.sha256(key.encode()).hexdigest() if key else ""
