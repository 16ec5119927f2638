"""A WebSocket of hypercorn, with the end that an application has to know about and to decide.

hypercorn reports 1006 for every end that the client began (pgjones/hypercorn#127), waits for ever
for an answer to its close frame, cuts a client that sends a frame against the protocol, and never
closes a connection whose application has returned while more messages than its queue takes wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from typing import Any

from hypercorn.protocol import h2, h11, ws_stream
from hypercorn.protocol.events import Event, StreamClosed
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping

from . import COMPRESSED_FROM, EXTENSION, Offer, Write

NEEDED = ("app_send", "handle", "_handle_events", "_send_pings", "_send_wsproto_event")
State = ws_stream.ASGIWebsocketState
_close_timeout = 10.0


def set_close_timeout(seconds: float) -> None:
    global _close_timeout
    _close_timeout = seconds


def install() -> bool:
    """Replace the class in the protocols that make WebSockets, if it is as expected."""
    methods = [getattr(ws_stream.WSStream, name, None) for name in NEEDED]
    if not all(map(inspect.iscoroutinefunction, methods)) or any(
        getattr(protocol, "WSStream", None) is not ws_stream.WSStream for protocol in (h11, h2)
    ):
        return False
    h11.WSStream = Stream  # type: ignore[attr-defined]
    h2.WSStream = Stream  # type: ignore[attr-defined]
    return True


class Stream(ws_stream.WSStream):
    """Also the ``Socket`` that its application is offered."""

    is_closing = False  # websocket.disconnect is the end

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop = asyncio.get_running_loop()
        self._application: Any = self.app
        self.app = self._run  # type: ignore[assignment]
        self._has_returned = False
        self._limit = self.buffer.max_length
        self._size = 0  # bytes of the message that comes
        self._end: tuple[int, str] | None = None  # code and reason of the close that came first
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # --- the application ----------------------------------------------------------------------

    async def _run(self, scope: Any, *args: Any) -> None:
        scope["extensions"][EXTENSION] = Offer(socket=self)
        try:
            await self._application(scope, *args)
        finally:
            # Nobody takes what waits here, and what would wait for room would wait for ever.
            self._has_returned = True
            queue = getattr(self.app_put, "__self__", None)
            while isinstance(queue, asyncio.Queue) and not queue.empty():
                queue.get_nowait()

    async def _put(self, event: dict[str, Any]) -> None:
        if self.app_put is not None and not self._has_returned:
            await self.app_put(event)

    async def app_send(self, message: Any) -> None:
        kind = None if message is None else message["type"]
        if kind is None and self.state is State.CONNECTED:
            self._close_begins(1011, "")
        elif kind == "websocket.close" and self.state is State.CONNECTED:
            self._close_begins(int(message.get("code") or 1000), message.get("reason") or "")
        elif kind in ("websocket.close", "websocket.send") and self.state is State.CLOSED:
            return  # the client was faster, or the limit of a message
        await super().app_send(message)

    # --- the client ---------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        if not isinstance(event, StreamClosed) or self.closed:
            await super().handle(event)
            return
        self.closed = True
        self._over.set()
        if self._unsent() == 0:
            self._stop_timer()
        else:
            self._drop_later()  # what is buffered goes first, for as long as the peer takes to read
        code, reason = self._end or (1006, "")
        await self._put({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                await self._take(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._peer_closes(event)
                return

    async def _take(self, part: Message[Any]) -> None:
        if self._end is not None:
            return  # nobody wants it any more
        data = part.data
        ascii_or_bytes = not isinstance(data, str) or data.isascii()
        self._size += len(data) if ascii_or_bytes else len(data.encode())
        if self._size > self._limit:
            self.buffer.clear()
            reason = f"a message of more than {self._limit} bytes"
            self._close_begins(1009, reason)
            self.state = State.CLOSED
            await self._send_wsproto_event(CloseConnection(code=1009, reason=reason))
            return
        self.buffer.extend(part)
        if part.message_finished:
            message = self.buffer.to_message()
            self.buffer.clear()
            self._size = 0
            await self._put(message)

    async def _peer_closes(self, close: CloseConnection) -> None:
        """The client's close frame, the answer to ours, or a frame that is against the protocol."""
        code, reason = int(close.code), close.reason or ""
        self._close_begins(code, reason)
        if self.connection.state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(close.response())
        elif self.connection.state is ConnectionState.OPEN:
            await self._send_wsproto_event(CloseConnection(code=code, reason=reason))
        self.state = State.CLOSED
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_pings(self) -> None:
        """hypercorn's own, where it is told to send them. The connection lasts as long as this."""
        while not self.closed:
            await self._send_wsproto_event(Ping())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.websocket_ping_interval):
                    await self._over.wait()

    # --- the end ------------------------------------------------------------------------------

    def _close_begins(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = code, reason
        self._drop_later()

    def _drop_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_close_timeout, self.drop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _protocol(self) -> Any:
        return getattr(self.send, "__self__", None)

    def _server(self) -> Any:
        """What reads and writes the TCP connection; None if that is not to be found."""
        return getattr(getattr(self._protocol(), "send", None), "__self__", None)

    def _transport(self) -> Any:
        return getattr(getattr(self._server(), "writer", None), "transport", None)

    def _unsent(self) -> int:
        size = getattr(self._transport(), "get_write_buffer_size", None)
        return 0 if size is None else int(size())

    def drop(self) -> None:
        protocol = self._protocol()
        if isinstance(protocol, h2.H2Protocol):
            if not self.closed:
                # The connection is not this WebSocket's alone.
                self.task_group.spawn(self._reset, protocol)
            return
        transport = self._transport()
        if transport is not None:
            transport.abort()

    async def _reset(self, protocol: Any) -> None:
        with contextlib.suppress(Exception):  # it may be over already, in many ways
            protocol.connection.reset_stream(self.stream_id, 8)  # CANCEL
        await protocol._close_stream(self.stream_id)
        await protocol._window_updated(self.stream_id)  # who waits for room goes on
        await protocol._flush()

    # --- what else a Socket offers ------------------------------------------------------------

    def is_own(self, send: Any) -> bool:
        return bool(send == self.app_send)

    def limit(self, size: int) -> None:
        self._limit = min(self._limit, size)

    @property
    def write(self) -> Write | None:
        """None where frames are packed in others (HTTP/2)."""
        server = self._server()
        transport = self._transport()
        is_plain = type(self._protocol()) is h11.H11Protocol and hasattr(server, "send_lock")
        if not is_plain or not hasattr(transport, "get_write_buffer_size"):
            return None
        return functools.partial(self._write, server.send_lock, transport)

    def _write(self, lock: asyncio.Lock, transport: Any, frame: bytes) -> bool:
        if self.closed or self.state is not State.CONNECTED:
            return False
        connection = self.connection
        if connection.state is not ConnectionState.OPEN or lock.locked() or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > 0:
            return False
        if len(frame) > COMPRESSED_FROM and _compresses(connection):
            return False
        transport.write(frame)
        return True


def _compresses(connection: Any) -> bool:
    extensions = getattr(getattr(connection, "_proto", None), "extensions", None)
    return extensions is None or any(extension.enabled() for extension in extensions)
