"""The way from what is queued for one client to its socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import join
from graceful_ws.core.transitions import FRAME_SENT, MESSAGE_SENT, CloseRequested, Event

from .flusher import Flusher
from .queued import Message, Queued

logger = logging.getLogger("graceful_ws.connection")

Write = Callable[[bytes], bool]  # as graceful_ws.servers has it


class Sending:
    """What is queued leaves in order: at the end of the event loop's turn, by ``write``, as long as
    the socket takes it at once; otherwise by a task that awaits ``transmit``."""

    __slots__ = (
        *("_due", "_event", "_flusher", "_next", "_open", "_queued", "_sender", "_spawn"),
        *("_transmit", "_write"),
    )

    def __init__(
        self,
        transmit: Callable[[str | bytes], Awaitable[bool]],
        event: Callable[[Event], None],
        spawn: Callable[[Any], asyncio.Task[Any]],
        flusher: Flusher,
        *,
        raw: bool,
        write: Write | None,
    ) -> None:
        self._transmit = transmit
        self._write = write
        self._event = event
        self._flusher = flusher
        self._spawn = spawn
        self._queued = Queued(raw=raw)
        self._next: Message | None = None  # taken from what is queued, and not sent yet
        self._due = False  # the flusher will call
        self._sender: asyncio.Task[None] | None = None  # while the socket makes it wait
        self._open = True

    @property
    def raw(self) -> bool:
        """A plain client: data without frames, numbers or acknowledgements."""
        return self._queued.raw

    def make_raw(self) -> None:
        """The client turned out to be a plain one."""
        self._queued.raw = True

    @property
    def sending(self) -> bool:
        """True while the socket makes something wait."""
        return self._sender is not None

    async def flushed(self) -> None:
        """Returns when what is queued now has been sent, or the connection is over."""
        self.flush()
        while self._open and self._sender is not None:
            await asyncio.wait([self._sender])
            self.flush()

    def _wake(self) -> None:
        if self._sender is None and not self._due:
            self._due = True
            self._flusher.ask(self)

    def flush(self) -> None:
        """Sends what waits, as long as the socket takes it at once; a task sends the rest."""
        self._due = False
        write = self._write
        while self._sender is None and (message := self._take()) is not None:
            frames, application = message
            try:
                sent = write is not None and write(self._flusher.encoded(frames))
            except Exception:
                logger.exception("a message cannot be sent")
                return self._cannot_send()
            if sent:
                self._was_sent(application)
            else:
                self._progressed(application)
                self._sender = self._spawn(self._send_all())
                self._sender.add_done_callback(self._sender_ended)

    def _take(self) -> Message | None:
        """What goes next, until it was sent."""
        if self._next is None and self._open and self._queued:
            self._next = self._queued.take()
        return self._next

    async def _send_all(self) -> None:
        while (message := self._take()) is not None and await self._transmit(join(message[0])):
            self._was_sent(message[1])

    def _sender_ended(self, task: asyncio.Task[None]) -> None:
        # Not in a finally of the task: one that is cancelled before it began has none.
        self._sender = None
        if not task.cancelled() and task.exception() is not None:
            self._cannot_send()
        elif self._open and (self._next is not None or self._queued):
            self._wake()

    def _cannot_send(self) -> None:
        """What is next would fail again, and nothing may pass it: the client has to come back."""
        self.close()
        self._event(CloseRequested(CloseCode.INTERNAL_ERROR, "cannot send"))

    def _was_sent(self, application: bool) -> None:
        self._next = None
        self._event(MESSAGE_SENT if application else FRAME_SENT)
        self._progressed(application)

    def _progressed(self, application: bool) -> None:
        """Something was sent, or is on its way; was an application message in it?"""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more is sent."""
        self._open = False
        self._queued.clear()
        self._next = None
        if self._sender is not None:
            self._sender.cancel()
