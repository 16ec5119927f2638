"""Streams on their way to the connections of one node.

A stream is read once for all its followers. What the layer or this process says of it hurries
things on; what the database says at each look is the truth. A message whose number is the next goes
to every follower that stands there; in every other case followers read for themselves, from the
last messages kept here or from the database (``graceful_ws.node.outbox``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graceful_ws.core.window import Hole, check_page
from graceful_ws.envelopes import stream_group
from graceful_ws.store import streams
from graceful_ws.store.streams import Tip

from .source import Kept, StreamSource
from .threads import OUTAGES, Threads

if TYPE_CHECKING:
    from .backplane import Backplane
    from .outbox import Outbox

logger = logging.getLogger("graceful_ws.hub")

PAGE_ROWS = 500
LINGER = 30.0  # seconds that a stream without followers is still listened to
WAIT = 0.05  # seconds for what the layer brings out of order


class Hub:
    """The streams that this node's connections follow."""

    def __init__(
        self, backplane: Backplane, readers: Threads, services: Threads, spawn: Any
    ) -> None:
        self.sources: dict[str, StreamSource] = {}
        self._backplane = backplane
        self._readers = readers  # of pages
        self._services = services
        self._spawn = spawn
        self._kept = Kept()
        self._names: dict[str, str] = {}  # of the groups
        self._unsure: set[str] = set()  # streams to look at soon
        self._looking: asyncio.Task[None] | None = None

    # --- followers ----------------------------------------------------------------------------

    def follow(self, outbox: Outbox, name: str, tip: Tip, position: int) -> None:
        """Sends a stream to a connection from behind ``position`` on, a number of ``tip.epoch``."""
        source = self.sources.get(name)
        if source is not None:
            source.left_at = None
        if source is None:
            source = self.sources[name] = StreamSource(name, tip, self._readers, self._kept)
            group = stream_group(name)
            self._names[group] = name
            self._backplane.join(group)
            self.look(name)  # what came before the group was joined
        elif source.epoch != tip.epoch:
            # One of both has missed that the numbers began anew; the database knows which.
            self.look(name)
            source.followers[outbox] = feed = outbox.add(source, source.head)
            outbox.gap(feed, "epoch")
            return
        source.followers[outbox] = outbox.add(source, position, head=tip.head)
        self._want(source, tip.head)

    def leave(self, outbox: Outbox, name: str) -> None:
        """A connection follows a stream no longer."""
        source = self.sources.get(name)
        outbox.remove(name)
        if source is not None and source.followers.pop(outbox, None) is not None:
            self._followed_less(source)

    def forget(self, outbox: Outbox) -> None:
        """A connection is over."""
        for name in [name for name in outbox.feeds if name is not None]:
            self.leave(outbox, name)

    def _followed_less(self, source: StreamSource) -> None:
        if not source.followers:
            loop = asyncio.get_running_loop()
            source.left_at = loop.time()

    def drop_unfollowed(self, now: float) -> None:
        """Streams that nobody has followed for a while; called by the node's round."""
        for name, source in list(self.sources.items()):
            if source.left_at is not None and now - source.left_at >= LINGER:
                del self.sources[name]
                source.keep_nothing()
                self._unsure.discard(name)
                if source.repair is not None:
                    source.repair.cancel()
                group = stream_group(name)
                del self._names[group]
                self._backplane.leave(group)

    # --- news ---------------------------------------------------------------------------------

    def hear(self, name: str, epoch: str, first: int, head: int, data: Sequence[str]) -> None:
        """Somebody numbered ``first`` to ``head``; ``data`` may be missing, and is then read."""
        source = self.sources.get(name)
        if source is None:
            return
        if epoch != source.epoch:
            self.look(name)
            return
        if source.contradicts(first, data):
            self._contradicted(source)
            return
        if first <= source.head + 1:
            for seq, text in enumerate(data, first):
                if seq == source.head + 1:
                    source.deliver(seq, text)
        self._want(source, head)

    def _want(self, source: StreamSource, head: int) -> None:
        source.wanted = max(source.wanted, head)
        if source.head < source.wanted and source.repair is None:
            source.repair = self._spawn(self._repair(source))
            source.repair.add_done_callback(lambda task: self._repaired(source, task))

    def _repaired(self, source: StreamSource, task: asyncio.Task[None]) -> None:
        source.repair = None
        if not task.cancelled() and self.sources.get(source.name) is source:
            self._want(source, source.wanted)

    async def _repair(self, source: StreamSource) -> None:
        """Reads what is missing, once for all followers."""
        await asyncio.sleep(WAIT * random.uniform(0.5, 1.0))
        try:
            while source.head < source.wanted:
                epoch, after, wanted = source.epoch, source.head, source.wanted
                rows = await source.page(after, PAGE_ROWS)
                if source.epoch != epoch:
                    continue
                # More may have come by the layer while the page was read.
                fresh = [row for row in rows if row[0] > source.head]
                try:
                    if not rows or fresh:
                        check_page(source.head, wanted, [seq for seq, _ in fresh])
                except Hole:
                    # Cut away before it was read here: each follower learns how much it misses.
                    self._skip(source, wanted)
                    continue
                for seq, data in fresh:
                    source.deliver(seq, data)
        except OUTAGES as error:
            logger.warning("cannot read %r: %s", source.name, error)
            await asyncio.sleep(1.0)

    def _skip(self, source: StreamSource, head: int) -> None:
        assert source.epoch is not None
        wanted = max(source.wanted, head)
        source.jump(Tip(source.epoch, head))
        source.wanted = wanted
        for outbox, feed in source.followers.items():
            outbox.moved(feed)

    # --- the truth ----------------------------------------------------------------------------

    def look(self, name: str) -> None:
        """Asks the database soon where a stream stands."""
        self._unsure.add(name)
        if self._looking is None:
            self._looking = self._spawn(self._look())
            self._looking.add_done_callback(self._looked)

    def look_at(self, group: str) -> None:
        """The same for the stream of a group."""
        name = self._names.get(group)
        if name is not None:
            self.look(name)

    def look_at_all(self) -> None:
        for name in self.sources:
            self.look(name)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if self._unsure and not task.cancelled():
            self.look(self._unsure.pop())

    async def _look(self) -> None:
        names, self._unsure = self._unsure, set()
        try:
            await self.compare([name for name in names if name in self.sources])
        except OUTAGES as error:
            logger.warning("cannot look at streams: %s", error)
            await asyncio.sleep(1.0)
            self._unsure |= names

    async def compare(self, names: Sequence[str] | None = None) -> None:
        """Compares what is known here with the database; all streams unless some are named."""
        asked = list(self.sources if names is None else names)
        if not asked:
            return
        before = {name: (self.sources[name], self.sources[name].head) for name in asked}
        found = await self._services.run(streams.tips, asked)
        for name in asked:
            source, head = before[name]
            tip = found.get(name)
            if self.sources.get(name) is not source:
                continue  # followed anew since: another look is on its way
            if tip is None:
                await self._services.run(
                    streams.create, [name]
                )  # cleared away, or another database
                self.look(name)
            elif tip.epoch != source.epoch:
                self._rotated(source, tip)
            elif tip.head < head:
                await self._behind(source, tip, head)
            else:
                self._want(source, tip.head)

    async def _behind(self, source: StreamSource, tip: Tip, seen: int) -> None:
        """The database knows less than this node has delivered: it is an older one."""
        logger.error(
            "stream %r stands at %d, and was at %d: was the database restored? Its numbers begin"
            " anew; run manage.py rotate_epochs after a restore",
            source.name,
            tip.head,
            seen,
        )
        await self._services.run(streams.rotate_if_behind, source.name, tip.epoch, seen)
        self.look(source.name)

    def _contradicted(self, source: StreamSource) -> None:
        """A number came a second time, with another message: the database was restored, and has
        grown past what was seen before."""
        if source.rotating is None:
            logger.error("stream %r: numbers are given again; they begin anew", source.name)
            source.rotating = self._spawn(self._rotate(source.name, source.epoch))
            source.rotating.add_done_callback(lambda _: setattr(source, "rotating", None))

    async def _rotate(self, name: str, epoch: str | None) -> None:
        while True:
            try:
                await self._services.run(streams.rotate, name, epoch)
                break
            except OUTAGES as error:
                logger.warning("cannot rotate the epoch of %r: %s", name, error)
                await asyncio.sleep(1.0)
        self.look(name)

    def _rotated(self, source: StreamSource, tip: Tip) -> None:
        """The stream's numbers mean something else now; followers go on behind its head."""
        logger.warning("stream %r has a new epoch", source.name)
        source.jump(tip)
        for outbox, feed in list(source.followers.items()):
            outbox.gap(feed, "epoch")
