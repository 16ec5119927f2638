"""An ASGI application whose handler begins, and finds that the journal is away."""

from __future__ import annotations

from typing import Any

from tests import asgi  # first: it sets Django up

# isort: split

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

from graceful_ws.consumers import GracefulConsumer, JournalUnavailable


class Busy(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        if content == "busy":
            raise JournalUnavailable("as send_json raises it")
        return content


application = ProtocolTypeRouter(
    {
        "http": asgi.application.application_mapping["http"],
        "websocket": AuthMiddlewareStack(URLRouter([path("busy/", Busy.as_asgi())])),
    }
)
