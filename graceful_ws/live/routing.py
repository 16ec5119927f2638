"""The dashboard's WebSocket, for the site's own ``URLRouter``:

    from graceful_ws.live.routing import websocket_urlpatterns

    AuthMiddlewareStack(URLRouter([*websocket_urlpatterns, path("ws/", ...)]))

Its path is that of the setting ``live_url``; behind AuthMiddlewareStack, for it asks who is there.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from django.urls import path

from graceful_ws.conf import settings
from graceful_ws.live.consumer import LiveConsumer


def route(live_url: str) -> str:
    """The path of the first of the URLs, as ``path`` takes it."""
    first = re.sub(r"^:\d+", "", live_url.split()[0])
    return urlsplit(first).path.lstrip("/")


websocket_urlpatterns = [path(route(settings.live_url), LiveConsumer.as_asgi())]  # type: ignore[arg-type]
