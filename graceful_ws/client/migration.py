"""Make before break: moving to another connection while the old one still works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from graceful_ws.core.close_codes import Advice, CloseCode, advice
from graceful_ws.core.retry import OVERLOADED_ATTEMPT, Backoff

from .dialer import now
from .events import Draining
from .socket import Ended, Socket

if TYPE_CHECKING:
    from .connector import Connector

logger = logging.getLogger("graceful_ws.client")

MARGIN = 4.0  # seconds before the server closes, at which what is unacknowledged is left behind


class Hurry:
    """Servers that welcome and tell to move must not be dialled as fast as they answer."""

    def __init__(self, backoff: Backoff, random: Callable[[], float]) -> None:
        self._backoff = backoff
        self._random = random
        self._moves = 0  # in a row, of connections that were told to soon after the welcome

    def least_stay(self, lived: float, window: float) -> float:
        """Seconds to stay at least, told to move ``lived`` seconds after the welcome. Soon after,
        once is a node that was about to drain."""
        self._moves = 0 if lived >= self._backoff.min_uptime else self._moves + 1
        if self._moves <= 1:
            return 0.0
        attempt = min(self._moves - 1, self._backoff.max_retries) - 1
        return self._backoff.delay(attempt, self._random, window) or 0.0


class Migration:
    """One drain notice: wait for the slot, stop sending, wait until nothing is unacknowledged
    (else a handler in flight would be started a second time), then dial and say hello.

    Until the successor's welcome the old connection stays; refused, it goes on as before, and the
    next try comes after the back-off, as long as the old connection lasts. Refused with a code that
    says stop, there is no next try: what it means is seen when the old connection has ended.
    """

    def __init__(self, connector: Connector, drain: Draining, *, not_before: float = 0.0) -> None:
        self._connector = connector
        loop = asyncio.get_running_loop()
        self._slot = loop.time() + max(drain.reconnect_in, not_before)
        self._leave_by = max(self._slot, loop.time() + drain.close_in - MARGIN)
        self._candidate: Socket | None = None
        self.task = asyncio.create_task(self._run(), name="move to another connection")

    def surrender(self) -> Socket | None:
        """Ends it, soon. A successor that is being dialled is the caller's from now on."""
        candidate, self._candidate = self._candidate, None
        self.task.cancel()
        return candidate

    async def stop(self) -> None:
        """Ends it, and a successor that is not welcomed."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        connector, session = self._connector, self._connector.session
        loop = asyncio.get_running_loop()
        attempt = 0
        await asyncio.sleep(self._slot - loop.time())
        while True:
            ended: Ended | None = None
            moved = False
            try:
                await connector.dialer.prepare(connector.current)
                session.holding = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._leave_by):
                        await self._quiet()
                moved, ended = await self._try()
            except Exception:
                logger.exception("a move to another connection failed")
            finally:
                if not moved:
                    session.holding = False
                    connector.wake()
            if moved:
                return
            if ended is not None and advice(ended.code) is Advice.STOP:
                return
            retry_after = 0.0 if ended is None else ended.retry_after
            if ended is not None and ended.code == CloseCode.TRY_AGAIN_LATER:
                attempt = max(attempt, OVERLOADED_ATTEMPT)
            delay = connector.backoff.delay(attempt, connector.random, connector.window)
            if delay is None:
                return
            attempt += 1
            await asyncio.sleep(max(delay, retry_after))

    async def _quiet(self) -> None:
        """Returns when nothing that was sent is unacknowledged."""
        while not self._connector.session.quiet:
            self._connector.received.clear()
            await self._connector.received.wait()

    async def _try(self) -> tuple[bool, Ended | None]:
        """Dials once: whether the successor is welcomed, and how it ended if not."""
        connector = self._connector
        candidate = connector.dialer.dial(connector.received_from, connector.current)
        if candidate is None:
            return False, None
        self._candidate = candidate
        try:
            await candidate.settled.wait()
        finally:
            ours, self._candidate = self._candidate is candidate, None
            if ours and not candidate.settled.is_set():
                await candidate.give_up()
                connector.endpoints.abandoned(candidate.url, now())
        if candidate.welcomed_at is not None:
            return True, None
        if not ours:
            return False, None
        connector.candidate_ended(candidate)
        return False, candidate.ended
