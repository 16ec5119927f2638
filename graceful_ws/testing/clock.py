"""A clock that a test moves on: heartbeats, time limits and windows without waiting for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from unittest.mock import patch

from django.utils import timezone

from .work import Work, work_here

STRIDES = 1000  # timers are served one by one, or in so many strides where that is coarser
LONGEST_STRIDE = 3.0  # seconds: nodes that look at each other less often would begin anew
CREEP = 1e-7  # seconds for each look at a clock that stands, see ``time``


class Clock:
    """Goes on by itself, like any other, and ``advance`` moves it on at once.

    It is the event loop's clock (``loop.time``, ``asyncio.sleep``, ``asyncio.timeout``) and that of
    Django (``timezone.now``), by which rows are written and judged old. ``time.time`` and
    ``time.monotonic`` are left alone.
    """

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop_time = loop.time
        self._django_now = timezone.now
        self._offset = 0.0
        self._stands_at: float | None = None  # the loop's seconds, while ``advance`` runs

    @property
    def advanced(self) -> float:
        """Seconds by which it is ahead of the real one."""
        if self._stands_at is None:
            return self._offset
        return self._stands_at - self._loop_time()

    def time(self) -> float:
        """The event loop's time, in seconds. While it stands it creeps: a timer may come a
        nanosecond early, and who then waits for the rest must not wait for ever."""
        if self._stands_at is None:
            return self._loop_time() + self._offset
        self._stands_at += CREEP
        return self._stands_at

    def now(self) -> datetime:
        """What ``timezone.now`` returns."""
        return self._django_now() + timedelta(seconds=self.advanced)

    async def advance(self, seconds: float) -> None:
        """Moves on by ``seconds``. Whatever becomes due meanwhile happens in its order: when it
        returns, pings were sent and answered, limits have closed, the node has made its rounds.

        Up to a minute timers are served as exactly as they would be; in an hour they may be 3 s
        late. Raises ValueError for a negative number, TimeoutError when something is stuck.
        """
        if seconds < 0:
            raise ValueError("time does not go back")
        await self._work.settle()
        self._stands_at = self.time()
        target = self._stands_at + seconds
        stride = min(seconds / STRIDES, LONGEST_STRIDE)
        self._work.frozen = True
        try:
            while self._stands_at < target:
                next_one = max(self._work.next_timer(), self._stands_at + stride)
                self._stands_at = min(target, next_one)
                await self._work.settle()
        finally:
            self._work.frozen = False
            self._offset = self._stands_at - self._loop_time()
            self._stands_at = None
        await self._work.settle()


@contextmanager
def fake_clock() -> Iterator[Clock]:
    """The clock of the running event loop, inside the block; a node has to run around it.

    Raises NotReady without one.
    """
    from graceful_ws.node import inbox, reader

    loop = asyncio.get_running_loop()
    clock = Clock(work_here(), loop)

    def monotonic() -> float:  # what message_rate is measured with
        return time.monotonic() + clock.advanced

    with ExitStack() as stack:
        stack.enter_context(patch.object(loop, "time", clock.time))
        stack.enter_context(patch.object(timezone, "now", clock.now))
        for module in (inbox, reader):
            stack.enter_context(patch.object(module, "monotonic", monotonic))
        yield clock
