"""Daphne: a drain before it cancels its applications, and what its WebSockets cannot do.

Daphne 4.2 refuses every close code but 1000 and 3000-4999 and drops the reason
(django/daphne#374), ignores HTTP denial responses so that the client hangs (django/daphne#486),
ignores the headers of ``websocket.accept``, gives the peer one second to answer a close, resets
the connection on bad input instead of saying 1002, 1007 or 1009, refuses to send a message larger
than it would receive, piles up what a peer does not read, and reports a close frame without a code
as None. The protocol class below puts all of that right.

A Twisted "before shutdown" trigger is no place for the drain: Twisted calls all of them before it
waits for any, so Daphne's own would have cancelled the applications already.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from http import HTTPStatus
from typing import Any

from daphne.server import Server  # type: ignore[import-untyped]
from daphne.ws_protocol import (  # type: ignore[import-untyped]
    WebSocketFactory,
    WebSocketProtocol,
)
from twisted.internet import tcp
from twisted.internet.defer import Deferred

from graceful_ws.core.close_codes import cut_reason, is_sendable

from . import COMPRESSED_FROM, EXTENSION, Offer
from .flow import MOST, Inflow, Outflow
from .signals import Stop

EARLY = 64 * 1024  # bytes that may come before the handshake is answered
NEEDED = (
    "STATE_CONNECTING",
    "STATE_OPEN",
    "_dataReceived",
    "handle_reply",
    "muted",
    "onClose",
    "onOpen",
    "registerProducer",
    "sendCloseFrame",
    "sendData",
    "sendHttpErrorResponse",
    "sendMessage",
    "serverAccept",
    "serverReject",
    "unregisterProducer",
)


def set_close_timeout(seconds: float) -> None:
    """How long the peer may take to answer our close frame; applies to new connections."""
    Protocol.closeHandshakeTimeout = seconds


def install(stop: Stop) -> dict[str, str]:
    """Wrap the server class; return what could not be wrapped, and what is lost by that."""
    missing = {}
    kill = getattr(Server, "kill_all_applications", None)
    if callable(kill):
        Server.kill_all_applications = _drain_first(kill, stop)
    else:
        missing["daphne.server.Server.kill_all_applications"] = (
            "Daphne drops connections without a drain"
        )
    lacking = [name for name in NEEDED if not hasattr(WebSocketProtocol, name)]
    if getattr(WebSocketFactory, "protocol", None) is not WebSocketProtocol:
        lacking.append("WebSocketFactory.protocol")
    create = getattr(Server, "create_application", None)
    if not callable(create):
        lacking.append("Server.create_application")
    if lacking:
        missing["daphne.ws_protocol"] = (
            f"no close codes below 3000, reasons and refusals with 503: {', '.join(lacking)}"
        )
    else:
        WebSocketFactory.protocol = Protocol
        Server.create_application = _offer_extensions(create)
        reply = getattr(Server, "handle_reply", None)
        if inspect.iscoroutinefunction(reply):
            Server.handle_reply = _wait_for_the_peer(reply)
        else:
            missing["daphne.server.Server.handle_reply"] = (
                "what a peer does not read is kept in memory without bound"
            )
    return missing


def _drain_first(kill: Any, stop: Stop) -> Any:
    @functools.wraps(kill)
    def drain_and_kill(self: Any) -> Any:
        try:
            draining = asyncio.ensure_future(stop.drained())
        except RuntimeError:  # no running loop: stopped before it served anything
            return kill(self)
        # Twisted holds the rest of the shutdown back until this has fired.
        return Deferred.fromFuture(draining).addBoth(lambda _: kill(self))

    return drain_and_kill


def _offer_extensions(create: Any) -> Any:
    @functools.wraps(create)
    def create_with_extensions(self: Any, protocol: Any, scope: dict[str, Any]) -> Any:
        if isinstance(protocol, Protocol):
            # 2.3 of the specification brought the reasons of close and disconnect.
            scope["asgi"] = {"version": "3.0", "spec_version": "2.3"}
            scope.setdefault("extensions", {}).update(
                {"websocket.http.response": {}, EXTENSION: Offer(socket=protocol)}
            )
        return create(self, protocol, scope)

    return create_with_extensions


def _wait_for_the_peer(reply: Any) -> Any:
    @functools.wraps(reply)
    async def reply_and_wait(self: Any, protocol: Any, message: dict[str, Any]) -> None:
        await reply(self, protocol, message)
        if isinstance(protocol, Protocol) and message.get("type") == "websocket.send":
            await protocol.flow.writable()

    return reply_and_wait


class Protocol(WebSocketProtocol):  # type: ignore[misc]
    """Daphne's protocol class with the rest of the ASGI WebSocket specification."""

    # Autobahn takes an option from its factory only where the protocol class has none.
    failByDrop = False  # say 1002, 1007 or 1009 before the connection goes
    closeHandshakeTimeout = 10.0  # seconds

    maxFramePayloadSize: int  # autobahn's, in bytes; 0 is no limit
    maxMessagePayloadSize: int
    application_queue: asyncio.Queue[Any]
    muted: bool  # Daphne's: True keeps it from reporting a message or the end
    _denial: _Denial | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.flow = Outflow()
        self._inflow: Inflow | None = None  # of a connection that has a limit

    def onOpen(self) -> None:
        if self._inflow is not None:
            self._inflow.go_on()
        self.unregisterProducer()  # the HTTP channel, whose connection it was
        self.registerProducer(self.flow, True)
        super().onOpen()

    def dataReceived(self, data: bytes) -> None:
        """Autobahn's own formats and colours a line for its debug log first, for each message and
        whether anybody wants it or not."""
        self._dataReceived(data)
        if self.state == self.STATE_CONNECTING:
            if len(getattr(self, "data", b"")) > EARLY:
                self._inflow = self._inflow or Inflow(self)
                self._inflow.hold()  # until the application has accepted
        elif self._inflow is not None and self.application_queue.qsize() > MOST:
            self._inflow.hold_until_taken(self.application_queue)

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Take one ASGI message from the application.

        Raises ValueError for a close code that no endpoint may send, and for a response or a
        header that HTTP does not allow.
        """
        connecting = self.state == self.STATE_CONNECTING
        match message.get("type"):
            case "websocket.accept" if connecting and message.get("headers"):
                headers: dict[str, list[str]] = {}
                for name, value in _checked(message["headers"]):
                    headers.setdefault(name, []).append(value)
                self.serverAccept((message.get("subprotocol"), headers))
            case "websocket.close" if not connecting:
                self._close(message.get("code"), message.get("reason"))
            case "websocket.http.response.start" if connecting:
                self._denial = _Denial(message["status"], _checked(message.get("headers", [])))
            case "websocket.http.response.body" if connecting and self._denial is not None:
                self._denial.body += message.get("body", b"")
                if not message.get("more_body", False):
                    self._denial.complete = True
                    self.serverReject()
            case "websocket.http.response.start" | "websocket.http.response.body":
                raise ValueError(f"{message['type']} is not possible now")
            case _:
                super().handle_reply(message)

    def _close(self, code: int | None, reason: str | None) -> None:
        code = 1000 if code is None else code
        if not is_sendable(code):
            raise ValueError(f"close code {code} must not be sent (RFC 6455, 7.4)")
        self.sendCloseFrame(code=code, reasonUtf8=cut_reason(reason or "").encode())
        self.onMessage = _nothing  # what comes behind our close is for nobody
        if self._inflow is not None:
            self._inflow.go_on()  # for the peer's answer

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Called by autobahn when the handshake is refused: with ours, if the app gave one."""
        if self._denial is not None and self._denial.complete:
            self.sendData(self._denial.encoded())
        else:
            super().sendHttpErrorResponse(code, reason, responseHeaders)

    def sendMessage(self, *args: Any, **kwargs: Any) -> None:
        """Autobahn holds what we send to the limit of what a peer may send; ASGI knows none."""
        limit, self.maxMessagePayloadSize = self.maxMessagePayloadSize, 0
        try:
            super().sendMessage(*args, **kwargs)
        finally:
            self.maxMessagePayloadSize = limit

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.failedByMe and self.localCloseCode is not None:
            # What we found wrong tells more than the peer's answer, or the lack of one.
            code = self.localCloseCode
            reason = (self.localCloseReason or b"").decode(errors="replace")
        elif not wasClean:
            reason = None  # autobahn's own words, not the peer's
        self.flow.resumeProducing()
        muted, self.muted = self.muted, True  # Daphne's own event has no reason
        try:
            super().onClose(wasClean, code, reason)
        finally:
            self.muted = muted
        if not muted and hasattr(self, "application_queue"):
            self.application_queue.put_nowait(
                {
                    "type": "websocket.disconnect",
                    "code": 1005 if code is None else code,
                    "reason": reason or "",
                }
            )

    def limit(self, size: int) -> None:
        """Fail with 1009 on the header of the frame with which a message grows past ``size``."""
        for name in ("maxMessagePayloadSize", "maxFramePayloadSize"):
            setattr(self, name, min(size, getattr(self, name, 0) or size))
        self._inflow = self._inflow or Inflow(self)

    is_closing = False  # Daphne announces the end when it is there

    def is_own(self, send: Any) -> bool:
        """Whether nothing stands between the application and this protocol."""
        return isinstance(send, functools.partial) and send.args == (self,)

    def write(self, frame: bytes) -> bool:
        """Send a whole frame now; False if it has to go the ordinary way, as all do where
        autobahn and Twisted have not the private names by which we look."""
        if self.state != self.STATE_OPEN or getattr(self, "send_queue", True) or self.flow.paused:
            return False
        compress = getattr(self, "_perMessageCompress", True)
        if compress is not None and len(frame) > COMPRESSED_FROM:
            return False
        transport = self.transport
        if type(transport) is tcp.Server and not transport.TLS and _is_empty(transport):
            # Twisted would wait for the socket to be writable, at five times the price.
            sent = transport.writeSomeData(frame)
            if isinstance(sent, int):
                if sent == len(frame):
                    return True
                frame = frame[sent:]
        transport.write(frame)
        return True

    def drop(self) -> None:
        """Reset the TCP connection now, whatever is buffered; nothing happens when it is gone."""
        transport = self.transport
        if transport is not None:
            transport.abortConnection()


def _is_empty(transport: Any) -> bool:
    """Whether nothing waits before what is written now."""
    return bool(
        transport.connected
        and not transport.disconnecting
        and not getattr(transport, "dataBuffer", True)
        and not getattr(transport, "_tempDataBuffer", True)
    )


def _nothing(payload: bytes, isBinary: bool) -> None:
    pass


class _Denial:
    """An HTTP response instead of the handshake."""

    def __init__(self, status: int, headers: list[tuple[str, str]]) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of a final HTTP response")
        self.status = status
        self.headers = headers
        self.body = b""
        self.complete = False

    def encoded(self) -> bytes:
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        ours = {"connection", "content-length", "transfer-encoding"}
        lines += [f"{name}: {value}" for name, value in self.headers if name.lower() not in ours]
        lines += [f"content-length: {len(self.body)}", "connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


def _checked(headers: Any) -> list[tuple[str, str]]:
    """Headers as text. Raises ValueError for one that would end its line early."""
    decoded = []
    for name, value in headers:
        if any(char in name + value for char in b"\r\n\0"):
            raise ValueError(f"line break in the header {bytes(name)!r}")
        decoded.append((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")))
    return decoded
