"""A server with one plain client, which keeps a transcript of what an application does to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from graceful_ws.testing import settle

WITHIN = 15.0  # seconds that an application may take to end
Line = tuple[Any, ...]


class Peer:
    """Plays server and client. ``sent`` is what the server was sent, in order, and at the end how
    the application ended; ``hooks`` is what the consumer wrote with ``log``."""

    def __init__(self) -> None:
        self.sent: list[Line] = []
        self.hooks: list[Line] = []
        self.consumer: Any = None  # set by consumers that show themselves
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._accepted = False
        self._gone = False
        self._closing = 1000
        self.answers_close = True  # at once

    def log(self, *line: Any) -> None:
        self.hooks.append(line)

    # --- the server ---------------------------------------------------------------------------

    def start(self, app: Any, **scope: Any) -> None:
        asgi = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": "/ws/",
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "subprotocols": [],
            "client": ["127.0.0.1", 50000],
            "extensions": {"websocket.http.response": {}},
        }
        self._task = asyncio.create_task(self._run(app, asgi | scope))
        self._events.put_nowait({"type": "websocket.connect"})

    async def _run(self, app: Any, scope: Any) -> None:
        try:
            await app(scope, self._events.get, self._send)
        except Exception as error:
            self.sent.append(("raised", type(error).__name__))
        else:
            self.sent.append(("returned",))

    async def _send(self, event: dict[str, Any]) -> None:
        """What the ASGI specification leaves out has its default written down."""
        kind = event["type"]
        if kind == "websocket.accept":
            self._accepted = True
            headers = [tuple(header) for header in event.get("headers", ())]
            self.sent.append(("accept", event.get("subprotocol"), headers))
        elif kind == "websocket.send":
            if self._gone:
                return  # servers drop it, or raise an error of their own
            data = event.get("text")
            self.sent.append(("send", event["bytes"] if data is None else data))
        elif kind == "websocket.close":
            code = event.get("code", 1000)
            self.sent.append(("close", code, event.get("reason") or ""))
            self._closing = code if self._accepted else 1006
            if self.answers_close:
                self._end(self._closing)
        elif kind == "websocket.http.response.start":
            self.sent.append(("http", event["status"], event.get("headers", [])))
        elif kind == "websocket.http.response.body":
            self.sent.append(("body", event.get("body", b"")))
            if not event.get("more_body"):
                self._end(1006)
        else:
            self.sent.append((kind,))

    def _end(self, code: int) -> None:
        if not self._gone:
            self._gone = True
            self._events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})

    # --- the client ---------------------------------------------------------------------------

    def says(self, *messages: str | bytes) -> None:
        """Messages that come at once."""
        for data in messages:
            kind = "text" if isinstance(data, str) else "bytes"
            self._events.put_nowait({"type": "websocket.receive", kind: data})

    def leaves(self, code: int = 1000) -> None:
        self._end(code)

    def answers(self) -> None:
        """The close frame that it got."""
        self._end(self._closing)

    async def settled(self) -> None:
        await settle()

    async def over(self) -> None:
        """The client leaves if it has not; returns when the application has."""
        await settle()
        if self._task is None:
            return
        if not self._task.done():
            self._end(1000)
            await asyncio.wait([self._task], timeout=WITHIN)
        if not self._task.done():
            self.sent.append(("hangs",))
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await settle()

    def transcript(self) -> dict[str, Sequence[Line]]:
        return {"sent": self.sent, "hooks": self.hooks}
