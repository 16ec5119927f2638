"""DATABASE_URL and REDIS_URL: other services by the environment alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

# psycopg's pool, one for each process. The threads of a node keep the connection that they take:
# its writer, two readers, two for its rounds, two that number streams, and one for each of
# `handler_threads` (8). Views get what is left of `max_size`, and a thread that finds none for
# `timeout` seconds fails.
POOL = {
    "min_size": 5,
    "max_size": 20,
    "timeout": 3,  # seconds that one waits for a connection
    "max_idle": 600,  # seconds after which one above min_size is closed
    "max_lifetime": 1800,  # seconds after which one is replaced when it comes back
    # Seconds. While the server is away the pool doubles its pauses, for five minutes: after an
    # outage of one it could sleep for another. One that gives up soon tries when it is next asked.
    "reconnect_timeout": 2,
}


def database(url: str) -> dict[str, Any]:
    """The entry of DATABASES for ``sqlite:////absolute/path`` (``sqlite:///relative`` to the
    working directory) or ``postgres://user:password@host:port/name?option=of+libpq``, where
    ``?host=/directory`` is that of a UNIX socket.

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
        options = dict(parse_qsl(parts.query))
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": options.pop("host", "") or parts.hostname or "",
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 0,  # with a pool Django refuses any other
            # After a restart of PostgreSQL each idle connection fails once, at once, and another
            # takes its place. With checks the pool sleeps 1 s after the first that fails, 2 s after
            # the second, and whoever waits has given up by then.
            "CONN_HEALTH_CHECKS": False,
            "OPTIONS": {"connect_timeout": 3, **options, "pool": POOL},
        }
    raise ValueError(
        f"DATABASE_URL is {parts.scheme or 'no'}://…; use sqlite:////path or postgres://…/name"
    )


def channel_layers(url: str) -> dict[str, Any]:
    """CHANNEL_LAYERS for ``redis://host:port/number``, ``rediss://…`` or ``unix:///path``; none
    for an empty URL: nodes then find out by polling."""
    if not url:
        return {}
    # The pub/sub layer keeps its sockets over a restart of Redis. What a Redis that does not
    # answer may cost is said here, for the defaults have changed with every version of redis-py.
    host = {"address": url, "socket_timeout": 5, "socket_connect_timeout": 2}
    return {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [host]},
        }
    }
