"""The ASGI application: pages for HTTP, a room and an echo for WebSockets."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

# Static files by Django itself, so that the demo needs no web server before it.
http = ASGIStaticFilesHandler(get_asgi_application())

from django.urls import path  # noqa: E402

from graceful_ws.echo import EchoConsumer  # noqa: E402
from graceful_ws.live.routing import websocket_urlpatterns  # noqa: E402
from project.consumers import Room  # noqa: E402

routes = [
    path("ws/", Room.as_asgi()),
    path("ws/soak/", EchoConsumer.as_asgi()),  # for manage.py soak
    *websocket_urlpatterns,  # the live dashboard of the admin
]
application = ProtocolTypeRouter(
    {"http": http, "websocket": AuthMiddlewareStack(URLRouter(routes))}
)
