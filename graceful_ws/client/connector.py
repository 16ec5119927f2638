"""Keeps one session connected: dials, waits, moves, and knows when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from graceful_ws.core.breaker import BreakerState
from graceful_ws.core.client_states import TRANSITIONS, ClientState
from graceful_ws.core.close_codes import Advice, CloseCode, advice
from graceful_ws.core.endpoints import PROBE_EVERY, PROBE_JITTER, Endpoints, EndpointStatus
from graceful_ws.core.retry import Backoff

from .errors import CircuitOpen, RetriesExhausted, SessionLost
from .events import (
    Disconnected,
    Draining,
    Event,
    RetryScheduled,
    RoundTrip,
    StateChanged,
    Welcomed,
)
from .migration import Migration
from .probing import Prober
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
        endpoints: Endpoints,
        options: Callable[[], SocketOptions],
        hear: Callable[[Event], None],
        *,
        backoff: Backoff,
        random: Callable[[], float],
        window: float | None,
        prober: Prober | None,
    ) -> None:
        self.session = session
        self.endpoints = endpoints
        self.backoff = backoff
        self.random = random
        self.state = ClientState.DISCONNECTED
        self.socket: Socket | None = None
        self.end: SessionLost | None = None
        self.resumes = 0
        self.refused = 0  # tries that ended before a WebSocket was open
        self.close_codes: Counter[int] = Counter()  # of the WebSockets that were open
        self._options = options
        self._hear = hear
        self._fixed_window = window
        self._window = 1.0  # until a server announces one
        self._last_url = endpoints.urls[0]  # dialled last
        self._prober = prober
        self._probing: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[Any]] = set()
        self._migration: Migration | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._dial_now = asyncio.Event()
        self.received = asyncio.Event()  # set with every frame, for those who wait for one

    @property
    def window(self) -> float:
        """Seconds over which reconnects are spread."""
        return self._window if self._fixed_window is None else self._fixed_window

    @property
    def current(self) -> str | None:
        """The endpoint of the connection; None without one."""
        return None if self.session.link is None or self.socket is None else self.socket.url

    @property
    def rtt(self) -> float | None:
        return self.endpoints.rtt(self.current or self._last_url)

    def status(self) -> list[EndpointStatus]:
        return self.endpoints.status(_now(), self.current)

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

    def check_circuit(self) -> None:
        """Raises CircuitOpen when there is no connection, and no endpoint may be dialled."""
        if self.session.link is None and (wait := self.endpoints.retry_after(_now())) > 0:
            raise CircuitOpen(wait)

    def answered(self, in_time: bool) -> None:
        """The endpoint took a request, and answered it in time or not."""
        if self.current is not None:
            breaker = self.endpoints.breaker(self.current)
            breaker.succeeded(_now()) if in_time else breaker.failed(_now())

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
        tasks = [task for task in (self._supervisor, self._probing) if task is not None]
        self._supervisor = self._probing = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
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
        self.set_state(ClientState.DISCONNECTED if self.end is None else ClientState.CLOSED)

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
            self.set_state(ClientState.CLOSED)

    async def _connect_and_wait(self) -> None:
        attempt = -1  # the first dial is no retry
        while True:
            self._dial_now.clear()
            if (blocked := self.endpoints.retry_after(_now())) > 0:
                attempt = await self._wait(ClientState.PARKED, max(0, attempt), blocked)
                continue
            self.set_state(ClientState.CONNECTING)
            url = await self.choose()
            if url is None:  # another client was faster, with shared breakers
                continue
            self.socket = self.dial(url)
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
                self.set_state(ClientState.CLOSED)
                return
            slow = self.backoff.exhausted(attempt)
            state = ClientState.PARKED if slow else ClientState.WAITING
            attempt = await self._wait(state, attempt, delay)

    async def _wait(self, state: ClientState, attempt: int, delay: float) -> int:
        """Until the next try, whose number it returns: -1 when it was asked for."""
        self.set_state(state)
        self._hear(RetryScheduled(attempt, delay))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._dial_now.wait()
            return -1
        return attempt

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

    async def choose(self, besides: str | None = None) -> str | None:
        """The endpoint to dial; ``besides``: from which to go away. None: all breakers are open."""
        unmeasured = self.endpoints.unmeasured(_now(), besides)
        if unmeasured and self._prober is not None:
            await self._prober.race(unmeasured)
        return self.endpoints.choose(_now(), besides)

    def dial(self, url: str) -> Socket:
        """A new socket for the session. Its end is reported to the endpoints."""
        self._last_url = url
        return Socket(url, self.session.connect(), self._options(), self._received)

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
        self.endpoints.ended(socket.url, ended.code, ended.welcomed_for is not None, _now())
        for event in socket.link.closed(ended.code, _now()):
            self._hear(event)

    # --- events -------------------------------------------------------------------------------

    def _received(self, socket: Socket, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Welcomed):
                self._welcomed(socket, event)
            elif isinstance(event, Draining) and socket is self.socket:
                self._drain(event)
            elif isinstance(event, RoundTrip):
                self._measured(socket, event)
            self._hear(event)
        self.received.set()
        self.wake()

    def _welcomed(self, socket: Socket, event: Welcomed) -> None:
        self.resumes += event.resumed
        self._window = event.frame.reconnect_window
        old, self.socket = self.socket, socket
        if old is not None and old is not socket:
            old.close(CloseCode.SUSPENDED, "moved to another connection")
            self.endpoints.ended(old.url, CloseCode.SUSPENDED, True, _now())
            self._retired.add(old.task)
            self._retire(old.task)
        if self._migration is not None:
            self._retire(self._migration.task)
            self._migration = None
        self.endpoints.welcomed(socket.url, _now())
        socket.link.ping()
        if self._probing is None and self._prober is not None and len(self.endpoints.urls) > 1:
            probing = self._probe_others(self._prober)
            self._probing = asyncio.create_task(probing, name="probe endpoints")
        self.set_state(ClientState.CONNECTED)

    def _measured(self, socket: Socket, event: RoundTrip) -> None:
        self.endpoints.measured(socket.url, event.seconds)
        breaker = self.endpoints.breaker(socket.url)
        if event.own and breaker.state(_now()) is BreakerState.HALF_OPEN:
            breaker.succeeded(_now())
            socket.link.ping()

    async def _probe_others(self, prober: Prober) -> None:
        """Keeps the round trips of those without a connection, for the next choice."""
        while True:
            await asyncio.sleep(PROBE_EVERY * (1 - PROBE_JITTER + 2 * PROBE_JITTER * self.random()))
            others = [url for url in self.endpoints.urls if url != self.current]
            await prober.measure(others)

    def _retire(self, task: asyncio.Task[Any]) -> None:
        """It ends by itself, soon."""
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _drain(self, event: Draining) -> None:
        self.set_state(ClientState.DRAINING)
        if self._migration is None:
            assert self.socket is not None
            self.endpoints.put_aside(self.socket.url)
            self._migration = Migration(self, event)

    def set_state(self, state: ClientState) -> None:
        if state is not self.state:
            assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
            old, self.state = self.state, state
            self._hear(StateChanged(old, state))


def _now() -> float:
    return asyncio.get_running_loop().time()
