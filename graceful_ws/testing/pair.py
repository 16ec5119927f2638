"""The real client and the application in one process, with nothing between them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Response

from graceful_ws.client import Backoff, GracefulClient
from graceful_ws.core.close_codes import CloseCode

from .errors import Refused
from .line import HOST, Application, Line, websocket_scope
from .work import work_here

AT_ONCE = Backoff(base_delay=0.0)


def connect_in_process(
    application: Application,
    path: str,
    *,
    user: Any = None,
    scope: Mapping[str, Any] | None = None,
    **options: Any,
) -> GracefulClient:
    """The client that ``graceful_ws.client.connect`` returns, whose connections lead straight into
    ``application``: to test code that uses it.

        async with connect_in_process(application, "/ws/orders/") as client:
            client.abort()  # the network is gone; it reconnects by itself
            assert await client.send({"order": 1}) == {"ok": True}

    It reconnects at once. To have the delays of a real one, which a fake clock can skip, give
    ``backoff=Backoff()``; chance is taken out of them unless ``random`` is given. ``user`` and
    ``scope`` are those of ``GracefulCommunicator``, further options those of ``GracefulClient``.

    Raises NotReady when no node runs for the test.
    """
    work_here()

    async def opener(
        url: str,
        *,
        subprotocols: Iterable[str] = (),
        additional_headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        **_: Any,
    ) -> Any:
        headers = dict(additional_headers or {})
        if origin is not None:
            headers["origin"] = origin
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        made = websocket_scope(
            target, headers=headers, user=user, subprotocols=subprotocols, extra=scope
        )
        connection = _Connection(application, made)
        await connection.opened()
        return connection

    quiet = {"backoff": AT_ONCE, "random": lambda: 0.0, "probe": None}
    return GracefulClient(f"ws://{HOST}{path}", opener=opener, **{**quiet, **options})


class _Connection:
    """As much of a ``ClientConnection`` of websockets as the client uses, and of its transport."""

    def __init__(self, application: Application, scope: dict[str, Any]) -> None:
        self._arrived: deque[str | bytes] = deque()
        self._turn = asyncio.Event()  # set, and replaced, when anything has happened
        self._own_close: Close | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._line = Line(application, scope, self._received, self._changed)
        self.transport = self

    def _received(self, data: str | bytes) -> None:
        self._arrived.append(data)
        self._changed()

    def _changed(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def opened(self) -> None:
        """Raises InvalidStatus when the handshake is refused, and TypeError, after which a client
        does not try again, when the application raises: no route leads there, for example."""
        try:
            while not self._line.accepted and self._line.ended is None:
                await self._turn.wait()
        except BaseException:
            self.abort()
            raise
        if self._line.accepted:
            return
        if self._line.refused is None:
            try:
                await self._line.over()
            except Exception as error:
                raise TypeError(f"the application raised {error!r}") from error
        refused = self._line.refused or Refused(500)
        headers = WireHeaders([(name.decode(), value.decode()) for name, value in refused.headers])
        raise InvalidStatus(Response(refused.status, "", headers, refused.body.encode()))

    @property
    def subprotocol(self) -> str | None:
        return self._line.subprotocol

    async def recv(self) -> str | bytes:
        while True:
            await self._reading.wait()
            if self._arrived:
                return self._arrived.popleft()
            if self._line.ended is not None:
                raise self._error()
            await self._turn.wait()

    async def send(self, text: str) -> None:
        if self._line.ended is not None:
            raise self._error()
        self._line.say(text)

    async def close(self, code: int, reason: str) -> None:
        if self._line.ended is None:
            self._own_close = Close(code, reason)
            self._line.hang_up(code, reason)
        await asyncio.wait([self._line.task])

    async def wait_closed(self) -> None:
        while self._line.ended is None:
            await self._turn.wait()

    def _error(self) -> ConnectionClosedError:
        ended = self._line.ended
        if self._own_close is not None:
            return ConnectionClosedError(self._own_close, self._own_close, False)
        if ended is None or ended.code == CloseCode.ABNORMAL:
            return ConnectionClosedError(None, None)
        close = Close(ended.code, ended.reason)
        return ConnectionClosedError(close, close, True)

    # --- its transport ------------------------------------------------------------------------

    def abort(self) -> None:
        self._line.hang_up(CloseCode.ABNORMAL)

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def is_closing(self) -> bool:
        return self._line.ended is not None
