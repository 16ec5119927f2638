"""What load balancers, orchestrators and clients ask over HTTP.

They are asked often and by anybody, so they are cheap, say no names, need no login, and wait for
nothing longer than a second or two, whatever the database and the channel layer do.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from graceful_ws.conf import settings
from graceful_ws.core.breaker import BreakerState
from graceful_ws.node.node import local_nodes
from graceful_ws.probes import Probe
from graceful_ws.store import nodes

logger = logging.getLogger("graceful_ws.views")

View = Callable[[HttpRequest], HttpResponse]
PROBE_GROUP = "graceful_ws.probe"  # nobody is in it


def _ask_layer() -> None:
    layer = get_channel_layer(settings.channel_layer)
    # One in memory has nothing that could fail, and is not to be touched by another thread.
    if layer is not None and not isinstance(layer, InMemoryChannelLayer):
        asyncio.run(layer.group_send(PROBE_GROUP, {"type": "graceful.probe"}))


database_probe = Probe("database", nodes.probe_tables, within=2.0, fresh=1.0)
layer_probe = Probe("channel layer", _ask_layer, within=1.0, fresh=5.0)


def _public(view: View) -> View:
    """For sites that ask for a login or open a transaction everywhere: a database that is away
    must not turn the answer into a 500."""
    view = login_not_required(never_cache(require_safe(view)))
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


@_public
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers. Restart it when this fails, never for ``ready``."""
    return JsonResponse({"status": "live"})


@_public
def ping(request: HttpRequest) -> HttpResponse:
    """The smallest answer, for a client that compares round trips, from any origin. 503 while the
    process drains: a client that is told to leave it must not choose it again."""
    headers = {"Access-Control-Allow-Origin": "*", "Timing-Allow-Origin": "*"}
    return HttpResponse(status=503 if _draining() else 204, headers=headers)


def _draining() -> bool:
    return any(node.drain is not None for node in local_nodes())


@_public
def ready(request: HttpRequest) -> HttpResponse:
    """503 while the process drains or its database fails: send new connections elsewhere.

    A channel layer that is away makes messages late, not lost: 200 with ``degraded``, because a
    Redis that dies must not take every node out at once.
    """
    draining = _draining()
    journal = _journal_state()
    database = journal != BreakerState.OPEN and _database_answers()
    layer, layer_fails = _layer_state()
    status = "draining" if draining else "ready" if database else "database"
    answer: dict[str, Any] = {
        "status": status,
        "draining": draining,
        "database": "ok" if database else "failing",
        "journal": journal,
        "layer": layer,
        "degraded": ["channel layer"] if layer_fails else [],
    }
    return JsonResponse(answer, status=200 if status == "ready" else 503)


def _journal_state() -> str:
    """The state of the writer's circuit breaker; "closed" before the first connection."""
    states = {
        # A copy: the clock moves a breaker on, and this is not the thread that it belongs to.
        str(copy.copy(node.journal.health.breaker).state(node.loop.time()))
        for node in local_nodes()
    }
    worst = (BreakerState.OPEN, BreakerState.HALF_OPEN)
    return next((str(state) for state in worst if state in states), str(BreakerState.CLOSED))


def _layer_state() -> tuple[str, bool]:
    """ "none", "memory" or the state of the breaker, and whether a shared layer does not work."""
    backplanes = [node.backplane for node in local_nodes()]
    if backplanes:
        states = {backplane.state for backplane in backplanes}
        worst = (BreakerState.OPEN, BreakerState.HALF_OPEN)
        state = next((str(state) for state in worst if state in states), backplanes[0].state)
        return state, any(backplane.failing for backplane in backplanes)
    # Before the first connection nobody listens.
    if not layer_probe():
        return str(BreakerState.OPEN), True
    layer = get_channel_layer(settings.channel_layer)
    if layer is None or isinstance(layer, InMemoryChannelLayer):
        return "none" if layer is None else "memory", False
    return str(BreakerState.CLOSED), False


def _database_answers() -> bool:
    if not settings.store_in_django_thread:
        return database_probe()
    try:
        nodes.probe_tables()
    except Exception as error:
        logger.warning("database: %r", error)
        return False
    return True


@_public
def metrics(request: HttpRequest) -> HttpResponse:
    """What this process counts, for Prometheus: for staff, or with ``metrics_token`` as a bearer
    token (RFC 6750), which needs no database."""
    if not _may_read(request):
        realm = {"WWW-Authenticate": 'Bearer realm="graceful_ws"'}
        text = 'for staff, or with the bearer token of GRACEFUL_WS["metrics_token"]\n'
        return HttpResponse(text, status=401, content_type="text/plain", headers=realm)
    if find_spec("prometheus_client") is None:
        text = "pip install django-graceful-ws[metrics]\n"
        return HttpResponse(text, status=501, content_type="text/plain")
    from graceful_ws.metrics import exposition

    content, content_type = exposition(request.headers.get("Accept", ""))
    return HttpResponse(content, content_type=content_type)


def _may_read(request: HttpRequest) -> bool:
    token = settings.metrics_token
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        return constant_time_compare(given.strip(), token)
    try:
        user = getattr(request, "user", None)
        return bool(user is not None and user.is_active and user.is_staff)
    except DatabaseError:  # the login is kept there
        return False
