"""A client for tests: it speaks ``graceful.v1`` with an application in the same process."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from graceful_ws.client.events import GapTold, MessageReceived, VolatileReceived
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import Welcome

from .errors import ConnectionEnded
from .line import Closed
from .speaker import MARK, Speaker
from .work import work_here

if TYPE_CHECKING:
    from graceful_ws.node.live import LiveConnection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resumed:
    """What came of a resume. ``resumed`` False: it is a new session. ``messages``: those that were
    missed, and what the consumer's hooks sent; ``receive`` returns them too. ``duplicates``: copies
    of what was there already, which it does not return."""

    resumed: bool
    messages: tuple[MessageReceived, ...]
    duplicates: int
    gaps: tuple[GapTold, ...]


class GracefulCommunicator(Speaker):
    """One client of a ``GracefulConsumer``, over as many connections as the test wants.

        async with GracefulCommunicator(application, "/ws/orders/") as client:
            assert await client.send({"order": 1}) == {"ok": True}
            assert (await client.receive()).data == {"ordered": 1}

    * ``headers``: a mapping, or ASGI's pairs of bytes; ``host`` and ``origin`` are those of a page
      of the same site
    * ``user``: ``scope["user"]``, which ``AuthMiddlewareStack`` leaves as it is
    * ``scope``: goes over the whole scope
    * ``session_token``, ``last_seq``: to go on with a session of another client
    * ``within``: seconds that anything may take, then TimeoutError

    Messages are acknowledged as they are received, pings are answered, numbers are checked, all as
    a real client does, and at once. ``receive`` returns messages, ``event`` the rest.

    A node has to run for it: the fixture ``graceful_node``, or ``running_node()``.
    """

    # --- opening and closing ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.bye()
        except Exception:
            if error is None:
                raise

    async def connect(self) -> Welcome:
        """Opens a connection, says hello and returns the welcome.

        Raises Refused for a handshake that was answered with an HTTP status, ConnectionEnded when
        it was closed before the welcome, NotReady when no node runs for the test, and whatever the
        application raises.
        """
        self._dial()
        try:
            await self._until(lambda: self.welcome, "a welcome")
        except BaseException:
            self._give_up()
            raise
        assert self.welcome is not None
        return self.welcome

    async def bye(self, reason: str = "") -> None:
        """Ends the session for good; returns when the consumer has ended. Without a connection
        nothing happens: the session stays."""
        if self._line is None:
            return
        if self.closed is None and self.session.link is not None:
            self.silent = False
            self.session.link.bye(reason)
            self._pump()
            await self._until(lambda: self.closed, "the end")
        self._give_up()
        await self._over()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Sends a close frame, as a page that is left; the session stays and can be resumed.
        Returns when the consumer has ended."""
        await self._hang_up(code, reason)

    async def drop(self) -> None:
        """The network is gone: no close frame, the server is told 1006. Messages that ``receive``
        has not returned are lost with it, and come again after ``resume``. Returns when the
        consumer has ended."""
        await self._hang_up(CloseCode.ABNORMAL, "dropped")
        for message in self._held or ():
            self.session.handed(message, self._now())
        self._messages = deque(self.session.forget(self._messages))

    async def wait_closed(self) -> Closed:
        """Waits until the server closes; returns code and reason when the consumer has ended."""
        await self._until(lambda: self.closed, "the end")
        await self._over()
        assert self.closed is not None
        return self.closed

    async def resume(self, *, last_seq: int | None = None) -> Resumed:
        """Connects with the session's token, and returns when all that was missed is here.

        ``last_seq`` asks for what came after that number of the session's own messages, as a client
        does that kept an older one: what it has already is counted as ``duplicates``. Raises as
        ``connect`` does.
        """
        before, known = self.duplicates, len(self._events)
        self._rewound = last_seq
        welcome = await self.connect()
        await work_here().settle()
        gaps = tuple(event for event in self._events[known:] if isinstance(event, GapTold))
        return Resumed(welcome.resumed, tuple(self._arrived), self.duplicates - before, gaps)

    def twin(self) -> GracefulCommunicator:
        """Another client with the same session, as a copied tab: when it connects, this one is
        closed 4501."""
        arguments = self._arguments
        return GracefulCommunicator(
            self.application,
            self._path,
            headers=arguments["headers"],
            user=arguments["user"],
            scope=arguments["extra"],
            session_token=self.session.token,
            last_seq=self.session.last_seq,
            within=self._within,
        )

    # --- what there is to know ----------------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The session's public id, as ``send_to_session`` takes it."""
        return self.session.session_id

    @property
    def session_token(self) -> str | None:
        """The secret with which a client resumes."""
        return self.session.token

    @property
    def last_seq(self) -> int:
        """The number of the last of the session's own messages that arrived."""
        return self.session.last_seq

    @property
    def consumer(self) -> Any:
        """The consumer that serves the connection. Raises ConnectionEnded when there is none."""
        return self._live().consumer

    def _live(self) -> LiveConnection:
        """The node's end of the connection."""
        from graceful_ws.node.node import local_nodes

        from .nodes import draining_nodes

        for node in [*local_nodes(), *draining_nodes()]:
            for live in node.connections:
                if live.scope.get(MARK) is self:
                    return live
        raise ConnectionEnded(*(self.closed or (CloseCode.ABNORMAL, "never accepted")))

    # --- sending ------------------------------------------------------------------------------

    async def send(self, data: Any, *, tries: int | None = None) -> Any:
        """Sends a numbered message and returns what its handler returned.

        Raises Nacked (``code``, ``detail``) when it was not handled; a message that the server asks
        to send again is sent again, ``tries`` times in all (None: until it is handled). Raises
        ConnectionEnded when the connection ends first: the message stays queued, and ``resume``
        sends it again. ValueError and TypeError for what is not JSON.
        """
        outcome = self.send_nowait(data, tries=tries)
        await self._until(outcome.done, "an outcome")
        return outcome.result()

    def send_nowait(self, data: Any, *, tries: int | None = None) -> asyncio.Future[Any]:
        """The same without waiting: returns the future of the result. Without a connection the
        message waits for ``resume``."""
        return self._queue(data, tries)

    def volatile(self, data: Any) -> bool:
        """Sends a message without a number; False without a connection."""
        sent = self.session.volatile(data)
        self._pump()
        return sent

    def send_text(self, text: str) -> None:
        """Sends a WebSocket message as it is, for what no real client says."""
        if self._line is not None:
            self._line.say(text)

    # --- receiving ----------------------------------------------------------------------------

    async def receive(self) -> MessageReceived:
        """The next message (``seq``, ``stream``, ``data``), acknowledged. ``stream`` is None for
        the session's own. Raises ConnectionEnded, and TimeoutError when none comes."""
        await self._until(lambda: self._messages, "a message")
        message = self._messages.popleft()
        if self._held is not None:
            self._held.append(message)
        else:
            self._acknowledge([message])
        return message

    async def receive_nothing(self, seconds: float = 0.0) -> bool:
        """True when all that is under way is done and no message has come of it. ``seconds``: to
        wait besides, for what comes through sockets. Raises AssertionError with a message that
        came."""
        await work_here().settle()
        if seconds > 0:
            await asyncio.sleep(seconds)
        if self._messages:
            raise AssertionError(f"received {self._messages[0]!r}")
        return True

    async def receive_volatile(self) -> Any:
        """The data of the next message without a number. Raises as ``receive`` does."""
        return (await self.event(VolatileReceived)).data

    async def event(self, kind: type[T]) -> T:
        """The next event of a class of ``graceful_ws.client``, such as ``GapTold``, ``Draining``,
        ``Subscribed`` or ``Superseded``, of those that were not asked for yet; it may have come
        before the connection ended. Raises as ``receive`` does."""

        def found() -> T | None:
            return next((event for event in self._events if isinstance(event, kind)), None)

        event = found()
        if event is None:
            await self._until(found, kind.__name__)
            event = found()
        assert event is not None
        self._events.remove(event)  # type: ignore[arg-type]
        return event

    def hold_acks(self) -> None:
        """From now on messages are received and not acknowledged, until ``release_acks``."""
        if self._held is None:
            self._held = []

    def release_acks(self) -> None:
        """Acknowledges what was received, and from now on everything."""
        held, self._held = self._held or [], None
        self._acknowledge(held)

    @property
    def silent(self) -> bool:
        """True while nothing leaves the client: no pong, no acknowledgement, no message, as with a
        machine that hangs. To be set."""
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        self._silent = silent
        self._pump()
