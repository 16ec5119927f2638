"""What goes to one client: control frames at once, numbered messages strictly by number.

Every sequence that a connection receives is a ``Feed``: a source that knows its head and can be
read, and a cursor. A message that commits while its feed stands right before it goes straight to
the socket. In every other case (a resume, a full window, a message that came early) it is not kept
here at all: one loop reads the feed from the journal until it stands at the head again. Resume,
spill and repair are this one loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from graceful_ws.conf import settings
from graceful_ws.core.frames import Gap, encode
from graceful_ws.core.transitions import Event
from graceful_ws.core.window import Hole, SendWindow, check_page

from .bell import Bell
from .feed import Feed, Source
from .flusher import Flusher
from .sending import Sending, Write
from .stats import Stats

logger = logging.getLogger("graceful_ws.connection")

PAGE_ROWS = 256
READ_AGAIN = 1.0  # seconds after a page that could not be read
PAGE_BYTES = 1024 * 1024


class Outbox(Sending):
    """The sending half of one connection; nothing here waits for another one. ``transmit`` sends
    one WebSocket message; ``write``, where the server has it, sends a whole frame at once or says
    that it cannot. ``event`` is told of each that was sent, ``on_gap`` of every gap."""

    __slots__ = (
        *("_next_size", "_on_gap", "_reader", "_replay_rows", "_room", "_stats", "_time"),
        *("feeds", "progress_at", "window"),
    )

    def __init__(
        self,
        transmit: Callable[[str | bytes], Awaitable[bool]],
        event: Callable[[Event], None],
        on_gap: Callable[[Gap], None],
        spawn: Callable[[Any], asyncio.Task[Any]],
        flusher: Flusher,
        stats: Stats,
        *,
        replay_rows: int,
        raw: bool = False,
        write: Write | None = None,
    ) -> None:
        super().__init__(transmit, event, spawn, flusher, raw=raw, write=write)
        self.window = SendWindow(settings.send_window, settings.send_window_bytes)
        self.feeds: dict[str | None, Feed] = {}
        self._time = asyncio.get_running_loop().time
        self.progress_at = self._time()
        self._stats = stats
        self._on_gap = on_gap
        self._replay_rows = replay_rows
        self._reader: asyncio.Task[None] | None = None
        self._room = Bell()
        self._next_size = 0  # of the frame that found no room

    # --- in -----------------------------------------------------------------------------------

    def control(self, frame: str) -> bool:
        """Queues a control frame. False when too many wait: the client takes nothing."""
        if not self._open:
            return True
        if self._queued.control >= settings.control_frames:
            return False
        self._queued.put(frame, False)
        self._wake()
        return True

    def plain(self, text: str | bytes) -> bool:
        """Queues an unnumbered application message: a volatile, or anything for a plain client.
        False when the connection is over."""
        if self._open:
            self._stats.messages_out += 1
            self._queued.put(text, True)
            self._wake()
        return self._open

    @property
    def crowded(self) -> bool:
        """True when unnumbered messages should wait or be dropped."""
        window, queued = self.window, self._queued
        return len(queued) >= window.max_messages or queued.bytes >= window.max_bytes

    async def wait_uncrowded(self) -> None:
        """Returns when there is room for an unnumbered message, or the connection is over."""
        while self._open and self.crowded:
            await self._room.wait()

    async def say(self, text: str | bytes) -> None:
        """``plain`` when there is room. Who sends without end lets others have their turn."""
        await self.wait_uncrowded()
        if not self.plain(text):
            await asyncio.sleep(0)

    async def wait_window(self, size: int) -> None:
        """Returns when a numbered message of ``size`` bytes may go, or the connection is over."""
        while self._open and not self.window.has_room(size):
            await self._room.wait()
        if not self._open:
            await asyncio.sleep(0)

    def acknowledge(
        self, seq: int, result: Any = None, *, has_result: bool = False, nack: str | None = None
    ) -> None:
        """Acknowledges up to ``seq``; acks that wait are merged. A ``nack`` frame goes first."""
        if not self._open:
            return
        self._queued.acknowledge(seq, nack)
        if has_result:
            self._queued.result(seq, result)
        self._wake()

    def add(self, source: Source, position: int, *, head: int = 0) -> Feed:
        """Starts sending a sequence behind ``position``. The database may have more than the source
        knows of yet: everything up to ``head``."""
        feed = self.feeds[source.name] = Feed(source, self.window, position)
        if position > max(source.head, head):
            self.gap(feed, "ahead")
        elif feed.behind:
            self._catch_up()
        return feed

    def remove(self, name: str | None) -> None:
        feed = self.feeds.pop(name, None)
        if feed is not None:
            feed.cursor.skip(feed.cursor.position)  # what was on its way frees the window
            self._room.ring()

    def offer(self, feed: Feed, seq: int, frame: str) -> None:
        """A message has committed. Its source's head already counts it."""
        if not self._open or seq <= feed.cursor.position:
            return
        if seq == feed.cursor.position + 1 and self._has_room(len(frame)):
            self._send(feed, seq, frame)
            self._wake()
        else:
            self._catch_up()

    def _send(self, feed: Feed, seq: int, frame: str) -> None:
        feed.cursor.advance(seq, len(frame))
        self._stats.messages_out += 1
        if self._queued.raw:
            feed.cursor.ack(seq)  # nobody will
            feed.acked_epoch = feed.source.epoch
        self._queued.put(frame, True)

    def _has_room(self, size: int) -> bool:
        return not self.crowded if self._queued.raw else self.window.has_room(size)

    def moved(self, feed: Feed) -> None:
        """The head of the feed's source has moved, and the messages are not at hand."""
        if self._open and feed.behind:
            self._catch_up()

    def client_acked(self, name: str | None, seq: int) -> bool:
        """The client's application has everything up to ``seq``; whether that was news. Raises
        ProtocolError."""
        feed = self.feeds.get(name)
        if feed is None:
            return False
        if feed.cursor.position < seq <= feed.source.head and not feed.cursor.is_old(seq):
            feed.cursor.jump(seq)  # it came over the connection before, after the hello
            feed.acked_epoch = feed.source.epoch
            self._room.ring()
            return True
        if not feed.cursor.ack(seq):
            return False
        feed.acked_epoch = feed.source.epoch
        self.progress_at = self._time()
        self._room.ring()
        return True

    def gap(self, feed: Feed, reason: str, oldest: int | None = None) -> None:
        """Tells the client that messages are missing; both cursors then stand at the head."""
        source, cursor = feed.source, feed.cursor
        frame = Gap(
            reason=reason,
            head=source.head,
            stream=source.name,
            # Numbers of another epoch, or of a lost database, say nothing to anybody.
            from_=None if reason in ("epoch", "ahead") else cursor.position + 1,
            oldest=oldest,
            epoch=source.epoch,
        )
        cursor.skip(source.head)
        self._stats.gaps[reason] += 1
        if not self.raw:
            self._queued.put(encode(frame), False)
            self._wake()
        self._on_gap(frame)

    # --- out ----------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """True while something cannot go because the client takes nothing, or acknowledges
        nothing; not while the journal is what is waited for."""
        # What is due has not been tried yet: a burst after a long silence is no stall.
        return self._sender is not None or (self._spilling and not self._due)

    @property
    def _spilling(self) -> bool:
        return not self._has_room(self._next_size) and any(
            feed.behind for feed in self.feeds.values()
        )

    def _was_sent(self, application: bool) -> None:
        super()._was_sent(application)
        self._room.ring()

    def _progressed(self, application: bool) -> None:
        # Pings that leave are no progress of a client that acknowledges nothing: a server without
        # back-pressure takes them always.
        if application or not self._spilling:
            self.progress_at = self._time()

    # --- reading what is not at hand ----------------------------------------------------------

    def _catch_up(self) -> None:
        if self._reader is None:
            self._reader = self._spawn(self._read_all())
            self._reader.add_done_callback(self._read)

    def _read(self, task: asyncio.Task[None]) -> None:
        self._reader = None
        if self._open and any(feed.behind for feed in self.feeds.values()):
            self._catch_up()

    async def _read_all(self) -> None:
        rows = 64
        try:
            while self._open:
                behind = [feed for feed in self.feeds.values() if feed.behind]
                if not behind:
                    return
                for feed in behind:
                    while self._open and not self._has_room(self._next_size):
                        await self._room.wait()
                    if self._open and self.feeds.get(feed.source.name) is feed:
                        rows = await self._read_page(feed, rows)
        except Exception as error:
            logger.warning("reading the journal failed: %s", error)
            await asyncio.sleep(READ_AGAIN)

    async def _read_page(self, feed: Feed, limit: int) -> int:
        """Reads one page and queues what the window lets go. Returns the next page's rows."""
        source, cursor = feed.source, feed.cursor
        head = source.head
        if head - cursor.position > self._replay_rows:
            self.gap(feed, "too_far")
            return limit
        self._next_size = 0
        epoch = source.epoch
        read = await source.read(cursor.position, limit)
        # From here to the end nothing waits: what is compared stays true. The cursor may have
        # moved while the page was read, by messages that came live.
        if not self._open or self.feeds.get(source.name) is not feed or source.epoch != epoch:
            return limit
        page = [row for row in read if row[0] > cursor.position]
        if read and not page:
            return limit  # the cursor has passed the whole page; the next may be there yet
        try:
            check_page(cursor.position, head, [seq for seq, _ in page])
        except Hole as hole:
            self.gap(feed, "trimmed", hole.oldest)
            return limit
        size = 1
        for seq, data in page:
            frame = data if self.raw else source.frame(seq, data)
            size += len(frame)
            if not self._has_room(len(frame)):
                self._next_size = len(frame)
                break
            self._send(feed, seq, frame)
            self._stats.replayed += 1
        if self._queued:
            self._wake()
        return max(1, min(PAGE_ROWS, PAGE_BYTES * max(1, len(page)) // size))

    def close(self) -> None:
        """The connection is over: nothing more is sent, nobody waits here any longer."""
        super().close()
        self._room.ring()
        if self._reader is not None:
            self._reader.cancel()
