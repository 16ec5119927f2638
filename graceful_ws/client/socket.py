"""One WebSocket of a client, from the dial to the last byte. It is never used again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from graceful_ws.core.close_codes import CloseCode, cut_reason
from graceful_ws.core.frames import SUBPROTOCOL

from .events import CloseNeeded, Event, Welcomed
from .link import MOST_RETRY_AFTER, Link, within

logger = logging.getLogger("graceful_ws.client")

ABNORMAL = int(CloseCode.ABNORMAL)
CLOSE_WITHIN = 1.0  # seconds for the close handshake of a connection that is given up
ONE_MORE_LOOK = 0.1  # seconds; after a sleep of the machine a timer may fire before data is read


@dataclass(frozen=True, slots=True)
class Ended:
    """How a socket ended. ``welcomed_for``: seconds since its welcome, None if there was none."""

    code: int
    reason: str
    welcomed_for: float | None = None
    opened: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class SocketOptions:
    open_timeout: float
    welcome_timeout: float
    headers: Mapping[str, str] | None
    origin: str | None
    arguments: Mapping[str, Any]
    opener: Callable[..., Awaitable[ClientConnection]] | None = None  # in place of connect


class Socket:
    """Dials at once; ``task`` returns how it ended, and raises only for what no other try would
    change, such as InvalidURI. ``tell`` hears of each event while the link counts."""

    def __init__(
        self,
        url: str,
        link: Link,
        options: SocketOptions,
        tell: Callable[[Socket, list[Event]], None],
    ) -> None:
        self.url = url
        self.link = link
        self.welcomed_at: float | None = None
        self.settled = asyncio.Event()  # welcomed, or over
        self._options = options
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ws: ClientConnection | None = None
        self._wanted = asyncio.Event()  # something may be there to send
        self._reading = asyncio.Event()
        self._reading.set()
        self._closing: asyncio.Task[None] | None = None
        self._own_close: tuple[int, str] | None = None
        self.task: asyncio.Task[Ended] = asyncio.create_task(self._run(), name=f"dial {url}")
        self.task.add_done_callback(lambda _: self.settled.set())

    # --- what the client asks -----------------------------------------------------------------

    @property
    def ended(self) -> Ended:
        """How it ended; ``task`` is done."""
        if self.task.cancelled():  # before its first step
            return Ended(*(self._own_close or (ABNORMAL, "given up")))
        return self.task.result()

    def wake(self) -> None:
        """There may be something to send."""
        self._wanted.set()

    def close(self, code: int, reason: str = "", within: float = CLOSE_WITHIN) -> None:
        """Starts the close handshake; after ``within`` seconds the transport is dropped. One that
        is not open yet is given up."""
        if self._own_close is not None or self.task.done():
            return
        self._own_close = (int(code), reason)
        if self._ws is None:
            self.task.cancel()
            return
        self.resume_reading()
        self._closing = asyncio.create_task(self._close(self._ws, int(code), reason, within))

    async def give_up(self) -> None:
        """Ends it at once, before its welcome."""
        self._own_close = self._own_close or (ABNORMAL, "given up")
        self.task.cancel()
        await asyncio.wait([self.task])
        self.link.closed(ABNORMAL, self._loop.time())

    def abort(self) -> None:
        """Cuts the TCP connection, without a close frame."""
        if self._ws is not None:
            self._ws.transport.abort()

    def pause_reading(self) -> None:
        """Bytes stay in the operating system's buffers, as with a process that hangs."""
        self._reading.clear()
        if self._ws is not None:
            self._ws.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading.is_set():
            return
        self._reading.set()
        if self._ws is not None and not self._ws.transport.is_closing():
            self._ws.transport.resume_reading()

    # --- the life of it -----------------------------------------------------------------------

    async def _run(self) -> Ended:
        try:
            ws = await self._open()
        except InvalidStatus as error:
            response = error.response
            return Ended(
                ABNORMAL,
                f"refused with HTTP {response.status_code}",
                retry_after=_seconds(response.headers.get_all("Retry-After")),
            )
        except TimeoutError:
            return Ended(ABNORMAL, "no connection in time")
        except TypeError:
            raise  # a mistake in the arguments
        except Exception as error:  # whatever a proxy answers, or a redirect leads to
            return Ended(ABNORMAL, f"no connection: {error!r}")
        except asyncio.CancelledError:
            if self._own_close is None:
                raise
            return Ended(*self._own_close)
        self._ws = ws
        sender: asyncio.Task[None] | None = None
        try:
            if ws.subprotocol == SUBPROTOCOL:
                sender = asyncio.create_task(self._send_all(ws))
            else:  # the token is not for it
                self.close(CloseCode.SUSPENDED, f"this is no {SUBPROTOCOL} server")
            await self._read_all(ws)
        except ConnectionClosed as error:
            code, reason = self._code(error)
        except Exception as error:  # a defect, here or in the library: another connection may do
            logger.exception("the connection to %s is given up", self.url)
            ws.transport.abort()
            code, reason = ABNORMAL, repr(error)
        except asyncio.CancelledError:
            ws.transport.abort()
            if self._own_close is None:
                raise
            code, reason = self._own_close
        finally:
            if sender is not None:
                sender.cancel()
            if left := [task for task in (sender, self._closing) if task is not None]:
                await asyncio.wait(left)
        now = self._loop.time()
        lived = None if self.welcomed_at is None else now - self.welcomed_at
        return Ended(code, reason, lived, True, max(0.0, self.link.away_until - now))

    async def _open(self) -> ClientConnection:
        options = self._options
        # One call for one attempt: iterating over connect() redials without any delay after a
        # connection that was accepted and closed.
        async with asyncio.timeout(options.open_timeout):
            return await (options.opener or connect)(
                self.url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers=options.headers,
                origin=None if options.origin is None else Origin(options.origin),
                open_timeout=None,
                ping_interval=None,  # the protocol has its own heartbeat
                **options.arguments,
            )

    async def _read_all(self, ws: ClientConnection) -> None:
        """Ends with ConnectionClosed only."""
        welcome_by = self._loop.time() + self._options.welcome_timeout
        while True:
            await self._may_read(ws)
            silence = self.link.silence
            limit = welcome_by if silence is None else self._loop.time() + silence
            text = await self._read(ws, limit)
            if text is None:
                if self._reading.is_set():
                    self.close(CloseCode.SERVER_SILENT, "nothing heard for too long")
                    await ws.wait_closed()
            elif isinstance(text, str):
                self._received(text)

    async def _may_read(self, ws: ClientConnection) -> None:
        """Returns when reading goes on, or the connection is lost: a pause must not hide that."""
        if self._reading.is_set():
            return
        waits = [
            asyncio.create_task(self._reading.wait()),
            asyncio.create_task(ws.wait_closed()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _read(self, ws: ClientConnection, limit: float) -> str | bytes | None:
        try:
            async with asyncio.timeout_at(limit):
                return await ws.recv()
        except TimeoutError:
            pass
        try:
            async with asyncio.timeout(ONE_MORE_LOOK):
                return await ws.recv()
        except TimeoutError:
            return None

    def _received(self, text: str) -> None:
        if self._own_close is not None:
            return  # on its way when this side closed: it must not begin anything
        events = self.link.receive(text, self._loop.time())
        for event in events:
            if isinstance(event, Welcomed):
                self.welcomed_at = self._loop.time()
                self.settled.set()
            elif isinstance(event, CloseNeeded):
                self.close(event.code, event.reason)
        if events:
            self._tell(self, events)
        self._wanted.set()

    async def _send_all(self, ws: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await ws.send(self.link.hello())
            while True:
                self._wanted.clear()  # first: what is wanted while this one waits comes next
                for text in self.link.data_to_send(self._loop.time()):
                    await ws.send(text)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self.link.deadline):
                        await self._wanted.wait()

    async def _close(self, ws: ClientConnection, code: int, reason: str, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await ws.close(code, cut_reason(reason))
        ws.transport.abort()

    def _code(self, error: ConnectionClosed) -> tuple[int, str]:
        if self._own_close is not None:
            return self._own_close
        if error.rcvd is not None and error.rcvd_then_sent:
            return int(error.rcvd.code), error.rcvd.reason
        if error.sent is not None:  # the library found fault with what came
            return int(CloseCode.SUSPENDED), error.sent.reason
        return ABNORMAL, "lost without a close frame"


def check_url(url: str) -> None:
    """Raises ValueError for what is no WebSocket URL (RFC 6455, 3)."""
    try:
        parse_uri(url)
    except (InvalidURI, ValueError) as error:
        raise ValueError(f"{url!r} is no ws:// or wss:// URL: {error}") from None


def _seconds(values: list[str]) -> float:
    """Retry-After in seconds; the form with a date counts as none."""
    found = [float(value) for value in values if value.isascii() and value.isdecimal()]
    return within(max(found, default=0.0), MOST_RETRY_AFTER)
