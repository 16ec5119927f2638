"""Before accept: who may open a WebSocket, and how one is refused."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.http.request import validate_host

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode, plain_code
from graceful_ws.core.frames import SUBPROTOCOL
from graceful_ws.servers import dropper

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def header(scope: Any, name: bytes) -> str:
    """The value of a request header; "" when there is none. ``name`` in lower case."""
    for key, value in scope.get("headers", ()):
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def origin_allowed(scope: Any) -> bool:
    """RFC 6455, 10.2: a browser says where its page comes from. Allowed are pages of the same
    host, of a host in ALLOWED_HOSTS, and ``allowed_origins``; who sends no Origin is no browser."""
    origin = header(scope, b"origin")
    if not origin:
        return True
    if origin in settings.allowed_origins:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return False
    if not parts.hostname:
        return False
    if _authority(header(scope, b"host"), PORTS.get(parts.scheme)) == (parts.hostname, port):
        return True
    hosts = django_settings.ALLOWED_HOSTS
    if django_settings.DEBUG and not hosts:
        hosts = [".localhost", "127.0.0.1", "[::1]"]
    return validate_host(parts.hostname, hosts)


def _authority(host: str, default: int | None) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname, parts.port or default
    except ValueError:
        return None, None


async def refuse(scope: Any, send: Any, status: int, reason: str) -> None:
    """Refuses a handshake with an HTTP status where the server can, so that load balancers and
    clients see it; a 503 says when to come back. Elsewhere a 503 is accepted and closed 1013."""
    retry_after = str(math.ceil(settings.drain_retry_after)).encode()
    if "websocket.http.response" in scope.get("extensions", {}):
        body = reason.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        if status == 503:
            headers.append((b"retry-after", retry_after))
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    elif status == 503:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": CloseCode.TRY_AGAIN_LATER, "reason": reason})
    else:
        await send({"type": "websocket.close"})


async def turn_away(scope: Any, receive: Any, send: Any, code: int, reason: str) -> None:
    """Accepts and closes: of a handshake that is refused a browser sees neither code nor reason.
    Returns when the peer is gone, so that it counts as long as it costs something."""
    plain = SUBPROTOCOL not in scope.get("subprotocols", ())
    with contextlib.suppress(OSError, RuntimeError):  # it may be gone already
        await send({"type": "websocket.accept", "subprotocol": None if plain else SUBPROTOCOL})
        code = plain_code(code) if plain else code
        await send({"type": "websocket.close", "code": int(code), "reason": reason})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.closing_timeout):
            while (await receive())["type"] != "websocket.disconnect":
                pass
        return
    drop = dropper(scope, send)
    if drop is not None:
        drop()
