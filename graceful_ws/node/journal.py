"""Group commit: everything that waits to be written goes into one transaction a round.

One writer, one thread. While a round commits, the next gathers: nothing waits when the node is
idle, and batches form by themselves under load. Entries stand in order; an entry can be withdrawn
until the writer takes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from graceful_ws.conf import settings
from graceful_ws.store.attach import Attach, attach_all
from graceful_ws.store.base import (
    JournalUnavailable,
    forget_connection,
    is_outage,
    probe,
)
from graceful_ws.store.entries import Entry, Fenced, Later
from graceful_ws.store.rounds import commit_all

from .health import Health
from .stats import Stats
from .threads import Threads
from .waiting import Item, Overloaded, Waiting, tell

logger = logging.getLogger("graceful_ws.journal")

LOCKED_ELSEWHERE = 0.01  # seconds before a row that somebody else holds is asked for again
STUCK = 15.0  # seconds after which a round under way counts as an outage
PATIENCE = 0.002  # seconds that an entry which nobody waits for lets others join its round
STOP_TIMEOUT = 1.0  # seconds for the round under way when the node stops
# Of text, after which a round takes no more entries. Thousands of large messages at once would be a
# statement that PostgreSQL refuses, or does not wait for: and the next try would be the same.
ROUND_BYTES = 4 * 1024 * 1024


class Journal:
    """The writer of one node. ``run`` must be running for anything to be kept."""

    def __init__(self, stats: Stats | None = None) -> None:
        self.stats = stats or Stats()
        self.health = Health()
        self.threads = Threads("writer", 1, 64)
        self.rounds = 0
        self.written = 0
        self._items: deque[Item] = deque()
        self._waiting: deque[Waiting] = deque()
        self._taken: list[Item | Waiting] = []  # of the round under way
        self._wake = asyncio.Event()
        self._patience: asyncio.TimerHandle | None = None
        self._space = asyncio.Event()
        self._space.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.bound = settings.journal_queue  # entries that wait before senders do
        self._loop = asyncio.get_running_loop()
        self._closed = False

    # --- what connections call ---------------------------------------------------------------

    def submit(
        self,
        entry: Entry,
        committed: Callable[[Any], None] | None = None,
        *,
        patient: bool = False,
    ) -> asyncio.Future[Any]:
        """Queues an entry and returns the future of its outcome. Without waiting for space: for
        what must be written whatever happens (completions, detaches). A ``patient`` one alone
        begins no round for ``PATIENCE`` seconds: others may come."""
        if self._closed:
            raise JournalUnavailable("the node has stopped")
        item = Item(entry, self._loop.create_future(), committed)
        if entry.refusable and self.health.is_open:
            item.future.set_exception(JournalUnavailable("the database does not answer"))
            return item.future
        self._items.append(item)
        self._idle.clear()
        if not patient:
            self._wake.set()
        elif self._patience is None and not self._wake.is_set():
            self._patience = self._loop.call_later(PATIENCE, self._wake.set)
        if len(self._items) >= self.bound:
            self._space.clear()
        return item.future

    async def write(self, entry: Entry, committed: Callable[[Any], None] | None = None) -> Any:
        """Queues an entry and waits for its commit. Cancelling withdraws it if the writer has not
        taken it; otherwise it is kept, and ``committed`` still runs.

        Raises Fenced when the session is no longer ours, JournalUnavailable while the database is
        away, or what the database says of the entry's data.
        """
        await self._space.wait()
        return await self.submit(entry, committed)

    async def attach(self, entry: Attach, wanted: Callable[[], bool]) -> Any:
        """Queues a hello; returns Attached. Raises OtherIdentity, StaleAttempt, JournalUnavailable
        after ``attach_timeout`` seconds, or Overloaded."""
        return await self.hello(entry, wanted)

    def hello(self, entry: Attach, wanted: Callable[[], bool]) -> asyncio.Future[Any]:
        """The same without waiting: the future is cancelled when ``wanted`` says no."""
        if self._closed:
            raise JournalUnavailable("the node has stopped")
        if len(self._waiting) >= settings.attach_queue:
            raise Overloaded
        waiting = Waiting(entry, self._loop.create_future(), wanted, self._loop.time())
        self._waiting.append(waiting)
        self._idle.clear()
        self._wake.set()
        return waiting.future

    @property
    def healthy(self) -> bool:
        return self.health.works.is_set()

    async def wait_healthy(self) -> None:
        """Returns when the last round reached the database: no handler starts while none does."""
        await self.health.works.wait()

    async def flush(self) -> None:
        """Returns when nothing waits."""
        await self._idle.wait()

    def __len__(self) -> int:
        return len(self._items) + len(self._waiting)

    # --- the writer --------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: takes all that waits, commits it, tells everybody, again."""
        try:
            await self._run()
        except asyncio.CancelledError:
            self._close()
            raise

    def _close(self) -> None:
        """Nobody writes any more: nobody may wait for it."""
        self._closed = True
        if self._patience is not None:
            self._patience.cancel()
        for item in [*self._taken, *self._items, *self._waiting]:
            if not item.future.done():
                item.future.cancel()
        self._taken = []
        self._items.clear()
        self._waiting.clear()
        self._idle.set()
        self._space.set()

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            self._wake.clear()
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
            attaches, items = self._take_attaches(), self._take_items()
            self._taken = [*attaches, *items]
            if self._items or self._waiting:
                self._wake.set()  # more than one round may take
            pause = 0.0
            try:
                if attaches:
                    pause = await self._attach_round(attaches)
                if items:
                    pause = max(pause, await self._round(items))
            except Exception as error:
                self._abandon(error)
                raise
            self._taken = []
            if not self._items and not self._waiting:
                self._idle.set()
            if len(self._items) < self.bound:
                self._space.set()
            if pause:
                await asyncio.sleep(pause)

    async def _wait_for_work(self) -> None:
        """Returns when something waits. While the database is away it is asked now and then all
        the same: handlers wait to hear that it is back."""
        while not self.healthy and not self._wake.is_set():
            await asyncio.sleep(self.health.probe_interval)
            try:
                await self.threads.run(probe)
            except Exception as error:
                await self._failed(error)
            else:
                self.health.succeeded()
        await self._wake.wait()

    def _take_items(self) -> list[Item]:
        taken: list[Item] = []
        size = 0
        while self._items and len(taken) < settings.round_entries and size < ROUND_BYTES:
            item = self._items.popleft()
            # What may have been written cannot be withdrawn: somebody has to be told.
            if not item.future.cancelled() or item.entry.perhaps is not None:
                taken.append(item)
                size += item.entry.size
        return taken

    def _take_attaches(self) -> list[Waiting]:
        now = self._loop.time()
        taken: list[Waiting] = []
        while self._waiting and len(taken) < settings.round_entries:
            waiting = self._waiting.popleft()
            if waiting.future.done():
                continue
            if not waiting.wanted():
                waiting.future.cancel()
            elif now - waiting.since > settings.attach_timeout:
                waiting.future.set_exception(JournalUnavailable("the hello waited too long"))
            else:
                taken.append(waiting)
        return taken

    async def _round(self, items: Sequence[Item]) -> float:
        outcomes = await self._outcomes(commit_all, [item.entry for item in items])
        again: list[Item] = []
        outage: BaseException | None = None
        later = False
        for item, outcome in zip(items, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                self.written += 1
                tell(item, outcome)
                if not item.future.done():
                    item.future.set_result(outcome)
            elif is_outage(outcome):
                outage = outcome
                again.append(item)
            elif isinstance(outcome, Later):
                later = True
                again.append(item)
            else:
                self.stats.fenced += isinstance(outcome, Fenced)
                if not item.future.done():
                    item.future.set_exception(outcome)
        if again:
            self._items.extendleft(reversed(again))
            self._wake.set()
        self.rounds += 1
        if outage is not None:
            return await self._failed(outage)
        self.health.succeeded()
        return LOCKED_ELSEWHERE if later and len(again) == len(items) else 0.0

    async def _attach_round(self, waiting: Sequence[Waiting]) -> float:
        outcomes = await self._outcomes(attach_all, [item.entry for item in waiting])
        outage: BaseException | None = None
        again: list[Waiting] = []
        for item, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, Later) or is_outage(outcome):
                if not isinstance(outcome, Later):
                    outage = outcome
                again.append(item)
            elif item.future.done():
                continue
            elif isinstance(outcome, BaseException):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)
        if again:
            self._waiting.extendleft(reversed(again))
            self._wake.set()
        if outage is not None:
            return await self._failed(outage)
        self.health.succeeded()
        return LOCKED_ELSEWHERE if again and len(again) == len(waiting) else 0.0

    async def _outcomes(
        self, function: Callable[[Any], list[Any]], entries: Sequence[Any]
    ) -> list[Any]:
        """Runs a round. One that the database neither finishes nor refuses for ``STUCK`` seconds
        counts as an outage while it lasts: messages are refused, no handler starts."""
        work = asyncio.ensure_future(self.threads.run(function, entries))
        self.stats.batch.observe(len(entries))
        begun = time.perf_counter()
        await asyncio.wait([work], timeout=STUCK)
        if not work.done():
            logger.warning("the database has not answered for %.0f s", STUCK)
            self.health.stuck = True
            self.health.works.clear()
            self._fail_fast()
        try:
            return await work
        finally:
            self.stats.commit.observe(time.perf_counter() - begun)
            self.health.stuck = False

    # --- while the database does not answer --------------------------------------------------

    async def _failed(self, error: BaseException) -> float:
        """Notes a failed round; returns how long to pause before the next, in seconds."""
        if self.health.failed(error):
            await self.threads.run(forget_connection)
        if self.health.is_open:
            self._fail_fast()
        return self.health.pause

    def _fail_fast(self) -> None:
        """The breaker is open: messages are refused, what must not be lost stays queued."""
        kept: deque[Item] = deque()
        for item in self._items:
            if item.entry.refusable and item.entry.perhaps is None:
                if not item.future.done():
                    item.future.set_exception(JournalUnavailable("the database does not answer"))
            else:
                kept.append(item)
        self._items = kept
        if len(kept) < self.bound:
            self._space.set()  # who waits for space is refused, too

    def _abandon(self, error: Exception) -> None:
        """A defect ended the round under way; nobody may wait for it for ever."""
        for item in self._taken:
            if not item.future.done():
                item.future.set_exception(error)
        self._taken = []
        self._wake.set()

    async def stop(self) -> None:
        """Ends the writer's thread; what still waits is not written."""
        self._close()
        await self.threads.stop(STOP_TIMEOUT)
