"""Keeps one session connected: dials, waits, moves, and knows when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from graceful_ws.core.client_states import TRANSITIONS, ClientState
from graceful_ws.core.close_codes import Advice, CloseCode, advice
from graceful_ws.core.retry import OVERLOADED_ATTEMPT, Backoff

from .dialer import Dialer, now
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
from .migration import Hurry, Migration
from .session import ClientSession
from .socket import Ended, Socket

logger = logging.getLogger("graceful_ws.client")

RESUMED = frozenset({Advice.RESUME, Advice.PARK})
LOOK_AGAIN = 1.0  # seconds, about, between two looks at breakers that others share
CLOSE_TIMEOUT = 10.0  # seconds that a bye waits for the server's close


class Connector:
    """One supervisor task for all connections of a session, one ``Socket`` for each try.

    ``hear`` is told every event. ``end`` is None until the client is closed for good.
    """

    def __init__(
        self,
        session: ClientSession,
        dialer: Dialer,
        hear: Callable[[Event], None],
        *,
        backoff: Backoff,
        random: Callable[[], float],
        window: float | None,
    ) -> None:
        self.session = session
        self.dialer = dialer
        self.endpoints = dialer.endpoints
        self.backoff = backoff
        self.random = random
        self.state = ClientState.DISCONNECTED
        self.socket: Socket | None = None
        self.end: SessionLost | None = None
        self.resumes = 0
        self.refused = 0  # tries that ended before a WebSocket was open
        self.close_codes: Counter[int] = Counter()  # of the WebSockets that were open
        self._hear = hear
        self._fixed_window = window
        self._window = 1.0  # until a server announces one
        self._stopping = asyncio.Lock()
        self._attempt = -1  # the number of the try that is under way
        self._hurry = Hurry(backoff, random)
        self._retired: set[asyncio.Task[Any]] = set()
        self._migration: Migration | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._dial_now = asyncio.Event()
        self._idle = False  # parked until the application sends something
        self.received = asyncio.Event()  # set with every frame, for those who wait for one

    @property
    def window(self) -> float:
        """Seconds over which reconnects are spread."""
        return self._window if self._fixed_window is None else self._fixed_window

    @property
    def current(self) -> str | None:
        """The endpoint of the connection; None without one."""
        return None if self.session.link is None or self.socket is None else self.socket.url

    def wake(self) -> None:
        """There may be something to send."""
        if self.socket is not None:
            self.socket.wake()

    def used(self) -> None:
        """The application sends something."""
        self.wake()
        if self._idle:
            self._dial_now.set()

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
        if self.session.link is None and self.state is not ClientState.CONNECTING:
            wait = self.endpoints.retry_after(now())
            if wait > 0:
                raise CircuitOpen(wait)

    def answered(self, url: str | None, in_time: bool) -> None:
        """The endpoint took a request, and answered it in time or not."""
        if url is not None and url == self.current:
            breaker = self.endpoints.breaker(url)
            breaker.succeeded(now()) if in_time else breaker.failed(now())

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
        """Closes what is open; no task or timer is left when it returns. Whoever starts anew
        meanwhile waits for it."""
        async with self._stopping:
            await self._stop(code, reason)

    async def _stop(self, code: int, reason: str) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await self.dialer.stop_probing()
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
        async with self._stopping:
            pass  # the one before is still being closed
        try:
            await self._connect_and_wait()
            await self.dialer.stop_probing()
        except Exception as error:
            # Nothing that another try would change: bad arguments, or headers() raised.
            self.endpoints.abandoned(self.dialer.last_url, now())
            logger.exception("the client cannot go on")
            self.end = SessionLost(CloseCode.ABNORMAL, repr(error))
            self.socket = None
            self.set_state(ClientState.CLOSED)

    async def _connect_and_wait(self) -> None:
        self._attempt = -1  # the first dial is no retry
        while True:
            await self._until_allowed(max(0, self._attempt))
            self.set_state(ClientState.CONNECTING)
            await self.dialer.prepare()
            self.socket = self.dialer.dial(self.received_from)
            if self.socket is None:  # another client was faster, with shared breakers
                continue
            socket, ended = await self._live()
            self._dial_now.clear()
            if self.end is not None:
                self._ended(socket, ended, final=True)
                self.set_state(ClientState.CLOSED)
                return  # it was a bye
            attempt = max(0, self.backoff.next_attempt(self._attempt, ended.welcomed_for))
            if ended.code == CloseCode.TRY_AGAIN_LATER:
                attempt = max(attempt, OVERLOADED_ATTEMPT)
            # The server has better uses for a connection that nobody used, and nobody does now.
            self._idle = advice(ended.code) is Advice.PARK and not self.session.waiting
            delay: float | None = None
            if self._stops(socket, ended):
                self.end = SessionLost(ended.code, ended.reason)
            else:
                delay = self._delay(attempt, ended)
                if delay is None:
                    self.end = RetriesExhausted(ended.code, ended.reason)
            self._ended(socket, ended, final=delay is None)
            if delay is None:
                self.set_state(ClientState.CLOSED)
                return
            slow = self._idle or self.backoff.exhausted(attempt)
            state = ClientState.PARKED if slow else ClientState.WAITING
            self._attempt = await self._wait(state, attempt, delay)

    async def _wait(self, state: ClientState, attempt: int, delay: float) -> int:
        """Until the next try, whose number it returns: -1 when it was asked for."""
        self.set_state(state)
        self._hear(RetryScheduled(attempt, delay))
        await asyncio.sleep(0)  # the loop has its turn, whoever asks for it at once
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._dial_now.wait()
            attempt = -1
        self._idle = False
        return attempt

    async def _until_allowed(self, attempt: int) -> None:
        """Waits in the slow lane while all breakers are open. One that another client shares may
        close at any time, and then not everybody comes at once."""
        wait = self.endpoints.retry_after(now())
        if wait <= 0:
            return
        self.set_state(ClientState.PARKED)
        self._hear(RetryScheduled(attempt, wait))
        while (wait := self.endpoints.retry_after(now())) > 0:  # noqa: ASYNC110  (pure: no event)
            await asyncio.sleep(min(wait, LOOK_AGAIN * (0.5 + self.random())))

    def _delay(self, attempt: int, ended: Ended) -> float | None:
        """Seconds until the next try; None: no other."""
        lived = ended.welcomed_for or 0.0
        delay = self.backoff.delay(attempt, self.random, self.window)
        if self._idle:
            delay = self.backoff.parked(self.random)
        elif advice(ended.code) in RESUMED and lived >= self.backoff.min_uptime > 0:
            delay = self.random() * self.window  # nothing is wrong; only not all at once
        return None if delay is None else max(delay, ended.retry_after)

    async def _live(self) -> tuple[Socket, Ended]:
        """Follows the current socket and its successors; returns how the last one ended."""
        while True:
            socket = self.socket
            assert socket is not None
            await asyncio.wait([socket.task])
            if self.socket is not socket:
                continue
            ended = socket.ended
            successor = None if self._stops(socket, ended) else self._take_successor()
            if successor is None:
                await self._stop_moving()
                return socket, ended
            self._attempt = self.backoff.next_attempt(self._attempt, ended.welcomed_for)
            self._ended(socket, ended, final=False)
            self.socket = successor  # its hello may be on its way
            self.set_state(ClientState.CONNECTING)

    def _stops(self, socket: Socket, ended: Ended) -> bool:
        """Whether nothing may come after it."""
        stop = advice(ended.code) is Advice.STOP and not socket.link.superseded_by_self
        return stop or self.end is not None

    def _take_successor(self) -> Socket | None:
        if self._migration is None:
            return None
        migration, self._migration = self._migration, None
        self._retire(migration.task)
        return migration.surrender()

    def _ended(self, socket: Socket, ended: Ended, *, final: bool) -> None:
        """The current socket is gone."""
        self.socket = None
        self._forget(socket, ended)
        self._hear(Disconnected(ended.code, ended.reason, final))

    def candidate_ended(self, socket: Socket) -> None:
        """A successor was not welcomed; the current socket stays, unless the session is lost."""
        self._forget(socket, socket.ended)
        if self.socket is not None and not self.socket.link.is_current:
            self.socket.close(CloseCode.SUSPENDED, "the session is lost")

    def _forget(self, socket: Socket, ended: Ended) -> None:
        if ended.opened:
            self.close_codes[ended.code] += 1
        else:
            self.refused += 1
        self.endpoints.ended(socket.url, ended.code, ended.welcomed_for is not None, now())
        for event in socket.link.closed(ended.code, now()):
            self._hear(event)

    # --- events -------------------------------------------------------------------------------

    def received_from(self, socket: Socket, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Welcomed):
                self._welcomed(socket, event)
            elif isinstance(event, Draining) and socket is self.socket and self.end is None:
                self._drain(event)
            elif isinstance(event, RoundTrip):
                self._measured(socket, event)
            self._hear(event)
        self.received.set()
        self.wake()

    def _welcomed(self, socket: Socket, event: Welcomed) -> None:
        self.resumes += event.resumed
        self._window = socket.link.reconnect_window
        old, self.socket = self.socket, socket
        if old is not None and old is not socket:
            old.close(CloseCode.SUSPENDED, "moved to another connection")
            self.endpoints.ended(old.url, CloseCode.SUSPENDED, True, now())
            self._retire(old.task)
        if self._migration is not None:
            self._retire(self._migration.task)
            self._migration = None
        self.endpoints.welcomed(socket.url, now())
        socket.link.ping()
        self.dialer.keep_probing(lambda: self.current)
        self.set_state(ClientState.CONNECTED)

    def _measured(self, socket: Socket, event: RoundTrip) -> None:
        self.endpoints.measured(socket.url, event.seconds)
        if event.own and self.endpoints.proved(socket.url, now()):
            socket.link.ping()

    def _retire(self, task: asyncio.Task[Any]) -> None:
        """It ends by itself, soon."""
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _drain(self, event: Draining) -> None:
        self.set_state(ClientState.DRAINING)
        if self._migration is None:
            assert self.socket is not None
            self.endpoints.put_aside(self.socket.url)
            lived = now() - (self.socket.welcomed_at or now())
            stay = self._hurry.least_stay(lived, self.window)
            self._migration = Migration(self, event, not_before=stay)

    def set_state(self, state: ClientState) -> None:
        if state is not self.state:
            assert state in TRANSITIONS[self.state], f"{self.state} to {state}"
            old, self.state = self.state, state
            self._hear(StateChanged(old, state))
