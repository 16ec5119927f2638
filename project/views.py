"""The demo page, and the buttons on it that hurt a process."""

from __future__ import annotations

import re

from django.conf import settings
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from project.demo import lifeline

ORDER = re.compile(r"[0-9.-]{1,40}")


@require_safe
@ensure_csrf_cookie
def demo(request: HttpRequest) -> HttpResponse:
    host = request.get_host()
    scheme = "wss" if request.is_secure() else "ws"
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    hosts = [f"{name}:{port}" for port in settings.DEMO_PORTS] or [host]
    sockets = [f"{scheme}://{host}" for host in hosts]
    context = {
        "sockets": [f"{url}/ws/" for url in sockets],
        "servers": settings.DEMO_SERVERS,
        "database": connection.vendor,
        "layer": bool(settings.CHANNEL_LAYERS),
    }
    response = render(request, "demo.html", context)
    response["Content-Security-Policy"] = content_security_policy(sockets)
    return response


def content_security_policy(sockets: list[str]) -> str:
    """Nothing inline, nothing from elsewhere; to the nodes WebSockets, and probes over HTTP."""
    probes = [socket.replace("ws", "http", 1) for socket in sockets]
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            f"connect-src 'self' {' '.join([*sockets, *probes])}",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )


@require_POST
def order(request: HttpRequest) -> HttpResponse:
    """Has a process drained or killed by the supervisor of the demo; elsewhere there is none.

    An order is carried out once: a page whose answer died with the node repeats it.
    """
    nodes = [f"node-{number}" for number, _ in enumerate(settings.DEMO_PORTS, 1)]
    names = {"drain": nodes, "kill": [*nodes, *settings.DEMO_SERVERS]}
    action, node, order = (request.POST.get(name, "") for name in ("action", "node", "order"))
    if node not in names.get(action, ()) or not ORDER.fullmatch(order):
        raise Http404
    lifeline.ask(action, node, order)
    return JsonResponse({"asked": action, "node": node}, status=202)
