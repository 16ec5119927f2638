"""The ASGI application of the dashboard's site, routed as docs/dashboard.md says."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.browser.dashboard_settings")
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from graceful_ws.echo import EchoConsumer  # noqa: E402
from graceful_ws.live.routing import websocket_urlpatterns  # noqa: E402

routes = [path("echo/", EchoConsumer.as_asgi())]
if "GRACEFUL_TEST_UNROUTED" not in os.environ:
    routes += websocket_urlpatterns
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(URLRouter(routes)),
    }
)
