"""The site of the recorded conversation: a consumer that a reader understands at once."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from graceful_ws.consumers import GracefulConsumer  # noqa: E402


class Shop(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        match content:
            case {"order": "coffee"}:
                raise RuntimeError("there is no coffee")
            case {"order": item}:
                await self.send_json({"ordered": item})
                return {"id": 17}
            case {"follow": stream}:
                await self.subscribe(stream)
            case {"say": text, "in": stream}:
                await self.publish(stream, {"text": text})
        return None


application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("shop/", Shop.as_asgi())])}
)
