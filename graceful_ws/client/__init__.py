"""The Python client: ``pip install django-graceful-ws[client]``. Needs no Django.

async with connect("wss://example.com/ws/chat/") as client:
    await client.send({"hello": "world"})
    async for message in client:
        print(message.seq, message.data)
"""

from __future__ import annotations

try:
    import websockets as _  # noqa: F401
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        'the client needs websockets: pip install "django-graceful-ws[client]"', name=_error.name
    ) from None

from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.client_states import ClientState
from graceful_ws.core.endpoints import EndpointStatus
from graceful_ws.core.retry import Backoff

from .connection import GracefulClient, connect
from .errors import (
    CircuitOpen,
    GracefulError,
    Nacked,
    RequestTimeout,
    RetriesExhausted,
    SessionLost,
)
from .events import (
    CloseNeeded,
    Disconnected,
    Draining,
    ErrorTold,
    Event,
    Exited,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    RetryScheduled,
    RoundTrip,
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
    "Breaker",
    "BreakerState",
    "CircuitOpen",
    "ClientSession",
    "ClientState",
    "CloseNeeded",
    "Disconnected",
    "Draining",
    "EndpointStatus",
    "ErrorTold",
    "Event",
    "Exited",
    "GapTold",
    "GracefulClient",
    "GracefulError",
    "MessageAcknowledged",
    "MessageNacked",
    "MessageReceived",
    "Nacked",
    "RequestTimeout",
    "RetriesExhausted",
    "RetryScheduled",
    "RoundTrip",
    "SessionLost",
    "StateChanged",
    "Subscribed",
    "Superseded",
    "Unsubscribed",
    "VolatileReceived",
    "Welcomed",
    "connect",
]
