"""One stream as its node knows it, and the last of its messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from graceful_ws.core.frames import stream_frame
from graceful_ws.store import streams
from graceful_ws.store.streams import Tip

from .threads import Threads

if TYPE_CHECKING:
    from .feed import Feed
    from .outbox import Outbox

RING_BYTES = 256 * 1024  # of the last messages of one stream
RING_ROWS = 1024
KEPT_BYTES = 64 * 1024 * 1024  # of the last messages of all streams


class Kept:
    """The streams that keep messages, those with news last, and what it takes in all."""

    def __init__(self) -> None:
        self.bytes = 0
        self.sources: dict[StreamSource, None] = {}

    def news(self, source: StreamSource, size: int) -> None:
        self.bytes += size
        self.sources.pop(source, None)
        self.sources[source] = None
        while self.bytes > KEPT_BYTES:
            next(iter(self.sources)).keep_nothing()


class StreamSource:
    """A ``Source`` of every follower's outbox: all of them read it through here."""

    def __init__(self, name: str, tip: Tip, readers: Threads, kept: Kept) -> None:
        self.name = name
        self.epoch: str | None = tip.epoch
        self.head = tip.head  # followers have been told of everything up to here
        self.wanted = tip.head  # and the database is known to have everything up to here
        self.followers: dict[Outbox, Feed] = {}
        self.repair: asyncio.Task[None] | None = None
        self.rotating: asyncio.Task[None] | None = None
        self.left_at: float | None = None  # when the last follower went
        self._quoted = msgspec.json.encode(name).decode()
        self._readers = readers
        self._ring: deque[tuple[int, str]] = deque()
        self._ring_bytes = 0
        self._kept = kept
        self._reading: dict[tuple[int, int], asyncio.Task[list[tuple[int, str]]]] = {}

    def frame(self, seq: int, data: str) -> str:
        return stream_frame(self._quoted, seq, data)

    def deliver(self, seq: int, data: str) -> None:
        """The next message, to every follower. Waits for nobody."""
        self.head = seq
        self.wanted = max(self.wanted, seq)
        self._keep(seq, data)
        frame = self.frame(seq, data)
        for outbox, feed in self.followers.items():
            outbox.offer(feed, seq, data if outbox.raw else frame)

    def _keep(self, seq: int, data: str) -> None:
        ring = self._ring
        ring.append((seq, data))
        size = len(data)
        while len(ring) > RING_ROWS or (self._ring_bytes + size > RING_BYTES and len(ring) > 1):
            size -= len(ring.popleft()[1])
        self._ring_bytes += size
        self._kept.news(self, size)

    def keep_nothing(self) -> None:
        """Followers read what they miss from the database."""
        self._kept.bytes -= self._ring_bytes
        self._kept.sources.pop(self, None)
        self._ring.clear()
        self._ring_bytes = 0

    def jump(self, tip: Tip) -> None:
        """The stream stands elsewhere: followers find their own way, or a gap."""
        self.epoch, self.head, self.wanted = tip.epoch, tip.head, tip.head
        self.keep_nothing()

    def contradicts(self, first: int, data: Sequence[str]) -> bool:
        """Whether other messages had these numbers here: the database is not the one it was."""
        ring = self._ring
        if not ring or first > ring[-1][0]:
            return False
        mine = dict(ring)
        return any(mine.get(seq, text) != text for seq, text in enumerate(data, first))

    async def read(self, after: int, rows: int) -> list[tuple[int, str]]:
        """Messages behind ``after``; many followers that stand there ask the database once."""
        ring = self._ring
        if ring and ring[0][0] <= after + 1 <= ring[-1][0]:
            first = after + 1 - ring[0][0]
            return list(islice(ring, first, first + rows))
        key = (after, rows)
        reading = self._reading.get(key)
        if reading is None:
            reading = asyncio.ensure_future(self._readers.run(streams.page, self.name, *key))
            self._reading[key] = reading
            reading.add_done_callback(lambda task: self._read(key, task))
        return await asyncio.shield(reading)

    def _read(self, key: tuple[int, int], task: asyncio.Task[list[tuple[int, str]]]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it; nobody may

    async def page(self, after: int, rows: int) -> list[tuple[int, str]]:
        return await self._readers.run(streams.page, self.name, after, rows)
