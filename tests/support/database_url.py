"""Database URLs, so that one environment variable carries a database into a subprocess."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def database_settings(url: str) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for a URL.

    Two forms: ``sqlite:///absolute/path`` and ``postgres://user:password@host:port/name``, the
    latter with ``?host=/directory`` to use the UNIX socket in that directory instead of TCP.
    Raises ValueError for any other scheme.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _sqlite(Path(unquote(parts.path)))
    if parts.scheme in {"postgres", "postgresql"}:
        socket_directory = parse_qs(parts.query).get("host", [""])[0]
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": socket_directory or parts.hostname or "",
            "PORT": str(parts.port or ""),
            "OPTIONS": {"connect_timeout": 5},
            "TEST": {},
        }
    raise ValueError(f"{url!r} is neither sqlite:///path nor postgres://user@host:port/name")


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            # A deferred transaction that has read gets SQLITE_BUSY at once when it wants to write.
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            "init_command": "PRAGMA synchronous=NORMAL;",
        },
        # A file: the writer thread has a connection of its own and must see the same tables.
        "TEST": {"NAME": f"{path}.test"},
    }
