"""What is measured: consumers of graceful_ws, without middleware on either side."""

from __future__ import annotations

import asyncio
from typing import Any

import django

django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from graceful_ws.consumers import GracefulConsumer  # noqa: E402
from tests.benchmarks.statements import count_if_asked  # noqa: E402

count_if_asked()


class Echo(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(content)


class LightEcho(Echo):
    resumable = False


class Room(GracefulConsumer):
    """Follows one stream; ``{"n", "to", "text", "at_once"}`` publishes the numbers n..to-1."""

    streams = ["room"]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        text = content["text"]
        data = [{"n": n, "text": text} for n in range(content["n"], content["to"])]
        if content["at_once"]:
            await asyncio.gather(*(self.publish("room", one) for one in data))
            return
        for one in data:
            await self.publish("room", one)


ROUTES = {"echo/": Echo, "light/": LightEcho, "room/": Room}

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [path(route, consumer.as_asgi()) for route, consumer in ROUTES.items()]
        ),
    }
)
