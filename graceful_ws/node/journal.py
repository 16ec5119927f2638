"""Group commit: everything that waits to be written goes into one transaction a round.

One writer, one thread. While a round commits, the next gathers: nothing waits when the node is
idle, and batches form by themselves under load. Entries stand in order; an entry can be withdrawn
until the writer takes it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from graceful_ws.conf import settings
from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.retry import DATABASE_RETRIES
from graceful_ws.store.attach import Attach, attach_all
from graceful_ws.store.base import (
    JournalUnavailable,
    forget_connection,
    is_conflict,
    is_locked,
    is_outage,
    probe,
)
from graceful_ws.store.entries import Entry, Later
from graceful_ws.store.rounds import commit_all

from .threads import Threads
from .waiting import Item, Overloaded, Waiting, tell

logger = logging.getLogger("graceful_ws.journal")

SLOW_NOT_FAILED = 30.0  # seconds for which "database is locked" is only slow
LOCKED_ELSEWHERE = 0.01  # seconds before a row that somebody else holds is asked for again
STUCK = 15.0  # seconds after which a round under way counts as an outage
STOP_TIMEOUT = 1.0  # seconds for the round under way when the node stops
PROBE_INTERVAL = 1.0  # seconds between tries while the database is away


class Journal:
    """The writer of one node. ``run`` must be running for anything to be kept."""

    def __init__(self) -> None:
        self.breaker = Breaker(failures=10, open_for=PROBE_INTERVAL / 2, probes=1)
        self.threads = Threads("writer", 1, 64)
        self.rounds = 0
        self.written = 0
        self._items: deque[Item] = deque()
        self._waiting: deque[Waiting] = deque()
        self._taken: list[Item | Waiting] = []  # of the round under way
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failing_since: float | None = None
        self._failures = 0
        self._stuck = False
        self._closed = False

    # --- what connections call ---------------------------------------------------------------

    def submit(
        self, entry: Entry, committed: Callable[[Any], None] | None = None
    ) -> asyncio.Future[Any]:
        """Queues an entry and returns the future of its outcome. Without waiting for space: for
        what must be written whatever happens (completions, detaches)."""
        if self._closed:
            raise JournalUnavailable("the node has stopped")
        item = Item(entry, asyncio.get_running_loop().create_future(), committed)
        if entry.refusable and self._is_open():
            item.future.set_exception(JournalUnavailable("the database does not answer"))
            return item.future
        self._items.append(item)
        self._idle.clear()
        self._wake.set()
        if len(self._items) >= settings.journal_queue:
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
        if self._closed:
            raise JournalUnavailable("the node has stopped")
        if len(self._waiting) >= settings.attach_queue:
            raise Overloaded
        loop = asyncio.get_running_loop()
        waiting = Waiting(entry, loop.create_future(), wanted, loop.time())
        self._waiting.append(waiting)
        self._idle.clear()
        self._wake.set()
        return await waiting.future

    @property
    def healthy(self) -> bool:
        return self._healthy.is_set()

    async def wait_healthy(self) -> None:
        """Returns when the last round reached the database: no handler starts while none does."""
        await self._healthy.wait()

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
            attaches, items = self._take_attaches(), self._take_items()
            self._taken = [*attaches, *items]
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
            if self._items or self._waiting:
                self._wake.set()
            else:
                self._idle.set()
            if len(self._items) < settings.journal_queue:
                self._space.set()
            if pause:
                await asyncio.sleep(pause)

    async def _wait_for_work(self) -> None:
        """Returns when something waits. While the database is away it is asked now and then all
        the same: handlers wait to hear that it is back."""
        while not self._healthy.is_set() and not self._wake.is_set():
            await asyncio.sleep(PROBE_INTERVAL)
            try:
                await self.threads.run(probe)
            except Exception as error:
                await self._failed(error)
            else:
                self._succeeded()
        await self._wake.wait()

    def _take_items(self) -> list[Item]:
        taken: list[Item] = []
        while self._items and len(taken) < settings.round_entries:
            item = self._items.popleft()
            # What may have been written cannot be withdrawn: somebody has to be told.
            if not item.future.cancelled() or item.entry.perhaps is not None:
                taken.append(item)
        return taken

    def _take_attaches(self) -> list[Waiting]:
        now = asyncio.get_running_loop().time()
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
            if is_outage(outcome):
                outage = outcome
                again.append(item)
            elif isinstance(outcome, Later):
                later = True
                again.append(item)
            elif isinstance(outcome, BaseException):
                if not item.future.done():
                    item.future.set_exception(outcome)
            else:
                self.written += 1
                tell(item, outcome)
                if not item.future.done():
                    item.future.set_result(outcome)
        self._items.extendleft(reversed(again))
        self.rounds += 1
        if outage is not None:
            return await self._failed(outage)
        self._succeeded()
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
        self._waiting.extendleft(reversed(again))
        if outage is not None:
            return await self._failed(outage)
        self._succeeded()
        return LOCKED_ELSEWHERE if again and len(again) == len(waiting) else 0.0

    async def _outcomes(
        self, function: Callable[[Any], list[Any]], entries: Sequence[Any]
    ) -> list[Any]:
        """Runs a round. One that the database neither finishes nor refuses for ``STUCK`` seconds
        counts as an outage while it lasts: messages are refused, no handler starts."""
        work = asyncio.ensure_future(self.threads.run(function, entries))
        await asyncio.wait([work], timeout=STUCK)
        if not work.done():
            logger.warning("the database has not answered for %.0f s", STUCK)
            self._stuck = True
            self._healthy.clear()
            self._fail_fast()
        try:
            return await work
        finally:
            self._stuck = False

    # --- health ------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        if self._stuck:
            return True
        now = asyncio.get_running_loop().time()
        return self.breaker.state(now) is not BreakerState.CLOSED

    def _succeeded(self) -> None:
        now = asyncio.get_running_loop().time()
        self.breaker.succeeded(now)
        if self._failures:
            logger.info(
                "the database answers again after %d failures, the breaker is %s",
                self._failures,
                self.breaker.state(now),
            )
        self._failures = 0
        self._failing_since = None
        if not self._is_open():  # else probes go on: healthy means that messages are taken
            self._healthy.set()

    async def _failed(self, error: BaseException) -> float:
        """Notes a failed round; returns how long to pause before the next, in seconds."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._failing_since is None:
            self._failing_since = now
        was_open = self._is_open()
        self._failures += 1
        slow = is_locked(error) or is_conflict(error)
        slow = slow and now - self._failing_since < SLOW_NOT_FAILED
        if not slow:
            await self.threads.run(forget_connection)
            self._healthy.clear()
            self.breaker.failed(now)
        if self._failures in (1, 10) or self._failures % 60 == 0:
            logger.warning("round failed (%d in a row): %s", self._failures, error)
        if self._is_open():
            if not was_open:
                logger.warning("the breaker is open: messages are refused until a probe succeeds")
            self._fail_fast()
            return PROBE_INTERVAL
        index = min(self._failures, len(DATABASE_RETRIES)) - 1
        return DATABASE_RETRIES[index] * random.uniform(0.75, 1.25)

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
        if len(kept) < settings.journal_queue:
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
