"""A raw ASGI application for the adapters' tests: it does over a WebSocket what it is told.

Paths: ``/`` obeys, ``/refuse`` answers 503, ``/close`` closes before accepting, ``/headers``
accepts with headers and ``/ends`` tells how each other connection ended. The drain tells every
client, waits for the running jobs, closes 1012 and drops whoever has not answered after
``ANSWER`` seconds; it has no deadline, so that a test decides when it ends.

GRACEFUL_TEST_DRAIN=broken    the drain raises
GRACEFUL_TEST_CLOSE_TIMEOUT   seconds, for set_close_timeout()
GRACEFUL_TEST_WRAP_SEND       set: a middleware hides the server's own send
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from graceful_ws import servers

ANSWER = 0.5  # seconds
FLOOD = 64 * 1024  # bytes of one message
FLOOD_MESSAGES = 200  # 12.8 MiB: more than the kernel's buffers take


class Connection:
    """One client that obeys: a JSON object with one key, the name of a method here."""

    def __init__(self, scope: Any, send: Any) -> None:
        self.path = scope["path"]
        self.drop = servers.dropper(scope, send)
        self.send_event = send
        self.jobs: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()
        self.may_finish = asyncio.Event()

    async def send(self, **message: Any) -> None:
        await self.send_event({"type": "websocket.send", "text": json.dumps(message)})

    async def close(self, code: int, reason: str = "") -> None:
        with suppress(OSError, RuntimeError):  # the client was faster
            await self.send_event({"type": "websocket.close", "code": code, "reason": reason})

    async def obey(self, order: dict[str, Any]) -> None:
        ((name, value),) = order.items()
        match name:
            case "echo":
                await self.send(echo=value)
            case "close":
                self._start(self._close(value))
            case "work" | "flood":
                self._start(getattr(self, f"_{name}")())
            case "say":
                await self.send(said="x" * value)
            case "finish":
                self.may_finish.set()
            case "drop":
                for connection in list(connections):
                    if connection.path == value:
                        assert connection.drop is not None
                        connection.drop()
                        connection.drop()  # harmless

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(coroutine)
        self.jobs.add(job)
        job.add_done_callback(self.jobs.discard)

    async def _close(self, arguments: dict[str, Any]) -> None:
        try:
            await self.send_event({"type": "websocket.close", **arguments})
        except ValueError as error:
            await self.send(error=str(error))

    async def _work(self) -> None:
        await self.send(working=True)
        await self.may_finish.wait()
        await self.send(done=True)

    async def _flood(self) -> None:
        with suppress(OSError, RuntimeError):
            for _ in range(FLOOD_MESSAGES):
                await self.send_event({"type": "websocket.send", "bytes": bytes(FLOOD)})


connections: set[Connection] = set()
observers: set[Any] = set()
hurried = asyncio.Event()


async def drain() -> None:
    if os.environ.get("GRACEFUL_TEST_DRAIN") == "broken":
        raise LookupError("this drain is broken")
    await asyncio.gather(*(drain_one(connection) for connection in list(connections)))


async def drain_one(connection: Connection) -> None:
    with suppress(OSError, RuntimeError):
        await connection.send(draining=servers.current())
    hurrying = asyncio.create_task(hurried.wait())
    if connection.jobs:
        jobs = asyncio.gather(*connection.jobs, return_exceptions=True)
        await asyncio.wait({jobs, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    # Not awaited: one of uvicorn's implementations returns only when the peer has answered.
    closing = asyncio.create_task(
        connection.close(1012, "hurried" if hurried.is_set() else "restart")
    )
    gone = asyncio.create_task(connection.gone.wait())
    done, _ = await asyncio.wait({gone}, timeout=ANSWER)
    if not done and connection.drop is not None:
        connection.drop()
        await gone
    await closing
    hurrying.cancel()


async def obedient(scope: Any, receive: Any, send: Any) -> None:
    connection = Connection(scope, send)
    await receive()
    await send({"type": "websocket.accept"})
    connections.add(connection)
    try:
        while (event := await receive())["type"] != "websocket.disconnect":
            text = event.get("text")
            await connection.obey(
                {"echo": len(event["bytes"])} if text is None else json.loads(text)
            )
        if servers.is_closing(scope):
            await receive()
        end = {key: event.get(key) for key in ("code", "reason")}
        for observer in observers:
            await observer(end | {"path": connection.path})
    finally:
        connections.discard(connection)
        connection.gone.set()
        for job in connection.jobs:
            job.cancel()


async def ends(scope: Any, receive: Any, send: Any) -> None:
    async def observer(end: dict[str, Any]) -> None:
        await send({"type": "websocket.send", "text": json.dumps(end)})

    await receive()
    await send({"type": "websocket.accept"})
    observers.add(observer)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    observers.discard(observer)


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    assert "websocket.http.response" in scope["extensions"]
    await receive()
    await send(
        {
            "type": "websocket.http.response.start",
            "status": 503,
            "headers": [(b"retry-after", b"7"), (b"content-type", b"text/plain")],
        }
    )
    await send({"type": "websocket.http.response.body", "body": b"going ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"down"})
    assert (await receive())["type"] == "websocket.disconnect"


async def close_before_accept(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def split_header(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    try:
        await send({"type": "websocket.accept", "headers": [(b"x-user", b"a\r\nset-cookie: b=c")]})
    except ValueError:
        await send({"type": "websocket.close"})


async def with_headers(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"x-node", b"one"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "websocket.accept", "subprotocol": "second", "headers": headers})
    await receive()


PATHS = {
    "/refuse": refuse,
    "/close": close_before_accept,
    "/headers": with_headers,
    "/split-header": split_header,
    "/ends": ends,
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "http":
        await asyncio.Event().wait()  # a request that never ends

    async def hidden(message: Any) -> None:
        await send(message)

    if scope["type"] == "websocket":
        scope = copy.deepcopy(scope)  # as some middlewares do
    wrapped = hidden if "GRACEFUL_TEST_WRAP_SEND" in os.environ else send
    await PATHS.get(scope["path"], obedient)(scope, receive, wrapped)


servers.install(drain, hurried.set)
servers.install(drain, hurried.set)  # a second time changes nothing
if timeout := os.environ.get("GRACEFUL_TEST_CLOSE_TIMEOUT"):
    servers.set_close_timeout(float(timeout))
