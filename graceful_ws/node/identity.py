"""Who a connection speaks for."""

from __future__ import annotations

import hashlib
from typing import Any

from graceful_ws.store.hello import Identity

NOBODY = Identity()


def identity(scope: Any) -> Identity:
    """From what Channels' auth middleware put in the scope."""
    user = scope.get("user")
    if user is not None and user.is_authenticated:
        hash_of = getattr(user, "get_session_auth_hash", None)
        return Identity(user.pk, hash_of() if hash_of else "")
    key = getattr(scope.get("session"), "session_key", None)
    return Identity(None, "", hashlib.sha256(key.encode()).hexdigest()) if key else NOBODY
