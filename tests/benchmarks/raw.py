"""The limit: an ASGI application without Channels and Django that does the same sends."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

HEARTBEAT = 5.0  # seconds, as graceful_ws has it

_rooms: list[Any] = []  # the send of each connection that follows
CLOSE_WAITS = "granian" in sys.modules  # there for the receive() that is pending, until it ends
_close: dict[str, Any] = {"type": "websocket.close", "reason": "the server restarts"}
_closable_tasks: dict[Any, Any] = {}
_idle: dict[Any, float] = {}  # send of each idle connection: when it is to be pinged
_pinger: asyncio.Task[None] | None = None


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    await KINDS[scope["path"]](receive, send)


async def _echo(receive: Any, send: Any) -> None:
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def _room(receive: Any, send: Any) -> None:
    _rooms.append(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            content = json.loads(event["text"])
            for n in range(content["n"], content["to"]):
                text = json.dumps({"n": n, "text": content["text"]}, separators=(",", ":"))
                message = {"type": "websocket.send", "text": text}
                for one in _rooms:
                    await one(message)
    finally:
        _rooms.remove(send)


async def _idle_connection(receive: Any, send: Any) -> None:
    """Its pings are those of a session: one text frame every 5 s, answered by the client."""
    global _pinger
    _idle[send] = time.monotonic() + HEARTBEAT
    if _pinger is None:
        _pinger = asyncio.create_task(_ping_all())
    try:
        while (event := await receive())["type"] == "websocket.receive":
            json.loads(event["text"])
            _idle[send] = time.monotonic() + HEARTBEAT
    finally:
        del _idle[send]


async def _closable(receive: Any, send: Any) -> None:
    """``{"close": code}`` closes all connections of this kind, the one that says it too."""
    task = asyncio.current_task()
    _rooms.append(send)
    _closable_tasks[send] = task
    try:
        while (event := await receive())["type"] == "websocket.receive":
            _close["code"] = json.loads(event["text"])["close"]
            for one in list(_rooms):
                if CLOSE_WAITS and one != send:
                    _closable_tasks[one].cancel()
                else:
                    await one(_close)
    except asyncio.CancelledError:
        if not CLOSE_WAITS:
            raise
        await send(_close)
    finally:
        _rooms.remove(send)
        del _closable_tasks[send]


async def _ping_all() -> None:
    while True:
        await asyncio.sleep(0.05)
        now = time.monotonic()
        frame = json.dumps({"type": "ping", "sent_at": int(time.time() * 1000), "rtt": 0.001})
        for send in [send for send, due in _idle.items() if due <= now]:
            if send in _idle:
                _idle[send] = now + HEARTBEAT
                await send({"type": "websocket.send", "text": frame})


KINDS = {"/echo/": _echo, "/room/": _room, "/idle/": _idle_connection, "/drain/": _closable}
