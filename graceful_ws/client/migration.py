"""Make before break: moving to another connection while the old one still works."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from .events import Draining
from .socket import Socket

if TYPE_CHECKING:
    from .connector import Connector

MARGIN = 4.0  # seconds before the server closes, at which what is unacknowledged is left behind


class Migration:
    """One drain notice: wait for the slot, stop sending, wait until nothing is unacknowledged
    (else a handler in flight would be started a second time), then dial and say hello.

    Until the successor's welcome the old connection stays; refused, it goes on as before, and the
    next try comes after the back-off, as long as the old connection lasts.
    """

    def __init__(self, connector: Connector, drain: Draining) -> None:
        self._connector = connector
        loop = asyncio.get_running_loop()
        self._slot = loop.time() + drain.reconnect_in
        self._leave_by = max(self._slot, loop.time() + drain.close_in - MARGIN)
        self._candidate: Socket | None = None
        self.task = asyncio.create_task(self._run(), name="move to another connection")

    async def settle(self) -> None:
        """The old connection is gone: waits for a successor that is being dialled, if any. Nothing
        of it is left when the wait is cancelled."""
        try:
            if self._candidate is not None:
                await self._candidate.settled.wait()
        finally:
            await self.stop()

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
            moved = False
            session.holding = True
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._leave_by):
                        await self._quiet()
                moved = await self._try()
            finally:
                if not moved:
                    session.holding = False
                    connector.wake()
            if moved:
                return
            delay = connector.backoff.delay(attempt, connector.random, connector.window)
            if delay is None:
                return
            attempt += 1
            await asyncio.sleep(delay)

    async def _quiet(self) -> None:
        """Returns when nothing that was sent is unacknowledged."""
        while not self._connector.session.quiet:
            self._connector.received.clear()
            await self._connector.received.wait()

    async def _try(self) -> bool:
        """Dials once; True when the successor is welcomed."""
        connector, loop = self._connector, asyncio.get_running_loop()
        url = await connector.choose(besides=connector.current)
        if url is None:
            return False
        candidate = self._candidate = connector.dial(url)
        try:
            await candidate.settled.wait()
        finally:
            self._candidate = None
            if not candidate.settled.is_set():
                await candidate.give_up()
                connector.endpoints.breaker(url).abandoned(loop.time())
            elif candidate.welcomed_at is None:
                connector.candidate_ended(candidate)
        return candidate.welcomed_at is not None
