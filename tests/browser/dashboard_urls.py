"""A site with an admin, under a strict Content-Security-Policy."""

from __future__ import annotations

import os
from collections.abc import Callable

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path
from django.views.static import serve

from graceful_ws.live.consumer import urls
from tests.accounts import account


def with_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Nothing inline, nothing from elsewhere, but for the WebSockets of the other nodes."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        others = [url.rpartition("/ws/")[0] for url in urls() if "://" in url]
        probes = [url.replace("ws", "http", 1) for url in others]
        response["Content-Security-Policy"] = "; ".join(
            [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self' data:",
                f"connect-src 'self' {' '.join(others + probes)}",
                "form-action 'self'",
                "base-uri 'none'",
            ]
        )
        return response

    return middleware


urlpatterns = [
    path("admin/", admin.site.urls),
    path("account/", account),
    path("graceful/", include("graceful_ws.urls")),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
    re_path(
        "^static/(?P<path>.*)$",
        serve,
        {"document_root": os.environ.get("GRACEFUL_TEST_STATIC", "")},
    ),
]
