"""The page of these tests, what it loads, and what the client asks over HTTP."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import include, path, re_path
from django.views.static import serve


def content_security_policy(sockets: list[str]) -> str:
    """The strictest under which a page can talk to these endpoints, and probe them over HTTP."""
    hosts = [urlsplit(url).netloc for url in sockets]
    endpoints = [f"{scheme}://{host}" for host in hosts for scheme in ("ws", "http")]
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"connect-src 'self' {' '.join(endpoints)}",
        ]
    )


def page(request: HttpRequest) -> HttpResponse:
    """``?ws=URL&ws=URL&options=JSON``: a client of these endpoints, with these options."""
    response = render(request, "browser/page.html")
    policy = content_security_policy(request.GET.getlist("ws"))
    response["Content-Security-Policy"] = policy
    return response


def elsewhere(request: HttpRequest) -> HttpResponse:
    """A page of the same site without a client."""
    return HttpResponse("<!doctype html><title>elsewhere</title>")


urlpatterns = [
    path("page/", page),
    path("elsewhere/", elsewhere),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
    path("graceful/", include("graceful_ws.urls")),
    re_path("^static/(?P<path>.*)$", serve, {"document_root": settings.STATIC_ROOT}),
]
