"""What one client sends, from the ASGI event to the inbox, the outbox or a close."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from graceful_ws.core import frames
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import ProtocolError
from graceful_ws.core.transitions import (
    FRAME_RECEIVED,
    MESSAGE_RECEIVED,
    PongReceived,
)
from graceful_ws.servers import is_closing

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.connection")
RETRY_AFTER = 1.0  # seconds that a client closed 4201 is told to stay away, at least
LONGEST = 300.0  # and at most: clients believe no more


class Reader:
    """Reads as long as there is a transport. It never stops for a slow handler: pongs stand behind
    application frames in the same byte stream. Only plain clients are made to wait."""

    __slots__ = ("_live", "_lost", "_receive", "_task", "last_event")

    def __init__(self, live: LiveConnection, receive: Any) -> None:
        self._live = live
        self._receive = receive
        self._task: asyncio.Task[Any] | None = None
        self._lost = False
        self.last_event: dict[str, Any] | None = None  # what the server said of the end

    def give_up(self) -> None:
        """The transport is not worth waiting for any longer."""
        self._lost = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> int:
        """Reads until the transport is gone; returns the close code as the server reports it."""
        self._task = asyncio.current_task()
        try:
            while not self._lost:
                event = await self._receive()
                if event["type"] == "websocket.receive":
                    await self._received(event)
                elif event["type"] == "websocket.disconnect":
                    self.last_event = event
                    if is_closing(self._live.scope):
                        await self._receive()
                    code = event.get("code")
                    return CloseCode.NO_STATUS if code is None else int(code)
            return CloseCode.ABNORMAL
        except asyncio.CancelledError:
            if not self._lost or self._task is None:
                raise
            self._task.uncancel()
            return CloseCode.ABNORMAL
        finally:
            self._task = None

    async def _received(self, event: dict[str, Any]) -> None:
        if not self._live.is_open:
            return
        text = event.get("text")
        try:
            if self._live.plain:
                await self._received_plain(text, event.get("bytes"))
            elif text is None:
                raise ProtocolError(CloseCode.UNSUPPORTED_DATA, "binary data")
            else:
                self._received_frames(text)
        except ProtocolError as error:
            logger.info("protocol error: %s", error, extra=self._live.extra())
            if error.code == CloseCode.LIMIT_EXCEEDED:
                self._tell_limit(error.reason)
            self._live.close(error.code, error.reason)

    def _tell_limit(self, detail: str) -> None:
        """A new connection has a new bucket: so it is told to come when this one is full again."""
        bucket = self._live.inbox.bucket
        seconds = 0.0 if bucket is None else bucket.full_in(monotonic())
        after = round(min(max(seconds, RETRY_AFTER), LONGEST) * 1000)
        self._live.control(frames.encode(frames.Error("rate", detail, retry_after=after)))

    async def _received_plain(self, text: str | None, data: bytes | None) -> None:
        self._live.event(MESSAGE_RECEIVED)
        self._live.node.stats.messages_in += 1
        if text is not None:
            self._check_size(text, self._live.limits.message_bytes)
        call = self._live.application.plain_call(text, data)
        if self._live.inbox.bucket is not None:
            await self._live.inbox.wait_token()
        await self._live.inbox.wait_uncrowded()
        self._live.inbox.call(call)

    def _received_frames(self, text: str) -> None:
        hello_due = self._live.hello_due
        size = self._check_size(
            text, self._live.limits.hello_bytes if hello_due else self._live.limits.message_bytes
        )
        decoded = frames.decode(text)
        for frame in decoded:
            if not self._live.is_open:
                return
            if type(frame) is frames.ClientMessage and self._live.welcomed:
                self._live.event(MESSAGE_RECEIVED)
                self._live.node.stats.messages_in += 1
                self._live.inbox.receive(frame.seq, frame.data, size // len(decoded))
            else:
                self._control_frame(frame)

    def _control_frame(self, frame: frames.ClientFrame) -> None:
        if isinstance(frame, frames.Hello):
            if not self._live.hello_due:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a second hello")
            self._live.event(FRAME_RECEIVED)
            _check_hello(frame)
            self._live.hello(frame)
            return
        if not self._live.welcomed:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"{type(frame).__name__} before welcome")
        if isinstance(frame, frames.Pong):
            awaited = self._live.machine.awaits(frame.sent_at)
            self._live.event(PongReceived(frame.sent_at))
            if awaited and (measured := self._live.machine.rtt) is not None:
                self._live.node.stats.rtt.observe(measured)
            if not self._acked(frame.seq, frame.streams) and not awaited:
                self._live.inbox.charge()
        elif isinstance(frame, frames.ClientAck):
            self._live.event(FRAME_RECEIVED)
            if not self._acked(frame.seq, frame.streams):
                self._live.inbox.charge()
        elif isinstance(frame, frames.ClientPing):
            self._live.event(FRAME_RECEIVED)
            self._live.inbox.charge()
            if abs(frame.sent_at) > frames.MAX_SEQ:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "sent_at out of bounds")
            self._live.control(frames.encode(frames.ServerPong(frame.sent_at)))
        elif isinstance(frame, frames.ClientVolatile):
            self._live.event(MESSAGE_RECEIVED)
            self._live.node.stats.messages_in += 1
            self._live.inbox.charge()
            if not self._live.inbox.crowded:
                content = self._live.application.content_of(frame.data)
                consumer = self._live.consumer
                self._live.inbox.call(lambda: consumer.receive_volatile(content))
        elif isinstance(frame, frames.Bye):
            self._live.close(CloseCode.NORMAL, "bye", end="bye")

    def _acked(self, seq: int | None, streams: dict[str, int]) -> bool:
        """Whether that was news."""
        news = seq is not None and self._live.outbox.client_acked(None, seq)
        for name, number in streams.items():
            news = self._live.outbox.client_acked(name, number) or news
        return news

    def _check_size(self, text: str, limit: int) -> int:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > limit:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"{size} bytes, at most {limit}")
        return size


def _check_hello(hello: frames.Hello) -> None:
    if hello.version != frames.VERSION:
        raise ProtocolError(CloseCode.VERSION, f"this server speaks version {frames.VERSION}")
    numbers = (hello.attempt, hello.last_seq_id or 0, hello.pending_from or 1)
    named = 1 <= len(hello.instance) <= 64 and "\0" not in hello.instance  # PostgreSQL refuses it
    if not (named and all(0 <= n <= frames.MAX_SEQ for n in numbers)):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "hello out of bounds")
