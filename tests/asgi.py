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

from tests import consumers  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(
            URLRouter(
                [
                    path("echo/", consumers.Echo.as_asgi()),
                    path("light/", consumers.Light.as_asgi()),
                    path("ledger/", consumers.Ledger.as_asgi()),
                    path("transaction/", consumers.InTransaction.as_asgi()),
                ]
            )
        ),
    }
)
