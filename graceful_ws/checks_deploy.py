"""System checks of what surrounds the process: the platform, the proxy, and ``check --deploy``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Tags, register
from django.db import DatabaseError, connections

from graceful_ws.checks import MEMORY_LAYER, Apps, consumer_classes, message_of
from graceful_ws.conf import settings
from graceful_ws.node.drain import RESERVE
from graceful_ws.store import nodes
from graceful_ws.validation import Problem

STOPPING = 4.0  # seconds that a process may take to end when its drain is over
SHORTEST_TOKEN = 16  # characters that nobody guesses


@register("graceful_ws")
def check_surroundings(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """What the settings say of the platform and the proxy, beside what a node needs of them."""
    try:
        problems = [*_grace_problems(), *_proxy_problems(), *_metrics_problems()]
    except TypeError:  # a value that is none; check_settings says so
        return []
    return [message_of(problem) for problem in problems]


@register("graceful_ws", deploy=True)
def check_deployment(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """What works on a desk, and not behind users."""
    return [message_of(problem) for problem in deployment_problems()]


@register(Tags.database)
def check_nodes(
    app_configs: Apps = None, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """A layer in memory, and several nodes that are alive now: only their rows know. Runs when the
    database is asked for, as ``migrate`` and ``check --database`` do."""
    if not databases or settings.database not in databases or not _layer_in_memory():
        return []
    try:
        alive = sum(status.is_live for status in nodes.statuses())
    except DatabaseError:  # not migrated yet
        return []
    if alive < 2:
        return []
    return [
        message_of(
            Problem(
                "W013",
                f"{alive} nodes are alive, and their channel layer is in memory: what one publishes"
                " reaches the others by polling.",
                "Use channels_redis.pubsub.RedisPubSubChannelLayer.",
            )
        )
    ]


def _grace_problems() -> list[Problem]:
    grace, deadline = settings.termination_grace, settings.drain_deadline
    if not grace or deadline + STOPPING <= grace:
        return []
    observe, window = settings.drain_observe, settings.drain_window
    handlers = max(0.0, deadline - observe - window - RESERVE)
    return [
        Problem(
            "W007",
            f"A drain may take {deadline:g} s (drain_observe {observe:g}, drain_window {window:g},"
            f" running handlers {handlers:g}, closing {RESERVE:g}) and its process {STOPPING:g} s"
            f" more, but termination_grace is {grace:g} s: the platform kills it before.",
            f"Give the platform {deadline + STOPPING:g} s or more, or lower drain_deadline to"
            f" {max(0.0, grace - STOPPING):g}.",
        )
    ]


def _proxy_problems() -> list[Problem]:
    timeout = settings.proxy_timeout
    if not timeout:
        return []
    problems = []
    named = [("heartbeat_interval", settings.heartbeat_interval)]
    named += [
        (f"{cls.__qualname__}.heartbeat_interval", cls.heartbeat_interval)
        for cls in consumer_classes()
        if cls.heartbeat_interval is not None
    ]
    for name, interval in named:
        if interval >= timeout:
            problems.append(
                Problem(
                    "W008",
                    f"{name} ({interval:g} s) is not below proxy_timeout ({timeout:g} s): the proxy"
                    " cuts a connection that is silent for so long before it is pinged.",
                    f"Ping at least every {timeout / 2:g} s, or raise the proxy's timeout.",
                )
            )
    return problems


def _metrics_problems() -> list[Problem]:
    token = settings.metrics_token
    if not token:
        return []
    problems = []
    if len(token) < SHORTEST_TOKEN:
        problems.append(
            Problem(
                "W009",
                f"metrics_token has {len(token)} characters: it can be guessed.",
                "Take a random one: python -c 'import secrets; print(secrets.token_urlsafe())'.",
            )
        )
    if find_spec("prometheus_client") is None:
        problems.append(
            Problem(
                "W010",
                "metrics_token is set, and prometheus-client is not installed: metrics/ answers"
                " 501.",
                "pip install django-graceful-ws[metrics]",
            )
        )
    return problems


def deployment_problems() -> list[Problem]:
    problems = []
    if "*" in django_settings.ALLOWED_HOSTS and settings.check_origin:
        problems.append(
            Problem(
                "W011",
                'ALLOWED_HOSTS contains "*": a page of any origin may open WebSockets with the'
                " cookies of its visitor.",
                'Name your hosts, and further origins in GRACEFUL_WS["allowed_origins"].',
            )
        )
    if settings.database in connections and connections[settings.database].vendor == "sqlite":
        problems.append(
            Problem(
                "W012",
                f"The database {settings.database!r} is SQLite: one writer at a time for all"
                " processes, on one host.",
                "Use PostgreSQL for more than one host or some hundred messages a second.",
            )
        )
    if not settings.termination_grace:
        problems.append(
            Problem(
                "W014",
                "termination_grace is not set: nobody knows whether a drain"
                f" ({settings.drain_deadline:g} s) fits between SIGTERM and SIGKILL.",
                "Set it to what your platform allows, in seconds: Docker 10 and Kubernetes 30 where"
                " nothing is said, systemd 90.",
            )
        )
    if _layer_in_memory() and os.environ.get("WEB_CONCURRENCY", "") not in ("", "0", "1"):
        problems.append(
            Problem(
                "W013",
                "WEB_CONCURRENCY asks for several processes, and their channel layer is in memory.",
                "Use channels_redis.pubsub.RedisPubSubChannelLayer.",
            )
        )
    return problems


def _layer_in_memory() -> bool:
    layers: dict[str, Any] = getattr(django_settings, "CHANNEL_LAYERS", None) or {}
    return bool(layers.get(settings.channel_layer, {}).get("BACKEND") == MEMORY_LAYER)
