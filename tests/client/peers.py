"""Servers that follow a script, for what a real one does not do on request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.typing import Subprotocol

from graceful_ws.client import Backoff, Event, GracefulClient, connect
from graceful_ws.client.connection import PROBE_PATH
from graceful_ws.core import frames

DEADLINE = 15.0  # seconds for a whole test
FAST = Backoff(base_delay=0.05, max_delay=0.4, parked_delay=0.2, min_uptime=0.2)


def lowest() -> float:
    """In place of a random number: delays are what the back-off says, and nothing on top."""
    return 0.0


class Visit:
    """One connection to a scripted server."""

    def __init__(self, number: int, ws: ServerConnection) -> None:
        self.number = number
        self.ws = ws
        self.hello: dict[str, Any] = {}

    async def welcome(self, **changes: Any) -> dict[str, Any]:
        """Reads the hello and answers it; a token is taken for a session that is still there."""
        hello = await self.read_hello()
        fields: dict[str, Any] = {
            "session_id": "session",
            "session_token": "token",
            "resumed": "session_token" in hello,
            "last_client_seq": 0,
            "head": 0,
            "heartbeat": {"interval": 5, "timeout": 3, "max_missed": 3},
            "resume_window": 3600.0,
            "reconnect_window": 1.0,
            "limits": {"message_bytes": 65536, "unacked": 64, "unacked_bytes": 262144},
            "streams": {},
            "node": f"visit {self.number}",
        }
        await self.ws.send(frames.encode(frames.Welcome(**{**fields, **changes})))
        return hello

    async def read_hello(self) -> dict[str, Any]:
        if not self.hello:
            self.hello = await self.read()
            assert self.hello["type"] == "hello"
        return self.hello

    async def read(self, kind: str | None = None) -> dict[str, Any]:
        """The next frame (of a kind; others are skipped)."""
        while True:
            frame: dict[str, Any] = json.loads(await self.ws.recv())
            if kind is None or frame["type"] == kind:
                return frame

    async def say(self, kind: str, **fields: Any) -> None:
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def gone(self) -> tuple[int, str]:
        """Waits for the client's close; returns its code and reason."""
        await self.ws.wait_closed()
        return self.ws.close_code or 1006, self.ws.close_reason or ""


Script = Callable[[Visit], Awaitable[None]]


class Peer:
    """A scripted server: ``script`` runs for each connection, which is closed 1000 behind it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.visits: list[Visit] = []
        self.dials: list[float] = []  # when handshakes began, refused ones too
        self.probes = 0
        self.probe_answer = HTTPStatus.NO_CONTENT
        self.refusing = 0  # so many handshakes are refused
        self.retry_after: str | None = None
        self.port = 0
        self.errors: list[BaseException] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    async def handshake(self, ws: ServerConnection, request: Request) -> Response | None:
        if request.path == PROBE_PATH:
            self.probes += 1
            return ws.respond(self.probe_answer, "")
        self.dials.append(time.monotonic())
        if self.refusing == 0:
            return None
        self.refusing -= 1
        response = ws.respond(HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
        if self.retry_after is not None:
            response.headers["Retry-After"] = self.retry_after
        return response

    async def visited(self, ws: ServerConnection) -> None:
        visit = Visit(len(self.visits) + 1, ws)
        self.visits.append(visit)
        try:
            await self.script(visit)
        except Exception as error:
            self.errors.append(error)
            raise


@contextlib.asynccontextmanager
async def serving(
    script: Script, *, subprotocol: str | None = frames.SUBPROTOCOL
) -> AsyncIterator[Peer]:
    """A scripted server, for the body of a test, which has to end in time and to leave no task."""
    before = asyncio.all_tasks()
    peer = Peer(script)
    names = None if subprotocol is None else [Subprotocol(subprotocol)]
    async with (
        asyncio.timeout(DEADLINE),
        serve(
            peer.visited,
            "127.0.0.1",
            0,
            subprotocols=names,
            process_request=peer.handshake,
            close_timeout=1,
        ) as server,
    ):
        peer.port = next(iter(server.sockets)).getsockname()[1]
        yield peer
        ours = {task for task in asyncio.all_tasks() - before if _is_ours(task)}
        assert not ours, "left after close()"


def _is_ours(task: asyncio.Task[Any]) -> bool:
    return "graceful_ws/client" in task.get_coro().cr_code.co_filename  # type: ignore[union-attr]


def client_of(peer: Peer, events: list[Event] | None = None, **options: Any) -> GracefulClient:
    if events is not None:
        options["on_event"] = events.append
    options = {"backoff": FAST, "random": lowest, "probe": None, **options}
    return connect(peer.url, **options)


async def echoing(visit: Visit) -> None:
    """Welcomes, and returns what it gets: as a message and as the result."""
    await visit.welcome()
    number = 0
    while True:
        frame = await visit.read()
        if frame["type"] == "message":
            number += 1
            await visit.say("message", seq=number, data=frame["data"])
            await visit.say("ack", seq=frame["seq"], results={str(frame["seq"]): frame["data"]})
        elif frame["type"] == "ping":
            await visit.say("pong", sent_at=frame["sent_at"])
        elif frame["type"] == "bye":
            return
