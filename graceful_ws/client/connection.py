"""The Python client: one session over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Self

from websockets.asyncio.client import ClientConnection

from graceful_ws.core.breaker import Breaker
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.endpoints import Endpoints
from graceful_ws.core.retry import Backoff

from .connector import Connector
from .dialer import Dialer
from .errors import Nacked, RequestTimeout, SessionLost
from .events import (
    Disconnected,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    Outgoing,
    StateChanged,
)
from .known import Known
from .outcomes import Outcomes
from .probing import prober_for
from .session import ClientSession
from .socket import SocketOptions, check_url

logger = logging.getLogger("graceful_ws.client")

QUEUE_MESSAGES = 100  # that wait for their outcome; then ``send`` waits
QUEUE_BYTES = 1024 * 1024
UNREAD_MESSAGES = 1000  # kept over a disconnect for an application that does not read them
REQUEST_TIMEOUT = 10.0  # seconds
REQUEST_TRIES = 3
PROBE_PATH = "/graceful/ping/"  # where the quickstart puts it
MAX_SIZE = 16 * 1024 * 1024  # bytes of one WebSocket message from the server


class GracefulClient(Known):
    """A client of one server, or of the nodes of one deployment.

        async with GracefulClient("wss://example.com/ws/chat/") as client:
            result = await client.send({"hello": "world"})
            async for message in client:
                print(message.seq, message.data)

    * ``urls``: one or several; of those that work one of the nearest is dialled, another when one
      cannot be reached, is lost or drains
    * ``probe``: the path of an HTTP page whose answer shows how near an endpoint is, asked of the
      same hosts; None: never, and the first choice is a random one
    * ``breakers``: a dict in which several clients of a process share what they know of endpoints
      that fail; by default each knows its own
    * ``headers``, ``origin``: of the handshake; ``headers`` may be a function, called for each
      try, so that credentials can be fresh
    * ``backoff``: the schedule of tries
    * ``reconnect_window``: seconds, in place of what the server announces (None)
    * ``open_timeout``, ``welcome_timeout``: seconds for the handshake, and then for the welcome
    * ``on_event`` hears of everything but messages; ``on_message``, if given, gets the messages
      instead of the iteration. Both are called on the event loop and must not block or raise.
    * ``websockets``: further keyword arguments of ``websockets.asyncio.client.connect``
    * ``opener``: called in its place, for connections that are no sockets

    Messages that nobody takes are not acknowledged, and after a while the server sends no others.
    Not for use from several threads. ``close`` has to be awaited at the end; ``async with`` does.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        origin: str | None = None,
        backoff: Backoff | None = None,
        reconnect_window: float | None = None,
        probe: str | None = PROBE_PATH,
        breakers: MutableMapping[str, Breaker] | None = None,
        open_timeout: float = 10.0,
        welcome_timeout: float = 15.0,
        on_event: Callable[[Event], None] | None = None,
        on_message: Callable[[MessageReceived], None] | None = None,
        random: Callable[[], float] = random_module.random,
        session: ClientSession | None = None,
        websockets: Mapping[str, Any] | None = None,
        opener: Callable[..., Awaitable[ClientConnection]] | None = None,
    ) -> None:
        self.urls = (urls,) if isinstance(urls, str) else tuple(urls)
        if not self.urls:
            raise ValueError("at least one URL is needed")
        for url in self.urls:
            check_url(url)
        arguments = {"max_size": MAX_SIZE, **(websockets or {})}
        endpoints = Endpoints(self.urls, random, breakers)
        prober = None if probe is None else prober_for(endpoints, probe, arguments)

        def options() -> SocketOptions:
            fresh = headers() if callable(headers) else headers
            return SocketOptions(open_timeout, welcome_timeout, fresh, origin, arguments, opener)

        self.session = session or ClientSession()
        self._on_event = on_event
        self._on_message = on_message
        self._messages: deque[MessageReceived] = deque()
        self._outcomes = Outcomes()
        self._changed = asyncio.Event()  # anything that somebody may wait for
        self._connector = Connector(
            self.session,
            Dialer(self.session, endpoints, options, prober, random),
            self._hear,
            backoff=backoff or Backoff(),
            random=random,
            window=reconnect_window,
        )

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.connected()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def start(self) -> None:
        """Starts connecting, and returns. While the client waits to try again: tries now, and the
        count of tries starts afresh. After ``suspend`` the session goes on. Raises SessionLost
        when the client is closed."""
        self._connector.start()

    async def connected(self) -> None:
        """Returns when there is a connection. Raises SessionLost when there will be none."""
        while self.session.link is None:
            await self._change()

    async def close(self, reason: str = "") -> None:
        """Says bye, which ends the session on the server, and closes. Messages without an outcome
        fail with SessionLost. Nothing of the client is left when it returns."""
        if self._connector.end is None:
            self._connector.end = SessionLost(CloseCode.NORMAL, reason or "closed")
        try:
            await self._connector.bye(reason)
        finally:  # also when the wait for the server's answer is cancelled
            await self._connector.stop(CloseCode.NORMAL, reason)

    async def suspend(self) -> None:
        """Closes 4000: the session stays on the server, and ``start`` goes on with it."""
        await self._connector.stop(CloseCode.SUSPENDED, "suspended")

    # --- messages -----------------------------------------------------------------------------

    async def send(self, data: Any, *, wait: bool = True) -> Any:
        """Sends ``data`` once, over as many connections as it takes, and returns what its handler
        returned. With ``wait=False`` it returns None as soon as there is room in the queue.

        A cancelled wait does not take the message back. Raises ValueError and TypeError for what
        the server would not take, Nacked, and SessionLost when the client is closed.
        """
        message = await self._queue(data)
        return await self._outcomes.wait(message) if wait else None

    async def request(
        self,
        data: Any,
        *,
        timeout: float = REQUEST_TIMEOUT,  # noqa: ASYNC109  (a budget for several waits)
        tries: int = REQUEST_TRIES,
    ) -> Any:
        """Like ``send``, for an answer that is of no use late: ``timeout`` seconds in all, and at
        most ``tries`` when the server says that it is busy, 50 ms apart and doubling.

        A request that is given up and is not on its way is taken back: it will not be handled.
        Raises CircuitOpen at once when no endpoint works, RequestTimeout, Nacked, SessionLost, and
        what ``send`` raises.
        """
        self._connector.check_circuit()
        url = self._connector.current
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        message = None
        try:
            async with asyncio.timeout_at(until):
                message = await self._queue(data, tries)
            result = await self._outcomes.wait(message, until - loop.time())
        except TimeoutError:
            sent = message is not None and not self.session.withdraw(message)
            if sent:
                self._connector.answered(url, False)
            raise RequestTimeout(timeout, sent) from None
        except asyncio.CancelledError:
            if message is not None:
                self.session.withdraw(message)
            raise
        finally:
            self._changed.set()  # there may be room
        self._connector.answered(url, True)
        return result

    async def _queue(self, data: Any, tries: int | None = None) -> Outgoing:
        """Puts a message into the queue, as soon as there is room."""
        text = self.session.encode(data)  # refused before it waits
        while self.session.waiting >= QUEUE_MESSAGES or self.session.waiting_bytes >= QUEUE_BYTES:
            await self._change()
            self.session.check_size(text)  # the limit may be another server's by now
        if self._connector.end is not None:
            raise self._connector.end
        message = self.session.queue(text, tries)
        self._connector.used()
        return message

    def volatile(self, data: Any) -> bool:
        """Sends ``data`` without a number; False when it was dropped for want of a connection."""
        sent = self.session.volatile(data)
        self._connector.used()
        return sent

    async def receive(self) -> MessageReceived:
        """The next message. Raises SessionLost when there will be none."""
        while not self._messages:
            await self._change()
        message = self._messages.popleft()
        self._handed(message)
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MessageReceived:
        """Ends after ``close``; raises SessionLost when the server ended the session."""
        try:
            return await self.receive()
        except SessionLost as error:
            if error.code == CloseCode.NORMAL:
                raise StopAsyncIteration from None
            raise

    # --- for tests and demonstrations ---------------------------------------------------------

    def abort(self) -> None:
        """Cuts the TCP connection without a close frame, as a lost network does."""
        if self._connector.socket is not None:
            self._connector.socket.abort()

    def pause_reading(self) -> None:
        """Stops reading from the current socket; the client's own clock of silence stops too."""
        if self._connector.socket is not None:
            self._connector.socket.pause_reading()

    def resume_reading(self) -> None:
        """Reads from the current socket again."""
        if self._connector.socket is not None:
            self._connector.socket.resume_reading()

    # --- events -------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            if self._on_message is None:
                self._messages.append(event)
            else:
                _call(self._on_message, event)
                self._handed(event)
        elif isinstance(event, MessageAcknowledged):
            self._outcomes.settle(event.message, event.result)
        elif isinstance(event, MessageNacked) and (not event.retry or event.message.is_spent):
            self._outcomes.fail(event.message, Nacked(event.code, event.detail))
        elif isinstance(event, Disconnected) and len(self._messages) > UNREAD_MESSAGES:
            self._messages = deque(self.session.forget(self._messages))
        elif isinstance(event, StateChanged) and event.new == "closed":
            assert self._connector.end is not None
            self._outcomes.fail_all(self._connector.end)
        elif isinstance(event, GapTold) and self._on_event is None:
            logger.error("messages are missing, and nobody listens for it: %s", event)
        if self._on_event is not None and not isinstance(event, MessageReceived):
            _call(self._on_event, event)
        self._changed.set()

    def _handed(self, message: MessageReceived) -> None:
        self.session.handed(message, asyncio.get_running_loop().time())
        self._connector.wake()

    async def _change(self) -> None:
        """Returns when anything has changed. Raises SessionLost when the client is closed."""
        if self._connector.end is not None:
            raise self._connector.end
        self._changed.clear()
        await self._changed.wait()


def _call(callback: Callable[[Any], None], event: Event) -> None:
    """An application's mistake stays its own: the protocol goes on."""
    try:
        callback(event)
    except Exception:
        logger.exception("%r raised", callback)


def connect(urls: str | Sequence[str], **options: Any) -> GracefulClient:
    """``async with connect(url) as client:`` is the same as with ``GracefulClient(url)``."""
    return GracefulClient(urls, **options)
