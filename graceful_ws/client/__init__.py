"""The Python client: ``pip install django-graceful-ws[client]``. Needs no Django.

async with connect("wss://example.com/ws/chat/") as client:
    await client.send({"hello": "world"})
    async for message in client:
        print(message.seq, message.data)
"""

from __future__ import annotations

from graceful_ws.core.retry import Backoff

from .connection import GracefulClient, connect
from .errors import GracefulError, Nacked, RetriesExhausted, SessionLost
from .events import (
    CloseNeeded,
    Disconnected,
    Draining,
    ErrorTold,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    RetryScheduled,
    StateChanged,
    Subscribed,
    Superseded,
    Unsubscribed,
    VolatileReceived,
    Welcomed,
)
from .session import ClientSession

__all__ = [
    "Backoff",
    "ClientSession",
    "CloseNeeded",
    "Disconnected",
    "Draining",
    "ErrorTold",
    "Event",
    "GapTold",
    "GracefulClient",
    "GracefulError",
    "MessageAcknowledged",
    "MessageNacked",
    "MessageReceived",
    "Nacked",
    "RetriesExhausted",
    "RetryScheduled",
    "SessionLost",
    "StateChanged",
    "Subscribed",
    "Superseded",
    "Unsubscribed",
    "VolatileReceived",
    "Welcomed",
    "connect",
]
