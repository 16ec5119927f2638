"""What it is measured against: the same consumers as bare Channels has them.

graceful_ws is neither imported nor installed in this process: it adapts the servers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import django

django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402


class Echo(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(content)


class Room(AsyncJsonWebsocketConsumer):
    """One group; ``{"n", "to", "text", "at_once"}`` sends the numbers n..to-1 to it."""

    groups = ["room"]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        text = content["text"]
        events = [
            {"type": "room.message", "data": {"n": n, "text": text}}
            for n in range(content["n"], content["to"])
        ]
        if content["at_once"]:
            await asyncio.gather(*(self.channel_layer.group_send("room", one) for one in events))
            return
        for one in events:
            await self.channel_layer.group_send("room", one)

    async def room_message(self, event: Any) -> None:
        await self.send_json(event["data"])


ROUTES = {"echo/": Echo, "room/": Room}

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [path(route, consumer.as_asgi()) for route, consumer in ROUTES.items()]
        ),
    }
)
