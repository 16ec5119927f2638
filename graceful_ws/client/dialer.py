"""Opens the connections of a session, each to the endpoint that is best at the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from graceful_ws.core.endpoints import PROBE_EVERY, PROBE_JITTER, Endpoints

from .events import Event
from .probing import Prober
from .session import ClientSession
from .socket import Socket, SocketOptions


class Dialer:
    """``options`` are asked for with each dial; it may raise. Without a ``prober`` round trips are
    those of connections only."""

    def __init__(
        self,
        session: ClientSession,
        endpoints: Endpoints,
        options: Callable[[], SocketOptions],
        prober: Prober | None,
        random: Callable[[], float],
    ) -> None:
        self.endpoints = endpoints
        self.last_url = endpoints.urls[0]
        self._session = session
        self._options = options
        self._prober = prober
        self._random = random
        self._probing: asyncio.Task[None] | None = None

    async def prepare(self, besides: str | None = None) -> None:
        """Finds out how near the endpoints are, if nothing is known of any. ``besides``: the one
        from which to go away."""
        unmeasured = self.endpoints.unmeasured(now(), besides)
        if unmeasured and self._prober is not None:
            await self._prober.race(unmeasured)

    def dial(
        self, tell: Callable[[Socket, list[Event]], None], besides: str | None = None
    ) -> Socket | None:
        """A new socket for the session, whose end has to be reported to the endpoints. None: all
        breakers are open."""
        options = self._options()
        url = self.endpoints.choose(now(), besides)
        if url is None:
            return None
        self.last_url = url
        return Socket(url, self._session.connect(), options, tell)

    def keep_probing(self, current: Callable[[], str | None]) -> None:
        """Measures the endpoints that are not in use, now and then, until ``stop_probing``."""
        if self._prober is not None and len(self.endpoints.urls) > 1 and self._probing is None:
            probing = self._probe_others(self._prober, current)
            self._probing = asyncio.create_task(probing, name="probe endpoints")

    async def stop_probing(self) -> None:
        task = self._probing
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._probing = None  # not before: whoever stops it a second time has to wait, too

    async def _probe_others(self, prober: Prober, current: Callable[[], str | None]) -> None:
        while True:
            part = 1 - PROBE_JITTER + 2 * PROBE_JITTER * self._random()
            await asyncio.sleep(PROBE_EVERY * part)
            used = current()
            if used is not None:
                await prober.measure([url for url in self.endpoints.urls if url != used])


def now() -> float:
    """Seconds of the event loop's clock."""
    return asyncio.get_running_loop().time()
