"""The ASGI application of the nodes in a chaos run."""

from __future__ import annotations

import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

from tests.system.chaos import consumers  # noqa: E402

routes: list[Any] = [
    path("plainly/", consumers.Plainly.as_asgi()),  # type: ignore[arg-type]
    path("atomically/", consumers.Atomically.as_asgi()),  # type: ignore[arg-type]
]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(routes),
    }
)
