"""One timer for all connections of a node: a lazy heap of deadlines.

Traffic only ever moves a deadline later, so an entry is looked at when its old time comes and put
back at the new one; no message touches the heap.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.node")

TICK = 0.05  # seconds: deadlines within it are served together
PROGRESS = 5.0  # seconds: a connection is looked at this often, for a client that takes nothing


class Timers:
    """Calls ``deadline_reached`` of each scheduled connection when its deadline comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, LiveConnection]] = []
        self._count = count()
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._armed_at = 0.0  # uvloop's handles do not say when

    def schedule(self, live: LiveConnection) -> None:
        """Looks at the connection at its deadline, or in a few seconds; replaces what was."""
        at = self._loop.time() + PROGRESS
        if live.machine.scheduled < at:
            at = live.machine.scheduled
        if live.deadline is not None and live.deadline <= at:
            return
        live.deadline = at
        heapq.heappush(self._heap, (at, next(self._count), live))
        if self._handle is None or at < self._armed_at - TICK:
            self._arm(at)

    def forget(self, live: LiveConnection) -> None:
        """The connection is over; its entries are dropped when they come up."""
        live.deadline = None

    def __len__(self) -> int:
        return sum(live.deadline == at for at, _, live in self._heap)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()

    def _arm(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_at = at
        self._handle = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = self._loop.time()
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, live = heapq.heappop(heap)
            if live.deadline != at:
                continue  # forgotten, or scheduled anew
            live.deadline = None
            try:
                live.deadline_reached(now)
            except Exception:  # a defect, and not a reason to stop the others' clocks
                logger.exception("a deadline could not be served", extra=live.extra())
            if live.machine.state != "disconnected":
                self.schedule(live)
        if heap:  # what was scheduled just now may be later than what waits
            at = max(heap[0][0], now + TICK)
            if self._handle is None or at < self._armed_at - TICK:
                self._arm(at)
