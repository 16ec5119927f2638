"""The Python client: one session over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.retry import Backoff

from .connector import Connector
from .errors import Nacked, SessionLost
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
from .session import ClientSession
from .socket import SocketOptions

logger = logging.getLogger("graceful_ws.client")

QUEUE_MESSAGES = 100  # that wait for their outcome; then ``send`` waits
QUEUE_BYTES = 1024 * 1024
UNREAD_MESSAGES = 1000  # kept over a disconnect for an application that does not read them
MAX_SIZE = 16 * 1024 * 1024  # bytes of one WebSocket message from the server


class GracefulClient:
    """A client of one server, or of the nodes of one deployment in turn.

        async with GracefulClient("wss://example.com/ws/chat/") as client:
            result = await client.send({"hello": "world"})
            async for message in client:
                print(message.seq, message.data)

    * ``urls``: one or several; the next one is tried when one cannot be reached or drains
    * ``headers``, ``origin``: of the handshake; ``headers`` may be a function, called for each
      try, so that credentials can be fresh
    * ``backoff``: the schedule of tries
    * ``reconnect_window``: seconds, in place of what the server announces (None)
    * ``open_timeout``, ``welcome_timeout``: seconds for the handshake, and then for the welcome
    * ``on_event`` hears of everything but messages; ``on_message``, if given, gets the messages
      instead of the iteration. Both are called on the event loop and must not block or raise.
    * ``websockets``: further keyword arguments of ``websockets.asyncio.client.connect``

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
        open_timeout: float = 10.0,
        welcome_timeout: float = 15.0,
        on_event: Callable[[Event], None] | None = None,
        on_message: Callable[[MessageReceived], None] | None = None,
        random: Callable[[], float] = random_module.random,
        session: ClientSession | None = None,
        websockets: Mapping[str, Any] | None = None,
    ) -> None:
        self.urls = (urls,) if isinstance(urls, str) else tuple(urls)
        if not self.urls:
            raise ValueError("at least one URL is needed")
        arguments = {"max_size": MAX_SIZE, **(websockets or {})}

        def options() -> SocketOptions:
            fresh = headers() if callable(headers) else headers
            return SocketOptions(open_timeout, welcome_timeout, fresh, origin, arguments)

        self.session = session or ClientSession()
        self._on_event = on_event
        self._on_message = on_message
        self._messages: deque[MessageReceived] = deque()
        self._waiters: dict[Outgoing, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()  # anything that somebody may wait for
        self._connector = Connector(
            self.session,
            self.urls,
            options,
            self._hear,
            backoff=backoff or Backoff(),
            random=random,
            window=reconnect_window,
        )

    # --- what is known ------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``disconnected``, ``connecting``, ``connected``, ``draining`` (told to move), ``waiting``
        (to try again), ``parked`` (the same, with long delays) or ``closed``."""
        return self._connector.state

    @property
    def session_id(self) -> str | None:
        """The public id of the session; None before the first welcome."""
        return self.session.session_id

    @property
    def node(self) -> str | None:
        """The name of the node that answered last."""
        return self.session.node

    @property
    def endpoint(self) -> str | None:
        """The URL of the current connection; None without one."""
        return None if self._connector.socket is None else self._connector.socket.url

    @property
    def last_seq(self) -> int:
        """The number of the last message received in the session's own sequence."""
        return self.session.last_seq

    @property
    def rtt(self) -> float | None:
        """Round trip in seconds; None until the server has told one."""
        return self.session.rtt

    @property
    def resumes(self) -> int:
        """How many times the session went on over another connection."""
        return self._connector.resumes

    @property
    def refused(self) -> int:
        """Tries that ended before a WebSocket was open."""
        return self._connector.refused

    @property
    def close_codes(self) -> Counter[int]:
        """The codes with which connections ended, 1006 without a close frame. Connections that
        were left for another one do not count."""
        return self._connector.close_codes

    @property
    def replayed(self) -> int:
        """Messages received that were older than the welcome before them."""
        return self.session.replayed

    @property
    def resent(self) -> int:
        """Messages that were sent again."""
        return self.session.resent

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
            await self._connector.bye(reason)
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
        self.session.encode(data)  # refused before it waits
        while self.session.waiting >= QUEUE_MESSAGES or self.session.waiting_bytes >= QUEUE_BYTES:
            await self._change()
        if self._connector.end is not None:
            raise self._connector.end
        message = self.session.send(data)
        self._connector.wake()
        if not wait:
            return None
        waiter = self._waiters[message] = asyncio.get_running_loop().create_future()
        try:
            return await waiter
        finally:
            self._waiters.pop(message, None)

    def volatile(self, data: Any) -> bool:
        """Sends ``data`` without a number; False when it was dropped for want of a connection."""
        sent = self.session.volatile(data)
        self._connector.wake()
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
            self._resolve(event.message, event.result)
        elif isinstance(event, MessageNacked) and not event.retry:
            self._resolve(event.message, Nacked(event.code, event.detail))
        elif isinstance(event, Disconnected) and len(self._messages) > UNREAD_MESSAGES:
            self._messages = deque(self.session.forget(self._messages))
        elif isinstance(event, StateChanged) and event.new == "closed":
            self._fail_waiters()
        elif isinstance(event, GapTold) and self._on_event is None:
            logger.error("messages are missing, and nobody listens for it: %s", event)
        if self._on_event is not None and not isinstance(event, MessageReceived):
            _call(self._on_event, event)
        self._changed.set()

    def _handed(self, message: MessageReceived) -> None:
        self.session.handed(message, asyncio.get_running_loop().time())
        self._connector.wake()

    def _resolve(self, message: Outgoing, outcome: Any) -> None:
        waiter = self._waiters.pop(message, None)
        if waiter is None or waiter.done():
            return
        if isinstance(outcome, Nacked):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)

    def _fail_waiters(self) -> None:
        assert self._connector.end is not None
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(self._connector.end)
        self._waiters.clear()

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
