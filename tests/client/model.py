"""A server in memory, made of the pure parts of the real one, and the wires to it.

What a database would keep is in ``ModelServer``; what a connection knows is in ``ModelLink`` and is
lost with it. Frames lie on the wires until a test moves them, so that it decides every order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from graceful_ws.client.events import Event
from graceful_ws.client.session import ClientSession
from graceful_ws.core import frames
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.window import Arrival, Cursor, Intake, SendWindow


class ModelServer:
    """One session's rows."""

    def __init__(self, *, unacked: int = 4, unacked_bytes: int = 1000, window: int = 5) -> None:
        self.unacked = unacked
        self.unacked_bytes = unacked_bytes
        self.window = window
        self.token: str | None = None
        self.sessions = 0
        self.journal: list[Any] = []
        self.effects: list[Any] = []  # what handlers committed, over all sessions
        self.results: dict[int, dict[str, Any]] = {}
        self.done = 0
        self.acked = 0
        self.generation = 0
        self.instance = ""
        self.attempt = 0
        self.links: list[ModelLink] = []

    def expire(self) -> None:
        """The session is deleted."""
        self.token = None
        self.generation += 1

    def append(self, data: Any) -> None:
        """A message of the application is kept."""
        self.journal.append(data)

    def link(self) -> ModelLink:
        link = ModelLink(self)
        self.links.append(link)
        return link


@dataclass(eq=False)
class ModelLink:
    """The server's end of one connection. ``outbox`` is the wire to the client."""

    server: ModelServer
    outbox: deque[str] = field(default_factory=deque)
    closed: int | None = None
    generation: int = -1
    cursor: Cursor | None = None
    intake: Intake | None = None
    waiting: deque[tuple[int, Any]] = field(default_factory=deque)

    def tell(self, frame: frames.Frame) -> None:
        self.outbox.append(frames.encode(frame))

    @property
    def owns(self) -> bool:
        return self.closed is None and self.generation == self.server.generation

    def receive(self, text: str) -> None:
        """Raises ProtocolError for whatever a server would close for."""
        for frame in frames.decode(text):
            if isinstance(frame, frames.Hello):
                self._hello(frame)
                continue
            assert self.intake is not None and self.cursor is not None, "before the welcome"
            if isinstance(frame, frames.ClientMessage):
                arrival = self.intake.receive(frame.seq, len(text))
                if arrival is Arrival.NEW:
                    self.waiting.append((frame.seq, frame.data))
                elif arrival is Arrival.DONE:
                    self.tell(frames.Ack(self.intake.done))
            elif isinstance(frame, frames.ClientAck | frames.Pong) and frame.seq is not None:
                self.cursor.ack(frame.seq)
                self.server.acked = max(self.server.acked, frame.seq)

    def _hello(self, hello: frames.Hello) -> None:
        server = self.server
        resumed = hello.session_token is not None and hello.session_token == server.token
        if resumed and hello.instance == server.instance and hello.attempt <= server.attempt:
            self.closed = CloseCode.RESYNC
            return
        server.generation += 1
        server.instance, server.attempt = hello.instance, hello.attempt
        if not resumed:
            server.sessions += 1
            server.token = f"token {server.sessions}"
            server.journal, server.results, server.done, server.acked = [], {}, 0, 0
        self.generation = server.generation
        position = hello.last_seq_id or 0 if resumed else 0
        assert position >= server.acked, "asks for what it has acknowledged, which may be purged"
        self.cursor = Cursor(SendWindow(server.window, 10_000), position, position)
        self.intake = Intake(
            server.unacked, server.unacked_bytes, done=server.done, received=server.done
        )
        self.tell(
            frames.Welcome(
                session_id="session",
                session_token=None if resumed else server.token,
                resumed=resumed,
                last_client_seq=server.done,
                head=len(server.journal),
                heartbeat={"interval": 5.0, "timeout": 3.0, "max_missed": 3},
                resume_window=3600.0,
                reconnect_window=5.0,
                limits={
                    "message_bytes": 1000,
                    "unacked": server.unacked,
                    "unacked_bytes": server.unacked_bytes,
                },
                streams={},
                node="model",
            )
        )
        if hello.session_token is not None and not resumed:
            self.tell(frames.Gap(reason="expired", head=0))
        if resumed:
            kept = {
                seq: outcome
                for seq, outcome in server.results.items()
                if hello.pending_from is not None and seq >= hello.pending_from
            }
            for seq, outcome in kept.items():
                if "nack" in outcome:
                    self.tell(frames.Nack(seq, outcome["nack"]))
            results = {str(n): kept[n]["result"] for n in kept if "result" in kept[n]}
            self.tell(frames.Ack(server.done, results))

    def replay(self, most: int = 100) -> None:
        """Sends what the window lets go, at most so many messages."""
        assert self.cursor is not None
        upto = min(len(self.server.journal), self.cursor.position + most)
        while self.closed is None and self.cursor.position < upto:
            seq = self.cursor.position + 1
            frame = frames.message_frame(seq, frames.encode_data(self.server.journal[seq - 1]))
            if not self.cursor.window.has_room(len(frame)):
                return
            self.cursor.advance(seq, len(frame))
            self.outbox.append(frame)

    def repeat(self) -> None:
        """Sends a copy of what was sent already."""
        if self.cursor is not None and self.cursor.position:
            seq = self.cursor.position
            data = frames.encode_data(self.server.journal[seq - 1])
            self.outbox.append(frames.message_frame(seq, data))

    def handle(self, how: str) -> None:
        """Runs the handler of the next message: effect, number and outcome commit together, or
        not at all when the session has another owner."""
        if not self.waiting:
            return
        seq, data = self.waiting.popleft()
        if not self.owns:
            self.closed = CloseCode.SUPERSEDED
            return
        assert self.intake is not None
        if how == "retry":
            self.waiting.clear()
            self.intake.ask_again(seq)
            self.tell(frames.Nack(seq, "try_again", retry=True, retry_after=500))
            return
        server = self.server
        server.done = seq
        server.effects.append(data)
        server.results[seq] = {"result": data} if how == "result" else {"nack": "error"}
        self.intake.complete(seq)
        if how == "result":
            self.tell(frames.Ack(seq, {str(seq): data}))
        else:
            self.tell(frames.Nack(seq, "error"))
            self.tell(frames.Ack(seq))


class Wire:
    """One connection: the client's link, the server's link, and what is on its way between."""

    def __init__(self, session: ClientSession, server: ModelServer) -> None:
        self.client = session.connect()
        self.server = server.link()
        self.upward: deque[str] = deque([self.client.hello()])
        self.client_closed = False

    def flush(self, now: float) -> None:
        """The client puts on the wire what it may send."""
        if not self.client_closed:
            self.upward += self.client.data_to_send(now)

    def up(self) -> None:
        """One text arrives at the server."""
        if self.upward and self.server.closed is None:
            self.server.receive(self.upward.popleft())

    def down(self, now: float) -> list[Event]:
        """One text arrives at the client; behind the last one its end of a closed connection."""
        if self.client_closed:
            return []
        if self.server.outbox:
            return self.client.receive(self.server.outbox.popleft(), now)
        if self.server.closed is not None:
            self.client_closed = True
            return self.client.closed(self.server.closed, now)
        return []

    def cut(self, now: float) -> list[Event]:
        """The client loses the connection; what is on its way upward may still arrive."""
        if self.client_closed:
            return []
        self.client_closed = True
        self.server.outbox.clear()
        return self.client.closed(CloseCode.ABNORMAL, now)
