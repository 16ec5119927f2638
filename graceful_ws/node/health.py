"""Whether the database answers: what the rounds of the writer have shown."""

from __future__ import annotations

import asyncio
import logging
import random

from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.retry import DATABASE_RETRIES
from graceful_ws.store.base import is_conflict, is_locked

logger = logging.getLogger("graceful_ws.journal")

SLOW_NOT_FAILED = 30.0  # seconds for which "database is locked" is only slow
PROBE_INTERVAL = 1.0  # seconds between tries while the database is away


class Health:
    """Of one writer. ``works`` is set while no handler need wait for the database."""

    def __init__(self) -> None:
        self.probe_interval = PROBE_INTERVAL
        self.breaker = Breaker(failures=10, open_for=PROBE_INTERVAL / 2, probes=1)
        self.works = asyncio.Event()
        self.works.set()
        self.stuck = False  # a round has been under way for long
        self._time = asyncio.get_running_loop().time
        self._failing_since: float | None = None
        self._failures = 0

    @property
    def is_open(self) -> bool:
        """True while messages are refused rather than queued."""
        if self.stuck:
            return True
        if self._failures == 0 and self.works.is_set():
            return False
        return self.breaker.state(self._time()) is not BreakerState.CLOSED

    def succeeded(self) -> None:
        now = self._time()
        self.breaker.succeeded(now)
        if self._failures:
            logger.info(
                "the database answers again after %d failures, the breaker is %s",
                self._failures,
                self.breaker.state(now),
            )
        self._failures = 0
        self._failing_since = None
        # While it is open probes go on: to work means that messages are taken.
        if not self.works.is_set() and not self.is_open:
            self.works.set()

    def failed(self, error: BaseException) -> bool:
        """A round failed. False when the database was only slow."""
        now = self._time()
        if self._failing_since is None:
            self._failing_since = now
        was_open = self.is_open
        self._failures += 1
        slow = is_locked(error) or is_conflict(error)
        slow = slow and now - self._failing_since < SLOW_NOT_FAILED
        if not slow:
            self.works.clear()
            self.breaker.failed(now)
        if self._failures in (1, 10) or self._failures % 60 == 0:
            logger.warning("round failed (%d in a row): %s", self._failures, error)
        if self.is_open and not was_open:
            logger.warning("the breaker is open: messages are refused until a probe succeeds")
        return not slow

    @property
    def pause(self) -> float:
        """Seconds until the next round after one that failed."""
        if self.is_open:
            return self.probe_interval
        index = min(self._failures, len(DATABASE_RETRIES)) - 1
        return DATABASE_RETRIES[index] * random.uniform(0.75, 1.25)
