"""The ASGI application of the tests: one route for each consumer in tests.consumers."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from graceful_ws.echo import EchoConsumer  # noqa: E402
from tests import consumers  # noqa: E402

ROUTES = {
    "echo/": consumers.Echo,
    "light/": consumers.Light,
    "strict/": consumers.Strict,
    "dozing/": consumers.Dozing,
    "impatient/": consumers.Impatient,
    "paced/": consumers.Paced,
    "scarce/": consumers.Scarce,
    "slow/": consumers.Slow,
    "staff/": consumers.ForStaff,
    "hooks/": consumers.Hooks,
    "denying/": consumers.Denying,
    "broken/": consumers.Broken,
    "ledger/": consumers.Ledger,
    "zombie/": consumers.Zombie,
    "transaction/": consumers.InTransaction,
    "impatient-transaction/": consumers.ImpatientTransaction,
    "room/": consumers.Room,
    "light-room/": consumers.LightRoom,
    "present/": consumers.Present,
    "watched/": consumers.Watched,
    "transaction-room/": consumers.InTransactionRoom,
    "soak/": EchoConsumer,
}

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(
            URLRouter([path(route, consumer.as_asgi()) for route, consumer in ROUTES.items()])
        ),
    }
)
