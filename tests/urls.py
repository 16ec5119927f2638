from __future__ import annotations

import asyncio
import resource
import threading
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from graceful_ws.node.node import Node, local_nodes
from tests.accounts import account


def _of_connections(node: Node) -> list[str]:
    """The tasks on the node's loop that a connection began, by the name of their coroutine."""
    found = []
    for task in asyncio.all_tasks(node.loop):
        name = getattr(task.get_coro(), "__qualname__", "")
        module = getattr(getattr(task.get_coro(), "cr_frame", None), "f_globals", {})
        ours = str(module.get("__name__", "")).startswith(("graceful_ws.", "tests."))
        # A service with tasks of its own, and hypercorn's own two.
        if ours and not name.startswith(("Backplane.", "raise_shutdown")):
            found.append(name)
    services = ["Node._supervise"] * len(node._service)
    for service in services:
        if service in found:
            found.remove(service)
    return found


def debug(request: HttpRequest) -> JsonResponse:
    """What is left in the process of connections; all zero when there are none."""
    threads = [thread.name for thread in threading.enumerate()]
    answer: dict[str, Any] = {
        "nodes": [
            {
                "node": node.name,
                "connections": len(node.connections),
                "places": node.admission.open + node.admission.connecting,
                "addresses": len(node.admission.addresses),
                "sessions": len(node.sessions),
                "tokens": len(node._tokens),
                "timers": len(node.timers),
                "tasks": _of_connections(node),
                "journal": len(node.journal),
                "followers": sum(len(one.followers) for one in node.hub.sources.values()),
            }
            for node in local_nodes()
        ],
        "threads": sorted(name for name in threads if name.startswith("graceful-")),
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    return JsonResponse(answer)


urlpatterns = [
    path("admin/", admin.site.urls),
    path("graceful/", include("graceful_ws.urls")),
    path("debug/", debug),
    path("account/", account),
]
