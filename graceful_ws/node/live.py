"""One live connection: the reader, the state machine's effects, attach, close, and the end.

The reader ends with the transport; ``ending.end`` runs once, whatever happened, as a task of the
node (a server may cancel the application), and after it no task, timer or entry is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from graceful_ws.core import frames
from graceful_ws.core.close_codes import CloseCode, cut_reason, plain_code
from graceful_ws.core.connection import Connection
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    DRAIN_STARTED,
    OPENED,
    WELCOMED,
    CloseRequested,
    DropTransport,
    Event,
    Reschedule,
    SendClose,
    SendPing,
    State,
)
from graceful_ws.servers import dropper, writer
from graceful_ws.store.entries import Append, Fenced
from graceful_ws.store.hello import Attached, Identity

from .admission import Place
from .application import Application, Consumer
from .attaching import attach
from .feed import Feed
from .inbox import Inbox
from .outbox import Outbox
from .reader import Reader
from .subscriptions import Subscriptions
from .taking import Taker
from .transaction import decode_outcome

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.connection")
FRAME_BYTES = len(frames.message_frame(frames.MAX_SEQ, ""))
FLUSH_TIMEOUT = 2.0  # seconds that a close waits for what is queued before it


class LiveConnection:
    """The server's end of one WebSocket, from accept to the last clean-up."""

    __slots__ = (
        *("_loop", "_send", "application", "attached", "attaching", "consumer", "deadline"),
        *("end_cause", "ended_elsewhere", "feed", "inbox", "instance", "limits", "machine"),
        *("node", "noted", "noted_at", "outbox", "over", "owner", "place", "plain", "reader"),
        *("ready_future", "scope", "subscriptions", "taker", "__weakref__", "context"),
    )

    def __init__(
        self, node: Node, application: Application, scope: Any, receive: Any, send: Any
    ) -> None:
        self.node = node
        self.application = application
        self.consumer: Consumer = application.consumer
        self.scope = scope
        self.limits = application.limits
        self.context = copy_context()  # of all handlers: what one sets the next one sees
        self.plain = frames.SUBPROTOCOL not in scope.get("subprotocols", ())
        self.machine = Connection(
            self.limits.machine(plain=self.plain), jitter=random.uniform(0.5, 1.0)
        )
        self.inbox = Inbox(self)
        self.outbox = Outbox(
            self._transmit,
            self.event,
            application.gap_told,
            lambda work: node.spawn(work, self.context),
            node.flusher,
            node.stats,
            replay_rows=node.replay_rows,
            raw=self.plain,
            write=writer(scope, send),
        )
        self.subscriptions = Subscriptions(self)
        self.attached: Attached | None = None
        self.owner: tuple[str, Identity, int] | None = None  # consumer, who, and which attempt
        self.place: Place | None = None  # in the node
        self.deadline: float | None = None  # the one the node's timer knows
        self.feed: Feed | None = None
        self.reader = Reader(self, receive)
        self._send = send
        self._loop = node.loop
        self.attaching: asyncio.Future[None] | None = None
        self.ready_future: asyncio.Future[Attached] = self._loop.create_future()
        self.instance = ""
        self.over = False  # the end has begun
        self.taker = Taker(self)
        self.ended_elsewhere = False
        self.end_cause: str | None = None  # set: the session ends with the connection
        self.noted_at = -math.inf
        self.noted: tuple[Any, ...] = ()

    # --- what others ask ----------------------------------------------------------------------

    @property
    def session_pk(self) -> int:
        assert self.attached is not None
        return self.attached.session

    @property
    def generation(self) -> int:
        assert self.attached is not None
        return self.attached.generation

    @property
    def is_open(self) -> bool:
        return self.machine.state not in (State.DISCONNECTED, State.CLOSING)

    @property
    def head(self) -> int:
        """The highest number of the session's own messages that was read or written here."""
        kept = self.feed is not None and self.consumer.resumable
        return self.feed.source.head if self.feed is not None and kept else 0

    @property
    def acked_seq(self) -> int:
        return self.feed.cursor.acked if self.feed is not None else 0

    def extra(self) -> dict[str, Any]:
        """For structured logs."""
        session = self.attached and str(self.attached.uuid)
        generation = self.attached and self.attached.generation
        return {"session": session, "generation": generation, "node": self.node.name}

    def make_plain(self) -> None:
        """The consumer accepted another subprotocol, or none."""
        self.plain = True
        self.machine = Connection(self.limits.machine(plain=True))
        self.outbox.make_raw()

    # --- opening ------------------------------------------------------------------------------

    def check_lives(self) -> None:
        """Raises Fenced when the connection is over, so that nothing is begun for it."""
        if self.over:
            raise Fenced("the connection has ended")

    def opened(self) -> None:
        """The WebSocket was accepted."""
        self.event(OPENED)
        self.node.add(self)
        if self.plain:
            attach(self, None)

    def hello(self, hello: frames.Hello) -> None:
        self.instance = hello.instance
        attach(self, hello)

    @property
    def hello_due(self) -> bool:
        return self.attaching is None

    @property
    def welcomed(self) -> bool:
        return self.feed is not None

    def became_ready(self, attached: Attached, feed: Feed) -> None:
        """Welcomed: what waited for the session goes on."""
        self.feed = feed
        if self.place is not None:
            self.place.welcomed()
        self.event(WELCOMED)
        self.ready_future.set_result(attached)

    async def ready(self) -> Attached:
        """Waits for the attach. Raises Fenced when the connection ends before it."""
        return await asyncio.shield(self.ready_future)

    # --- writing ------------------------------------------------------------------------------

    async def send_data(self, data: str, *, volatile: bool = False) -> None:
        """Sends encoded data. Returns when it is kept (numbered), queued (plain, not resumable) or
        dropped (volatile, under pressure). Raises Fenced or JournalUnavailable."""
        if self.plain:
            await self.send_plain(data)
            return
        attached = await self.ready()
        if volatile:
            if self.outbox.crowded or not self.outbox.plain(frames.volatile_frame(data)):
                await asyncio.sleep(0)  # who sends without end must let others have their turn
        elif self.consumer.resumable:
            await self.node.journal.write(
                Append(attached.session, attached.generation, (data,)),
                lambda first: self.committed(first, (data,)),
            )
        else:
            # What travels is the frame: were it not to fit, nothing could bring it back.
            await self.outbox.wait_window(len(data) + FRAME_BYTES)
            if self.feed is not None:
                self.committed(self.feed.source.head + 1, (data,))

    async def send_plain(self, data: str | bytes) -> None:
        if self.over and self not in self.node.served:  # its handlers are done, others go on
            raise Fenced("the connection has ended")
        await self.outbox.say(data)

    def committed(self, first: int, data: Sequence[str]) -> None:
        """Messages are kept, numbered from ``first``. Runs where the commit is told, not in the
        coroutine that waited for it: that one may have been cancelled."""
        feed = self.feed
        if feed is None and self.attached is not None:  # its welcome is yet to come
            self.attached.last_seq = max(self.attached.last_seq, first + len(data) - 1)
        if feed is None or not data:
            return
        feed.source.head = max(feed.source.head, first + len(data) - 1)
        for seq, text in enumerate(data, first):
            frame = text if self.outbox.raw else frames.message_frame(seq, text)
            self.outbox.offer(feed, seq, frame)

    def take_pending(self) -> None:
        """Numbers what others left for the session, and sends it."""
        self.taker.take()

    def head_moved(self, last_seq: int) -> None:
        """Somebody has seen the session's head; what is not at hand is read."""
        feed = self.feed
        if feed is None or not self.consumer.resumable:
            return
        if last_seq > feed.source.head:
            feed.source.head = last_seq
            self.outbox.moved(feed)

    def tell_outcome(self, seq: int, outcome: str | None) -> None:
        """Acknowledges ``seq``, or nacks it, as its outcome says."""
        if self.plain:
            return
        if outcome is None:
            self.outbox.acknowledge(seq)
            return
        decoded = decode_outcome(outcome)
        if "nack" in decoded:
            nack = frames.encode(frames.Nack(seq=seq, **decoded["nack"]))
            self.outbox.acknowledge(seq, nack=nack)
        else:
            self.outbox.acknowledge(seq, decoded["result"], has_result=True)

    def control(self, frame: str) -> None:
        if not self.plain and not self.outbox.control(frame):
            self.close(CloseCode.SLOW_CONSUMER, "control frames wait")

    async def _transmit(self, data: str | bytes) -> bool:
        try:
            kind = "text" if isinstance(data, str) else "bytes"
            await self._send({"type": "websocket.send", kind: data})
        except (OSError, RuntimeError):
            # uvicorn raises ClientDisconnected (an OSError) or RuntimeError once the peer is gone;
            # the reader hears of it as websocket.disconnect.
            self.outbox.close()
            return False
        return True

    # --- the state machine --------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Something happened now."""
        effects = self.machine.handle(event, self._loop.time())
        if effects:
            self.perform(effects)

    def deadline_reached(self, now: float) -> None:
        """The node's timer: the machine's deadline has come, or it is time for a look."""
        stalled = now - self.outbox.progress_at > self.limits.progress_timeout
        if stalled and self.outbox.blocked and self.is_open:
            self.close(CloseCode.SLOW_CONSUMER, "no progress")
        self.perform(self.machine.handle(DEADLINE_REACHED, now))

    def perform(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            if isinstance(effect, SendPing):
                self.control(frames.encode(frames.Ping(effect.sent_at, effect.rtt)))
            elif isinstance(effect, SendClose):
                ours = self.plain and self.end_cause != "closed"  # not the application's choice
                code = plain_code(effect.code) if ours else effect.code
                self.node.spawn(self._send_close(code, effect.reason), self.context)
            elif isinstance(effect, DropTransport):
                self.drop()
            elif isinstance(effect, Reschedule):
                self.node.timers.schedule(self)

    # --- closing ------------------------------------------------------------------------------

    def close(self, code: int, reason: str = "", *, end: str | None = None) -> None:
        """Starts the close handshake; the first close wins. With ``end`` (a cause) the session
        ends with the connection."""
        if end is not None and self.end_cause is None:
            self.end_cause = end
        self.event(CloseRequested(int(code), reason))

    async def _send_close(self, code: int, reason: str) -> None:
        self.outbox.flush()
        if self.outbox.sending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await self.outbox.flushed()
        self.outbox.close()
        # Kept beyond the server's own limits: the message carries code and reason to the peer.
        with contextlib.suppress(OSError, RuntimeError):
            await self._send(
                {"type": "websocket.close", "code": code, "reason": cut_reason(reason)}
            )

    def drain_started(self, slot: float, close_in: float, reason: str) -> None:
        """Tells the client when to come back, and until when it may stay; seconds from now."""
        self.event(DRAIN_STARTED)
        frame = frames.Drain(round(slot * 1000), round(close_in * 1000), cut_reason(reason))
        self.control(frames.encode(frame))

    def drop(self) -> None:
        """Ends the transport without the peer: closing_timeout is over, or the node must stop."""
        drop = dropper(self.scope, self._send)
        if drop is not None:
            drop()
        self.reader.give_up()

    def superseded(self, by: str) -> None:
        """The session has a new owner in this process: at most copies leave from here on."""
        self.control(frames.encode(frames.Superseded(by)))
        self.close(CloseCode.SUPERSEDED, "superseded")

    def fenced(self) -> None:
        """A write was refused: the session is no longer ours. The database knows why."""
        if self.is_open and self.attached is not None:
            self.node.spawn(self.node.find_out([self], fenced=True))

    def handler_failed(self, error: Exception) -> None:
        self.node.django_thread.failed(error)
        logger.error("handler failed", exc_info=error, extra=self.extra())
        if self.plain:
            self.inbox.stop_taking()  # as in Channels: a consumer that failed handles nothing more
        if self.plain or self.limits.close_on_error or self.attached is None:
            self.close(CloseCode.INTERNAL_ERROR, "handler failed")
