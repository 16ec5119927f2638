"""DATABASE_URL: another database by the environment alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit


def database(url: str) -> dict[str, Any]:
    """The entry of DATABASES for ``sqlite:////absolute/path`` (``sqlite:///relative`` to the
    working directory) or ``postgres://user:password@host:port/name``.

    Raises ValueError for any other scheme.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path[1:]),
            "OPTIONS": {
                # A deferred transaction that has read gets "locked" at once when it comes to
                # write. The file itself is put into WAL mode when the first node starts.
                "transaction_mode": "IMMEDIATE",
                "timeout": 5,
                "init_command": "PRAGMA synchronous=NORMAL;",
            },
        }
    if parts.scheme in ("postgres", "postgresql"):
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
        }
    raise ValueError(
        f"DATABASE_URL is {parts.scheme or 'no'}://…; use sqlite:////path or postgres://…/name"
    )
