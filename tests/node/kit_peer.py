"""A client without a server: what a consumer sends and receives, in the process of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.node.node import Node, get_node
from tests.node.kit import soon
from tests.store.kit import WITHIN
from tests.support.waiting import eventually


class Peer:
    """One connection after another of one client object."""

    def __init__(self, consumer: type[GracefulConsumer]) -> None:
        self.frames: list[dict[str, Any]] = []  # of the connection
        self.closed: dict[str, Any] | None = None
        self.welcome: dict[str, Any] = {}
        self.token: str | None = None
        self._consumer = consumer
        self._app = consumer.as_asgi()
        self._attempt = 0
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._serving: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def calls(self, consumer: type[GracefulConsumer]) -> None:
        """Another consumer, from the next connection on."""
        self._app = consumer.as_asgi()

    def next_of_the_same_client(self) -> Peer:
        """Whose connections come beside this one's."""
        other = Peer(self._consumer)
        other.token, other._attempt = self.token, self._attempt
        return other

    async def dial(self) -> None:
        """Opens a connection; when it is accepted it says hello."""
        self.frames, self.closed, self._events = [], None, asyncio.Queue()
        self._attempt += 1
        scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": ["graceful.v1"]}
        self._events.put_nowait({"type": "websocket.connect"})
        self._serving = asyncio.ensure_future(self._app(scope, self._events.get, self._send))

    def _hello(self) -> None:
        hello = {"type": "hello", "version": 1, "instance": "one", "attempt": self._attempt}
        if self.token is not None:
            hello |= {"session_token": self.token, "last_seq_id": 0, "pending_from": 1}
        self.say(hello)

    async def welcomed(self) -> dict[str, Any]:
        self.welcome = await self.gets("welcome")
        self.token = self.welcome["session_token"] or self.token
        return self.welcome

    async def connect(self) -> dict[str, Any]:
        await self.dial()
        return await self.welcomed()

    def say(self, frame: dict[str, Any]) -> None:
        text = msgspec.json.encode(frame).decode()
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    async def gets(self, kind: str) -> dict[str, Any]:
        """The first frame of that type; waits until it is there."""

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if frame["type"] == kind]

        await eventually(lambda: bool(found() or self.closed), WITHIN, f"{kind} arrives")
        assert found(), self.closed
        return found()[0]

    async def cut(self) -> None:
        """The transport is gone; returns when the consumer has ended."""
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await soon(self._serving)

    async def bye(self) -> None:
        self.say({"type": "bye", "reason": "done"})
        await eventually(lambda: self.closed is not None, WITHIN, "the server closes")
        await self.cut()

    async def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.accept":
            self._hello()
        elif event["type"] == "websocket.send":
            decoded = msgspec.json.decode(event["text"])
            self.frames += decoded if isinstance(decoded, list) else [decoded]
        elif event["type"] == "websocket.close":
            self.closed = event


@contextlib.asynccontextmanager
async def running_node() -> AsyncIterator[Node]:
    """The node of the running loop, stopped at the end."""
    node = await get_node()
    try:
        yield node
    finally:
        for live in list(node.connections):
            live.drop()
        await eventually(lambda: not node.connections, WITHIN, "no connection is left")
        await node.stop()
