"""Keeps one session connected: dials, waits, moves, and knows when to stop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from graceful_ws.core.close_codes import Advice, CloseCode, advice
from graceful_ws.core.retry import Backoff

from .errors import RetriesExhausted, SessionLost
from .events import Disconnected, Draining, Event, RetryScheduled, StateChanged, Welcomed
from .migration import Migration
from .session import ClientSession
from .socket import Ended, Socket, SocketOptions

logger = logging.getLogger("graceful_ws.client")

OVERLOADED_ATTEMPT = 2  # after 1013 the back-off begins here
CLOSE_TIMEOUT = 10.0  # seconds that a bye waits for the server's close


class Connector:
    """One supervisor task for all connections of a session, one ``Socket`` for each try.

    ``hear`` is told every event. ``end`` is None until the client is closed for good.
    """

    def __init__(
        self,
        session: ClientSession,
        urls: tuple[str, ...],
        options: Callable[[], SocketOptions],
        hear: Callable[[Event], None],
        *,
        backoff: Backoff,
        random: Callable[[], float],
        window: float | None,
    ) -> None:
        self.session = session
        self.urls = urls
        self.backoff = backoff
        self.random = random
        self.state = "disconnected"
        self.socket: Socket | None = None
        self.end: SessionLost | None = None
        self.resumes = 0
        self.refused = 0  # tries that ended before a WebSocket was open
        self.close_codes: Counter[int] = Counter()  # of the WebSockets that were open
        self._options = options
        self._hear = hear
        self._fixed_window = window
        self._window = 1.0  # until a server announces one
        self._turn = int(random() * len(urls))
        self._retired: set[asyncio.Task[Any]] = set()
        self._migration: Migration | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._dial_now = asyncio.Event()
        self.received = asyncio.Event()  # set with every frame, for those who wait for one

    @property
    def window(self) -> float:
        """Seconds over which reconnects are spread."""
        return self._window if self._fixed_window is None else self._fixed_window

    def wake(self) -> None:
        """There may be something to send."""
        if self.socket is not None:
            self.socket.wake()

    # --- from outside -------------------------------------------------------------------------

    def start(self) -> None:
        """Starts; or, while it waits to try again, tries now, with the count of tries afresh."""
        if self.end is not None:
            raise self.end
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._run(), name="graceful client")
        self._dial_now.set()

    async def bye(self, reason: str) -> None:
        """Ends the session on the server, if there is a connection to say so on."""
        await self._stop_moving()
        socket = self.socket
        if socket is not None and socket.link.is_current:
            socket.resume_reading()
            socket.link.bye(reason)
            socket.wake()
            await asyncio.wait([socket.task], timeout=CLOSE_TIMEOUT)

    async def stop(self, code: int, reason: str) -> None:
        """Closes what is open; no task or timer is left when it returns."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await self._stop_moving()
        socket = self.socket
        if socket is not None:
            socket.close(code, reason)
            self._retired.add(socket.task)
        if self._retired:
            await asyncio.wait(self._retired)
        self._retired.clear()
        if socket is not None and self.socket is socket:
            self._ended(socket, socket.ended, final=self.end is not None)
        self.set_state("disconnected" if self.end is None else "closed")

    async def _stop_moving(self) -> None:
        migration, self._migration = self._migration, None
        if migration is not None:
            await migration.stop()

    # --- the supervisor -----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._connect_and_wait()
        except Exception as error:
            # Nothing that another try would change: a bad URL, or headers() raised.
            logger.exception("the client cannot go on")
            self.end = SessionLost(CloseCode.ABNORMAL, repr(error))
            self.socket = None
            self.set_state("closed")

    async def _connect_and_wait(self) -> None:
        attempt = -1  # the first dial is no retry
        while True:
            self._dial_now.clear()
            self.set_state("connecting")
            self.socket = self.dial()
            socket, ended = await self._live()
            if self.end is not None:
                self._ended(socket, ended, final=True)
                return  # it was a bye
            attempt = max(0, self.backoff.next_attempt(attempt, ended.welcomed_for))
            if ended.code == CloseCode.TRY_AGAIN_LATER:
                attempt = max(attempt, OVERLOADED_ATTEMPT)
            delay: float | None = None
            if advice(ended.code) is Advice.STOP and not socket.link.superseded_by_self:
                self.end = SessionLost(ended.code, ended.reason)
            else:
                delay = self._delay(attempt, ended)
                if delay is None:
                    self.end = RetriesExhausted(ended.code, ended.reason)
            self._ended(socket, ended, final=delay is None)
            if delay is None:
                self.set_state("closed")
                return
            self.set_state("parked" if self.backoff.exhausted(attempt) else "waiting")
            self._hear(RetryScheduled(attempt, delay))
            try:
                async with asyncio.timeout(delay):
                    await self._dial_now.wait()
                attempt = -1
            except TimeoutError:
                pass

    def _delay(self, attempt: int, ended: Ended) -> float | None:
        """Seconds until the next try; None: no other."""
        lived = ended.welcomed_for
        if (
            advice(ended.code) is Advice.RESUME
            and lived is not None
            and lived >= self.backoff.min_uptime
        ):
            return self.random() * self.window  # nothing is wrong; only not all at once
        delay = self.backoff.delay(attempt, self.random, self.window)
        return None if delay is None else max(delay, ended.retry_after)

    async def _live(self) -> tuple[Socket, Ended]:
        """Follows the current socket and its successors; returns how the last one ended."""
        while True:
            socket = self.socket
            assert socket is not None
            await asyncio.wait([socket.task])
            if self.socket is socket and self._migration is not None:
                migration, self._migration = self._migration, None
                await migration.settle()  # its hello may be on its way
            if self.socket is socket:
                return socket, socket.ended

    def dial(self) -> Socket:
        """A new socket for the session, to the endpoint whose turn it is."""
        url = self.urls[self._turn % len(self.urls)]
        return Socket(url, self.session.connect(), self._options(), self._received)

    def _next_endpoint(self) -> None:
        """The one whose turn it was cannot be reached, or drains."""
        self._turn += 1

    def _ended(self, socket: Socket, ended: Ended, *, final: bool) -> None:
        """The current socket is gone."""
        self.socket = None
        self._forget(socket, ended)
        self._hear(Disconnected(ended.code, ended.reason, final))

    def candidate_ended(self, socket: Socket) -> None:
        """A successor was not welcomed; the current socket stays."""
        self._forget(socket, socket.ended)

    def _forget(self, socket: Socket, ended: Ended) -> None:
        if ended.opened:
            self.close_codes[ended.code] += 1
        else:
            self.refused += 1
        if ended.welcomed_for is None:
            self._next_endpoint()
        for event in socket.link.closed(ended.code, asyncio.get_running_loop().time()):
            self._hear(event)

    # --- events -------------------------------------------------------------------------------

    def _received(self, socket: Socket, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Welcomed):
                self._welcomed(socket, event)
            elif isinstance(event, Draining) and socket is self.socket:
                self._drain(event)
            self._hear(event)
        self.received.set()
        self.wake()

    def _welcomed(self, socket: Socket, event: Welcomed) -> None:
        self.resumes += event.resumed
        self._window = event.frame.reconnect_window
        old, self.socket = self.socket, socket
        if old is not None and old is not socket:
            old.close(CloseCode.SUSPENDED, "moved to another connection")
            self._retired.add(old.task)
            self._retire(old.task)
        if self._migration is not None:
            self._retire(self._migration.task)
            self._migration = None
        self.set_state("connected")

    def _retire(self, task: asyncio.Task[Any]) -> None:
        """It ends by itself, soon."""
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _drain(self, event: Draining) -> None:
        self.set_state("draining")
        if self._migration is None:
            self._next_endpoint()
            self._migration = Migration(self, event)

    def set_state(self, state: str) -> None:
        if state != self.state:
            old, self.state = self.state, state
            self._hear(StateChanged(old, state))
