"""The demo page, and the two buttons on it that hurt a node."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from project.demo import lifeline


@require_safe
@ensure_csrf_cookie
def demo(request: HttpRequest) -> HttpResponse:
    host = request.get_host()
    scheme = "wss" if request.is_secure() else "ws"
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    hosts = [f"{name}:{port}" for port in settings.DEMO_PORTS] or [host]
    sockets = [f"{scheme}://{host}" for host in hosts]
    response = render(request, "demo.html", {"sockets": [f"{url}/ws/" for url in sockets]})
    response["Content-Security-Policy"] = content_security_policy(sockets)
    return response


def content_security_policy(sockets: list[str]) -> str:
    """Nothing inline, nothing from elsewhere; WebSockets to the nodes only."""
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            f"connect-src 'self' {' '.join(sockets)}",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )


@require_POST
def order(request: HttpRequest) -> HttpResponse:
    """Has a node drained or killed by the supervisor of the demo; there is none elsewhere."""
    node, action = request.POST.get("node", ""), request.POST.get("action", "")
    number = node.removeprefix("node-")
    if not settings.DEMO_PORTS or not number.isdigit():
        raise Http404
    if action not in ("drain", "kill") or not 1 <= int(number) <= len(settings.DEMO_PORTS):
        raise Http404
    lifeline.ask(f"{action} {node}")
    return JsonResponse({"asked": action, "node": node}, status=202)
