"""System checks: misuse that would otherwise show itself at the worst moment.

Errors (E) keep something from working as promised; warnings (W) are about setups that work until
the first deploy, the second process or the first busy hour.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any
from urllib.parse import parse_qs, urlsplit

from asgiref.sync import iscoroutinefunction
from django.apps.config import AppConfig
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections

from graceful_ws import servers
from graceful_ws.conf import settings
from graceful_ws.node.limits import LIMITS
from graceful_ws.node.node import THREADS
from graceful_ws.validation import (
    TYPES,
    Problem,
    nearest,
    relation_problems,
    settings_problems,
    value_problem,
)

CORE_LAYER = "channels_redis.core.RedisChannelLayer"
MEMORY_LAYER = "channels.layers.InMemoryChannelLayer"
POOL_MIN_SIZE = 4  # of psycopg_pool, where nothing is said
Apps = Sequence[AppConfig] | None


def message_of(problem: Problem, obj: Any = None) -> CheckMessage:
    kind = Error if problem.id.startswith("E") else Warning
    return kind(problem.text, hint=problem.hint, obj=obj, id=f"graceful_ws.{problem.id}")


@register("graceful_ws")
def check_settings(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """GRACEFUL_WS: names, types, values, and what does not go together."""
    problems = settings_problems(getattr(django_settings, "GRACEFUL_WS", {}))
    if not problems and settings.journal_age < settings.resume_window:
        problems.append(
            Problem(
                "W006",
                f"journal_age ({settings.journal_age:g} s) is shorter than resume_window"
                f" ({settings.resume_window:g} s).",
                "A client that resumes in between is told of a gap: raise journal_age.",
            )
        )
    return [message_of(problem) for problem in problems]


# --- consumers --------------------------------------------------------------------------------


def _subclasses(cls: type) -> Iterator[type]:
    direct: list[type] = cls.__subclasses__()
    for subclass in direct:
        yield subclass
        yield from _subclasses(subclass)


AWAITED = (
    *("connect", "disconnect", "receive", "receive_json", "receive_volatile", "session_started"),
    *("resumed", "session_ended", "on_gap", "may_subscribe", "exit_audience"),
)


@register("graceful_ws")
def check_consumers(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """Every consumer class that has been imported."""
    found = [(cls, problem) for cls in consumer_classes() for problem in consumer_problems(cls)]
    return [message_of(problem, cls) for cls, problem in found]


def consumer_classes() -> list[Any]:
    """Every subclass of our consumers that has been imported."""
    from graceful_ws.consumers import GracefulConsumer, GracefulWebsocketConsumer

    found = [*_subclasses(GracefulConsumer), *_subclasses(GracefulWebsocketConsumer)]
    return list(dict.fromkeys(found))  # once, though there may be diamonds


def consumer_problems(cls: Any) -> list[Problem]:
    """What is wrong with one consumer class: its handlers, and the limits among its attributes."""
    from graceful_ws.consumers import GracefulConsumer, GracefulWebsocketConsumer

    problems = []
    transaction = cls.receive_in_transaction
    is_json = issubclass(cls, GracefulConsumer)
    handler = "receive_json" if is_json else "receive"
    base = GracefulConsumer if is_json else GracefulWebsocketConsumer
    if transaction is not None and getattr(cls, handler) is not getattr(base, handler):
        problems.append(
            Problem(
                "E008",
                f"{cls.__qualname__} defines both {handler} and receive_in_transaction.",
                "A message has one handler: keep the one, or set receive_in_transaction = None.",
            )
        )
    if inspect.iscoroutinefunction(transaction):
        problems.append(
            Problem(
                "E010",
                f"{cls.__qualname__}.receive_in_transaction is a coroutine function.",
                "It runs in a thread, inside a transaction: define it with def, not async def.",
            )
        )
    for name in AWAITED:
        if inspect.isfunction(hook := getattr(cls, name, None)) and not iscoroutinefunction(hook):
            problems.append(
                Problem(
                    "W016",
                    f"{cls.__qualname__}.{name} is not a coroutine function, and is awaited.",
                    "Define it with async def, or return what can be awaited.",
                )
            )
    own = {name: getattr(cls, name, None) for name in LIMITS}
    own = {name: value for name, value in own.items() if value is not None}
    values = {name: getattr(settings, name) for name in TYPES}
    values = {name: value for name, value in values.items() if not value_problem(name, value)}
    for name, value in own.items():
        if wrong := value_problem(name, value):
            hint = "None takes the setting of the same name."
            problems.append(Problem("E009", f"{cls.__qualname__}.{name} {wrong}.", hint))
            values.pop(name, None)
        else:
            values[name] = value
    beats = {name: value for name, value in values.items() if name.startswith("heartbeat_")}
    if beats.keys() & own.keys():
        for problem in relation_problems(beats):
            problems.append(problem._replace(text=f"{cls.__qualname__}: {problem.text}"))
    return problems


# --- surroundings -----------------------------------------------------------------------------


@register("graceful_ws")
def check_database(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """The database that holds the tables. Nothing is asked of it, so this is no database check,
    which would only run when it is asked for."""
    return [message_of(problem) for problem in database_problems()]


def database_problems() -> list[Problem]:
    alias = settings.database
    if alias not in connections:
        near = nearest(str(alias), connections)
        hint = f"Did you mean {near!r}?" if near else "Name one of the keys of DATABASES."
        return [Problem("E007", f"DATABASES has no {alias!r}, the alias in GRACEFUL_WS.", hint)]
    connection = connections[alias]
    if connection.vendor not in ("sqlite", "postgresql"):
        return [
            Problem(
                "E007",
                f"The database {alias!r} is {connection.display_name}: it cannot lock a session's"
                " row without blocking those that refer to it.",
                'Set GRACEFUL_WS["database"] to the alias of a PostgreSQL or SQLite database.',
            )
        ]
    if not connection.settings_dict.get("AUTOCOMMIT", True):
        return [
            Problem(
                "E013",
                f"The database {alias!r} has AUTOCOMMIT off: what is read and written outside of"
                " transactions would stay in one for ever.",
                f"Leave AUTOCOMMIT out of DATABASES[{alias!r}], or keep the tables in another.",
            )
        ]
    if connection.vendor != "sqlite":
        return _pool_problems(alias, connection.settings_dict["OPTIONS"].get("pool"))
    if connection.is_in_memory_db():  # type: ignore[attr-defined]
        if settings.store_in_django_thread:
            return []
        return [
            Problem(
                "W001",
                f"The database {alias!r} is SQLite in memory: it ends with the process, and the"
                " threads that write do not share it.",
                'Use a file; in a TestCase set GRACEFUL_WS["store_in_django_thread"] = True.',
            )
        ]
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or "DEFERRED"
    if str(mode).upper() != "DEFERRED":
        return []
    return [
        Problem(
            "W002",
            f"SQLite transactions of the database {alias!r} are DEFERRED: one that reads before it"
            ' writes fails with "database is locked" at once when another has written meanwhile.',
            f'Add "OPTIONS": {{"transaction_mode": "IMMEDIATE"}} to DATABASES[{alias!r}].',
        )
    ]


def _pool_problems(alias: str, pool: Any) -> list[Problem]:
    """The threads of a node keep their connections: who comes last would never get one."""
    if not pool:
        return []
    options = pool if isinstance(pool, dict) else {}
    # As psycopg_pool reads it: without max_size a pool does not grow.
    size = options.get("max_size") or options.get("min_size", POOL_MIN_SIZE)
    needed = THREADS + settings.handler_threads
    if not isinstance(size, int) or size >= needed:
        return []
    return [
        Problem(
            "W015",
            f"The pool of the database {alias!r} has {size} connections, and a node's threads keep"
            f" {needed}: the last ones wait in vain.",
            f'Set "max_size" to {needed} and what views need, or lower handler_threads.',
        )
    ]


@register("graceful_ws")
def check_servers(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """What an adapter did not find in its server, and what does not work without it."""
    hint = (
        "Upgrade django-graceful-ws or pin the server's version;"
        ' GRACEFUL_WS["adapt_servers"] = False switches the adapters off.'
    )
    return [
        message_of(Problem("W003", f"{what} is not as expected: {consequence}.", hint))
        for what, consequence in servers.missing.items()
    ]


@register("graceful_ws")
def check_channel_layer(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """The layer that carries wake-ups between nodes."""
    return [message_of(problem) for problem in layer_problems()]


def layer_problems() -> list[Problem]:
    layers: dict[str, Any] = getattr(django_settings, "CHANNEL_LAYERS", None) or {}
    alias = settings.channel_layer
    if alias not in layers:
        if not layers or alias == "default":
            return []  # without a layer everything arrives by polling
        near = nearest(str(alias), layers)
        hint = f"Did you mean {near!r}?" if near else "Name one of the keys of CHANNEL_LAYERS."
        return [
            Problem("E011", f"CHANNEL_LAYERS has no {alias!r}, the alias in GRACEFUL_WS.", hint)
        ]
    layer = layers[alias]
    backend = layer.get("BACKEND")
    if backend == MEMORY_LAYER and not django_settings.DEBUG:
        return [
            Problem(
                "W005",
                f"The channel layer {alias!r} is in memory: other processes, commands and tasks"
                " cannot be reached through it.",
                "Use channels_redis.pubsub.RedisPubSubChannelLayer, or no layer: nodes then find"
                " out by polling.",
            )
        ]
    if backend == CORE_LAYER and _redis_major() >= 8:
        hosts = (layer.get("CONFIG") or {}).get("hosts") or ["localhost"]
        hosts = [hosts] if isinstance(hosts, str | dict) else hosts
        if not all(_has_socket_timeout(host) for host in hosts):
            return [
                Problem(
                    "W004",
                    f"The channel layer {alias!r} has no socket_timeout: redis-py 8 ends its"
                    " blocking reads after 5 s, and every idle consumer with them"
                    " (django/channels_redis#422).",
                    'Write "hosts": [{"address": "redis://…", "socket_timeout": 20}].',
                )
            ]
    return []


def _redis_major() -> int:
    try:
        return int(metadata.version("redis").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return 0


def _has_socket_timeout(host: Any) -> bool:
    """True when an entry of ``hosts`` sets it, also to None, which waits for ever."""
    if isinstance(host, dict):
        return "socket_timeout" in host or _has_socket_timeout(host.get("address"))
    return isinstance(host, str) and "socket_timeout" in parse_qs(urlsplit(host).query)
