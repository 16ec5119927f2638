"""What load balancers, orchestrators and clients ask over HTTP; all answers are small JSON."""

from __future__ import annotations

from typing import Any

from channels.layers import get_channel_layer
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from graceful_ws.conf import settings
from graceful_ws.node.node import local_nodes
from graceful_ws.store import base


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers. Restart it when this fails, never for ``ready``."""
    return JsonResponse({"status": "live"})


@never_cache
@require_safe
def ping(request: HttpRequest) -> HttpResponse:
    """The smallest answer, for a client that compares round trips."""
    return HttpResponse(status=204)


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """503 while the process drains or its database fails: send new connections elsewhere.

    A channel layer that is away makes messages late, not lost: 200 with ``degraded``, because a
    Redis that dies must not take every node out at once.
    """
    answer: dict[str, Any] = {"status": "ready", "degraded": []}
    draining = [node for node in local_nodes() if node.drain is not None]
    if draining:
        answer["status"] = "draining"
    try:
        base.probe()
    except DatabaseError:
        answer["status"] = "database"
    if any(not node.healthy for node in local_nodes()):
        answer["status"] = "database"
    if not _layer_answers():
        answer["degraded"].append("channel layer")
    return JsonResponse(answer, status=200 if answer["status"] == "ready" else 503)


def _layer_answers() -> bool:
    return get_channel_layer(settings.channel_layer) is not None or True
