"""The wire half of a communicator: what its client session says and hears on one line at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from graceful_ws.client.errors import Nacked
from graceful_ws.client.events import (
    CloseNeeded,
    Event,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    Outgoing,
    RoundTrip,
    Welcomed,
)
from graceful_ws.client.link import ACK_BYTES, Link
from graceful_ws.client.session import ClientSession
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import SUBPROTOCOL, Welcome, decode_server

from .errors import ConnectionEnded
from .line import WITHIN, Application, Closed, Headers, Line, websocket_scope
from .work import work_here

MARK = "graceful_ws.testing"  # in the scope: which client it is


class Speaker:
    """``Line`` calls it with what the application sends, and it answers at once, without a task:
    hello, numbers, acknowledgements and pongs are those of ``graceful_ws.client``."""

    def __init__(
        self,
        application: Application,
        path: str,
        *,
        headers: Headers | None = None,
        user: Any = None,
        scope: Mapping[str, Any] | None = None,
        session_token: str | None = None,
        last_seq: int = 0,
        within: float = WITHIN,
    ) -> None:
        self.application = application
        self.session = ClientSession(token=session_token, last_seq=last_seq)
        self.closed: Closed | None = None  # how the last connection ended; None: it is open
        self.welcome: Welcome | None = None
        self.resumed = False  # by the last welcome
        self.duplicates = 0  # copies that came again and were not handed out
        self._arguments: dict[str, Any] = {"headers": headers, "user": user, "extra": scope}
        self._path = path
        self._within = within
        self._line: Line | None = None
        self._link: Link | None = None
        self._rewound: int | None = None  # what the next hello says in place of the truth
        self._messages: deque[MessageReceived] = deque()
        self._held: list[MessageReceived] | None = None  # received, and not acknowledged
        self._events: list[Event] = []
        self._arrived: list[MessageReceived] = []  # on this connection
        self._outcomes: dict[Outgoing, asyncio.Future[Any]] = {}
        self._silent = False
        self._again: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    # --- the line -----------------------------------------------------------------------------

    def _dial(self) -> None:
        if self._line is not None and self.closed is None:
            raise RuntimeError("it is connected: drop() or close() first")
        work_here()
        self.closed = self.welcome = None
        self._arrived = []
        self._link = self.session.connect()
        scope = websocket_scope(self._path, subprotocols=[SUBPROTOCOL], **self._arguments)
        scope[MARK] = self
        self._line = Line(self.application, scope, self._received, self._line_changed)

    async def _hang_up(self, code: int, reason: str) -> None:
        if self._line is None or self.closed is not None:
            raise RuntimeError("it is not connected")
        self._line.hang_up(code, reason)
        await self._over()

    def _give_up(self) -> None:
        """Whatever it waits for: the client is gone, if it is not yet."""
        assert self._line is not None
        self._line.hang_up(CloseCode.ABNORMAL, "given up")

    async def _over(self) -> None:
        """Returns when the application has. Raises what it raised."""
        assert self._line is not None
        if self._again is not None:
            self._again.cancel()
        await self._line.over()

    def _line_changed(self) -> None:
        line, link = self._line, self._link
        assert line is not None and link is not None
        if line.ended is not None:
            self.closed = line.ended
            for event in link.closed(line.ended.code, self._now()):
                self._hear(event)
        elif line.subprotocol != SUBPROTOCOL:
            line.hang_up(CloseCode.SUSPENDED, f"the application did not accept {SUBPROTOCOL}")
        else:
            line.say(self._hello(link))
        self._changed.set()

    def _hello(self, link: Link) -> str:
        hello = link.hello()
        if self._rewound is None:
            return hello
        fields = {**msgspec.json.decode(hello), "last_seq_id": self._rewound}
        self._rewound = None
        return msgspec.json.encode(fields).decode()

    # --- in -----------------------------------------------------------------------------------

    def _received(self, data: str | bytes) -> None:
        link, line = self._link, self._line
        assert link is not None and line is not None
        if isinstance(data, bytes):
            line.hang_up(CloseCode.SUSPENDED, "bytes, which graceful.v1 has not")
            return
        messages = sum(kind == "message" for kind, _ in decode_server(data))
        events = link.receive(data, self._now())
        self.duplicates += messages - sum(isinstance(e, MessageReceived) for e in events)
        for event in events:
            self._hear(event)
        self._pump()
        self._changed.set()

    def _hear(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            self._messages.append(event)
            self._arrived.append(event)
        elif isinstance(event, MessageAcknowledged | MessageNacked):
            self._settled(event)
        elif isinstance(event, CloseNeeded):
            assert self._line is not None
            self._line.hang_up(event.code, event.reason)
        elif not isinstance(event, RoundTrip):
            self._events.append(event)
            if isinstance(event, Welcomed):
                self.welcome, self.resumed = event.frame, event.resumed

    def _settled(self, event: MessageAcknowledged | MessageNacked) -> None:
        if isinstance(event, MessageNacked) and event.retry:
            return  # sent again by itself
        outcome = self._outcomes.pop(event.message, None)
        if outcome is None or outcome.done():
            return
        if isinstance(event, MessageAcknowledged):
            outcome.set_result(event.result)
        else:
            outcome.set_exception(Nacked(event.code, event.detail))
            outcome.exception()  # a test may not ask

    # --- out ----------------------------------------------------------------------------------

    def _queue(self, data: Any, tries: int | None) -> asyncio.Future[Any]:
        message = self.session.send(data, tries)
        outcome = self._outcomes[message] = asyncio.get_running_loop().create_future()
        self._pump()
        return outcome

    def _acknowledge(self, messages: list[MessageReceived]) -> None:
        for message in messages:
            self.session.handed(message, self._now())
        if messages and self.session.link is not None:
            self.session.link.handed(ACK_BYTES, self._now())  # so much is acknowledged at once
        self._pump()

    def _pump(self) -> None:
        """Sends what there is to send."""
        link, line = self.session.link, self._line
        if link is None or line is None or self.closed is not None or self._silent:
            return
        for text in link.data_to_send(self._now()):
            line.say(text)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if link.deadline is not None:
            self._again = asyncio.get_running_loop().call_at(link.deadline, self._pump)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- waiting ------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], Any], what: str) -> None:
        """Returns when the condition holds. Raises ConnectionEnded when it no longer can,
        TimeoutError, and what the application raised."""
        if self._line is None:
            raise RuntimeError("connect() first")
        try:
            async with asyncio.timeout(self._within):
                while not condition():
                    if self.closed is not None:
                        await self._raise_end()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{what} has not come within {self._within:g} s") from None

    async def _raise_end(self) -> None:
        assert self._line is not None and self.closed is not None
        await self._over()
        if self._line.refused is not None:
            raise self._line.refused
        raise ConnectionEnded(*self.closed)
