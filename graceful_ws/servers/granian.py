"""granian: a drain before its runtime cancels the connections, and closes that do not hang.

The workers of granian 2.8 stop on a signal of their own event loop: Rust then cancels what serves
a WebSocket, without a close frame and without a word to the application, and the lifespan
shutdown comes after it (emmett-framework/granian#796). ``set_loop_signals`` is imported by each
worker after its application, so that replacing it from there is early enough.

A connection's ``receive()`` holds what ``websocket.close`` needs, so that a close waits for the
client's next message, which may never come; a ``send()`` to a peer that does not read holds it
too. ``_Connection`` stands between the application and granian: it ends a pending ``receive()``
before it closes. What granian sends by threads of its own cannot be written directly, its limits
(16 MiB a frame, 64 MiB a message) cannot be lowered, and it ignores the headers of an accept.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import sys
from typing import Any

import granian._signals as _signals
import granian.server.mp as _workers

from graceful_ws.core.close_codes import CloseCode, cut_reason

from . import EXTENSION, Offer
from .granian_sockets import Addresses, Sockets, addresses, until_peer_closes
from .granian_stop import drain_first
from .signals import Stop

logger = logging.getLogger("graceful_ws.servers")

LET_GO = 0.05  # seconds that granian gets for what it does at once
TRIES = 40  # of that time, for a connection that is dropped
NOT_ADAPTED = "close() waits for the client's next message, and connections may not be dropped"

_close_timeout = 10.0
_sockets = Sockets()
_dropping: set[asyncio.Task[None]] = set()


def set_close_timeout(seconds: float) -> None:
    global _close_timeout
    _close_timeout = seconds


def install(stop: Stop) -> dict[str, str]:
    """Wrap what its workers call; return what could not be wrapped, and what is lost by that."""
    missing = {}
    worker_signal = getattr(_signals, "WorkerSignal", None)
    if hasattr(_signals, "set_loop_signals") and hasattr(worker_signal, "set"):
        _signals.set_loop_signals = drain_first(worker_signal, stop, _all_dropped)
    else:
        missing["granian._signals.set_loop_signals"] = "granian cuts connections without a drain"
    wrap = getattr(_workers, "_asgi_call_wrap", None)
    if callable(wrap):
        _workers._asgi_call_wrap = _wrap_application(wrap)  # type: ignore[attr-defined]
    else:
        missing["granian.server.mp._asgi_call_wrap"] = NOT_ADAPTED
    if "granian.server.embed" in sys.modules:
        missing["granian.server.embed"] = (
            "granian that is embedded cuts connections without a drain"
        )
    return missing


async def _all_dropped() -> None:
    """Else Rust aborts the process: it holds objects of Python."""
    if _dropping:
        await asyncio.wait(_dropping, timeout=TRIES * LET_GO)


def _wrap_application(wrap: Any) -> Any:
    @functools.wraps(wrap)
    def wrap_adapted(application: Any, *args: Any, **kwargs: Any) -> Any:
        return wrap(_outermost(application), *args, **kwargs)

    return wrap_adapted


def _outermost(application: Any) -> Any:
    @functools.wraps(application, updated=())
    async def adapted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await application(scope, receive, send)
            return
        known = addresses(scope)
        connection = _Connection(receive, send, known)
        # A dictionary of its own: granian has one for all connections.
        scope["extensions"] = {
            **(scope.get("extensions") or {}),
            EXTENSION: Offer(socket=connection),
        }
        running = application(scope, connection.receive, connection.send)
        if type(asyncio.current_task()) is not asyncio.Task:
            # --task-impl rust: what it runs is no task, and cannot be cancelled.
            running = asyncio.ensure_future(running)
        if known is not None:
            _sockets.began(known)
        try:
            await running
        finally:
            if known is not None:
                _sockets.ended(known)
            await connection.ended()

    return adapted


class _Connection:
    """``receive`` and ``send`` of one WebSocket, and ``graceful_ws.servers.Socket``."""

    __slots__ = (
        *("_accepted", "_addresses", "_body", "_closed", "_closing", "_dropped", "_end"),
        *("_lingering", "_loop", "_native_receive", "_native_send", "_receiving", "_sending"),
    )

    is_closing = False
    write = None

    def __init__(self, receive: Any, send: Any, addresses: Addresses | None) -> None:
        self._addresses = addresses
        self._native_receive = receive
        self._native_send = send
        self._loop = asyncio.get_running_loop()
        self._receiving: Any = None  # what granian has not answered yet
        self._sending: list[Any] = []
        self._accepted = False
        self._closing: Any = None
        self._lingering: asyncio.Task[None] | None = None
        self._closed: asyncio.Event | None = None  # from the application's close on
        self._end: dict[str, Any] = {}  # what the application receives then
        self._body: list[bytes] = []  # of a refusal
        self._dropped: asyncio.Task[None] | None = None

    async def receive(self) -> Any:
        """The next event; after the application's own close, its code and reason."""
        if self._closed is None:
            self._receiving = pending = self._native_receive()
            try:
                event = await pending
            except asyncio.CancelledError:
                if self._closed is None or _cancelled():
                    raise
            else:
                if event["type"] == "websocket.disconnect":
                    await self._disconnected(event)
                return event
            finally:
                self._receiving = None
        await self._closed.wait()
        return dict(self._end)

    async def _disconnected(self, event: dict[str, Any]) -> None:
        event.setdefault("reason", "")
        if event["code"] == CloseCode.NO_STATUS:
            # Lost, or closed without a code, or granian could not read a frame: it says the same
            # for all three. The last one is told, by the code that RFC 6455 (7.4.1) has for it.
            code = int(CloseCode.PROTOCOL_ERROR)
            close = self._native_send({"type": "websocket.close", "code": code, "reason": ""})
            await asyncio.wait([close], timeout=LET_GO)
            close.cancel()

    async def send(self, message: dict[str, Any]) -> None:
        """Raises OSError when the connection was dropped meanwhile, and what granian raises when
        the peer is gone (RuntimeError)."""
        kind = message["type"]
        if kind == "websocket.close":
            await self._close(message)
        elif kind == "websocket.http.response.start":
            # Else granian keeps the connection of whom it refused, for the next request.
            close = (b"connection", b"close")
            await self._pass({**message, "headers": [*message.get("headers", ()), close]})
        elif kind == "websocket.http.response.body":
            await self._refuse(message)
        else:
            await self._pass(message)
            self._accepted = True

    async def _pass(self, message: dict[str, Any]) -> None:
        if self._dropped is not None:
            raise ConnectionAbortedError("the connection was dropped")
        pending = self._native_send(message)
        self._sending = [one for one in self._sending if not one.done()]
        if hasattr(pending, "done"):  # no answer of granian that was ready at once
            self._sending.append(pending)
        try:
            await pending
        except asyncio.CancelledError:
            if self._dropped is None or _cancelled():
                raise
            raise ConnectionAbortedError("the connection was dropped") from None

    async def _refuse(self, message: dict[str, Any]) -> None:
        """granian takes a body in one piece only, and says nothing when it has sent it."""
        self._body.append(bytes(message.get("body", b"")))
        if message.get("more_body"):
            return
        self._ends(CloseCode.ABNORMAL, "")
        whole = {"type": message["type"], "body": b"".join(self._body)}
        try:
            await self._native_send(whole)
        finally:
            self._over()

    async def _close(self, message: dict[str, Any]) -> None:
        if self._closed is not None:
            return
        code, reason = message.get("code"), message.get("reason")
        code = int(CloseCode.NORMAL if code is None else code)
        reason = cut_reason(reason or "")
        self._ends(code, reason)
        if self._receiving is not None:
            self._receiving.cancel()
        held = None
        if self._accepted and self._addresses is not None:
            held = _sockets.second(self._addresses)
        self._closing = self._native_send({"type": message["type"], "code": code, "reason": reason})
        try:
            await self._closing
        except asyncio.CancelledError:
            if self._dropped is None or _cancelled():
                raise
        finally:
            if held is None:
                self._over()
            elif self._dropped is not None:
                self._lingered(held)
            else:
                self._lingering = self._loop.create_task(until_peer_closes(held, _close_timeout))
                self._lingering.add_done_callback(lambda _: self._lingered(held))

    def _lingered(self, held: socket.socket) -> None:
        held.close()
        self._over()

    async def ended(self) -> None:
        """The application has returned. granian keeps a connection that was refused until nothing
        refers to its functions any more, and what was in the scope may be part of a cycle."""
        if self._dropped is not None:
            await asyncio.wait({self._dropped})
        self._native_receive = self._native_send = _gone

    def _ends(self, code: int, reason: str) -> None:
        self._closed = asyncio.Event()
        self._end = {"type": "websocket.disconnect", "code": int(code), "reason": reason}

    def _over(self) -> None:
        assert self._closed is not None
        self._closed.set()

    # graceful_ws.servers.Socket
    def drop(self) -> None:
        if self._dropped is None and self._native_send is not _gone:
            self._dropped = self._loop.create_task(self._drop())
            _dropping.add(self._dropped)
            self._dropped.add_done_callback(_dropping.discard)

    async def _drop(self) -> None:
        """granian has no way to. But a close takes the connection out of its hands, and is the
        only one that holds it then: cancelled, it lets go of it, and the socket is closed."""
        if self._closed is None:
            self._ends(CloseCode.ABNORMAL, "")
        if self._lingering is not None:
            self._lingering.cancel()
            return
        close = {"type": "websocket.close", "code": int(CloseCode.INTERNAL_ERROR), "reason": ""}
        for _ in range(TRIES):
            for pending in (self._receiving, self._closing, *self._sending):
                if pending is not None:
                    pending.cancel()
            self._closing = self._native_send(close)
            done, _ = await asyncio.wait([self._closing], timeout=LET_GO)
            if done:
                break
        else:
            logger.warning("granian does not let go of a connection that was to be dropped.")
        self._over()

    def limit(self, size: int) -> None:
        """granian has limits of its own."""

    def is_own(self, send: Any) -> bool:
        return bool(send == self.send)


async def _gone(*_: Any) -> None:
    raise ConnectionAbortedError("the connection is over")


def _cancelled() -> bool:
    """Whether it is the running task that was cancelled, not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
