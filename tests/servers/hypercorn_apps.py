"""Raw ASGI applications for hypercorn alone: ``leaving`` and ``behind_a_proxy``."""

from __future__ import annotations

import asyncio
from typing import Any

from hypercorn.middleware import ProxyFixMiddleware

from tests.servers.apps import application


async def leaving(scope: Any, receive: Any, send: Any) -> None:
    """Returns when its server has more messages for it than it may keep."""
    if scope["type"] != "websocket":
        return
    await send({"type": "websocket.accept"})
    while not receive.__self__.full():  # noqa: ASYNC110 (an asyncio.Queue tells nobody)
        await asyncio.sleep(0.01)


behind_a_proxy = ProxyFixMiddleware(application)  # copies the whole scope
