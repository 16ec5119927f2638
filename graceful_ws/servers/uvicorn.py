"""uvicorn: drain before it closes its listener and sends its own 1012, then exit with 0.

Lifespan shutdown is too late for a drain: it runs after ``Server.shutdown`` has closed the
sockets. The class attribute is looked up when a server stops, so wrapping it after the server has
been created, from the application's import, still works; it covers SIGTERM, SIGINT, workers,
``--reload``, ``--limit-max-requests`` and ``should_exit`` set by a program.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

from uvicorn.server import Server

from . import COMPRESSED_FROM, EXTENSION, Offer
from .signals import Stop

NEEDED = ("close_sent", "conn", "handshake_complete", "transport", "writable")  # to write
_close_timeout = 10.0


def set_close_timeout(seconds: float) -> None:
    global _close_timeout
    _close_timeout = seconds


def install(stop: Stop) -> dict[str, str]:
    """Wrap the server class; return what could not be wrapped, and what is lost by that."""
    missing = {}
    shutdown = getattr(Server, "shutdown", None)
    if inspect.iscoroutinefunction(shutdown):
        Server.shutdown = _drain_first(shutdown, stop)  # type: ignore[method-assign]
    else:
        missing["uvicorn.server.Server.shutdown"] = "uvicorn closes connections without a drain"
    startup = getattr(Server, "startup", None)
    if inspect.iscoroutinefunction(startup):
        Server.startup = _wrap_application(startup)  # type: ignore[method-assign]
    else:
        missing["uvicorn.server.Server.startup"] = (
            "connections are cut before the peer has answered the close, and may not be dropped"
        )
    return missing


def _drain_first(shutdown: Any, stop: Stop) -> Any:
    @functools.wraps(shutdown)
    async def drain_and_shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
        signals = getattr(self, "_captured_signals", None)
        if signals:
            # A second SIGINT within the tenth of a second before we came here is the same Ctrl-C.
            self.force_exit = False

        def force_exit() -> None:
            # Else uvicorn waits for unfinished HTTP requests, by default for ever.
            self.force_exit = True

        if not getattr(self, "force_exit", False):
            await stop.drained(force_exit)
        await shutdown(self, *args, **kwargs)
        if signals and _owns_process():
            # uvicorn raises them again when its own handlers are gone, which kills the process
            # with SIGTERM however well it ended (Kludex/uvicorn#1600).
            signals.clear()

    return drain_and_shutdown


def _owns_process() -> bool:
    """Whether ``Server.run`` is what runs: nothing but uvicorn is left to stop.

    A program that awaits ``serve()`` beside other work relies on the signal being raised again.
    """
    run = getattr(Server.run, "__code__", None)
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is run:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _wrap_application(startup: Any) -> Any:
    @functools.wraps(startup)
    async def startup_wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        application = getattr(self.config, "loaded_app", None)
        if application is not None and not isinstance(application, _Outermost):
            self.config.loaded_app = _Outermost(application)
        await startup(self, *args, **kwargs)

    return startup_wrapped


class _Outermost:
    """The outermost application: the only one that surely sees the protocol's own ``send``."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "websocket":
            drop = dropper(send)
            protocol: Any = getattr(send, "__self__", None)
            if drop is not None:
                socket = _Socket(drop, protocol, send)
                scope.setdefault("extensions", {})[EXTENSION] = Offer(socket=socket)
            if hasattr(protocol, "close_timeout"):
                protocol.close_timeout = _close_timeout
        return await self._application(scope, receive, send)


class _Socket:
    """See ``graceful_ws.servers.Socket``."""

    __slots__ = ("_protocol", "_send", "drop")

    def __init__(self, drop: Any, protocol: Any, send: Any) -> None:
        self.drop = drop
        self._protocol = protocol
        self._send = send

    def is_own(self, send: Any) -> bool:
        return bool(send == self._send)

    def limit(self, size: int) -> None:
        limit(self._protocol, size)

    @property
    def is_closing(self) -> bool:
        """uvicorn announces ``websocket.disconnect`` as soon as it has sent the application's
        close, and a server that is told to stop then cuts the connection without waiting for the
        answer: a client with a message on the way would see a reset instead of the close code. The
        loss of the connection is announced too, always."""
        return getattr(self._protocol, "close_timer", None) is not None

    @property
    def write(self) -> Any:
        """None for a protocol that cannot be told to."""
        protocol = self._protocol
        is_known = type(protocol).__name__ == "WebSocketsSansIOProtocol"
        return self._write if is_known and all(hasattr(protocol, n) for n in NEEDED) else None

    def _write(self, frame: bytes) -> bool:
        protocol = self._protocol
        transport = protocol.transport
        if not protocol.handshake_complete or protocol.close_sent or transport.is_closing():
            return False
        if not protocol.writable.is_set():
            return False
        if len(frame) > COMPRESSED_FROM and protocol.conn.extensions:
            return False
        transport.write(frame)
        return True


def limit(protocol: Any, size: int) -> None:
    """Lower the limit of a protocol, wherever its implementation keeps it."""
    for owner, name in (
        (getattr(protocol, "conn", None), "max_message_size"),  # websockets-sansio
        (getattr(protocol, "conn", None), "max_size"),  # the same before websockets 16
        (getattr(protocol, "buffer", None), "max_length"),  # wsproto: counts what it has read
        (protocol, "max_size"),  # websockets
    ):
        before = getattr(owner, name, 0)
        if isinstance(before, int) and before > size:
            setattr(owner, name, size)


def dropper(send: Any) -> Any:
    """``abort`` of the transport behind ``send``, or None when it is not uvicorn's own.

    Returning from the application is not enough: uvicorn then closes the transport only after
    what is buffered has been sent, which is never for a peer that does not read.
    """
    protocol = getattr(send, "__self__", None)
    if not type(protocol).__module__.startswith("uvicorn."):
        return None
    return getattr(getattr(protocol, "transport", None), "abort", None)
