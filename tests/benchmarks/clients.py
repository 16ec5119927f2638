"""Clients of the load generator: picows listeners, thousands of them in one process.

Both kinds call ``received(client, n)`` for each message, with the ``n`` of its data. A graceful
client does what docs/protocol.md asks of one: hello, pongs, acknowledgements after 50 messages,
64 KiB or a second; and it takes nothing that is out of order.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

ACK_MESSAGES = 50
ACK_BYTES = 64 * 1024
CREDIT = 64  # messages without an ack of the server: limits.unacked
HANDSHAKE_WITHIN = 60.0  # seconds: in a storm the last one waits long
TRIES = 8
SUBPROTOCOL = {"Sec-WebSocket-Protocol": "graceful.v1"}
_LINGER_NOT = struct.pack("ii", 1, 0)  # close() resets: no TIME_WAIT, as when a network is lost


class Body(msgspec.Struct, gc=False):
    n: int = -1


class Frame(msgspec.Struct, gc=False):
    """Whatever the server sends, as far as it is looked at."""

    type: str
    seq: int = 0
    data: Body | None = None
    stream: str | None = None
    session_token: str | None = None
    resumed: bool = False
    sent_at: int = 0
    epoch: str = ""
    head: int = 0
    streams: dict[str, dict[str, Any]] = {}


_decode_body = msgspec.json.Decoder(Body).decode
_decode = msgspec.json.Decoder(Frame | list[Frame]).decode


class WrongDelivery(AssertionError):
    """What arrived is not what was sent: the round counts for nothing."""


class Client(WSListener):
    """One connection after another; ``ready`` when messages may be sent."""

    graceful = False

    def __init__(self, crowd: Crowd, received: Callable[[Any, int], None]) -> None:
        self.crowd = crowd
        self.received = received
        self.transport: Any = None
        self.ready: asyncio.Future[None] = crowd.loop.create_future()
        self.gone: asyncio.Future[None] = crowd.loop.create_future()
        self.leaving = False

    async def connect(self, url: str) -> None:
        """Returns when messages may be sent; a server that refuses is asked again, as clients do.
        Raises OSError or WSError after the last try."""
        for tries_left in reversed(range(TRIES)):
            self.leaving = False
            self.ready = self.crowd.loop.create_future()
            self.gone = self.crowd.loop.create_future()
            try:
                await ws_connect(
                    lambda: self,
                    url,
                    extra_headers=SUBPROTOCOL if self.graceful else None,
                    websocket_handshake_timeout=HANDSHAKE_WITHIN,
                )
                await self.ready
                return
            except (OSError, WSError):
                if not tries_left:
                    raise
            self.crowd.retries += 1
            await asyncio.sleep(random.uniform(0.2, 1.0))

    def cut(self) -> None:
        """As a network does that is gone: without a close frame."""
        self.leaving = True
        with suppress(OSError, AttributeError):
            underlying = self.transport.underlying_transport.get_extra_info("socket")
            underlying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.transport.disconnect(graceful=False)

    def leave(self) -> None:
        """Says goodbye as this kind of client does."""
        self.leaving = True
        self.transport.send_close(WSCloseCode.OK)
        self.transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.opened()

    def opened(self) -> None:
        self.ready.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        try:
            if frame.msg_type == WSMsgType.TEXT:
                self.text(frame)
            elif frame.msg_type == WSMsgType.CLOSE:
                if self.ready.done() and not self.leaving:
                    reason = f"{frame.get_close_code()} {frame.get_close_reason()}"
                    raise WrongDelivery(f"the server closed: {reason}")
                transport.disconnect()
        except Exception as error:
            self.crowd.fail(error)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("refused, or lost before it was ready"))
        elif not self.leaving:
            self.crowd.fail(WrongDelivery("the server dropped a connection"))

    def text(self, frame: WSFrame) -> None:
        self.received(self, _decode_body(frame.get_payload_as_memoryview()).n)

    def send(self, data: bytes) -> None:
        self.transport.send(WSMsgType.TEXT, data)


class PongingClient(Client):
    """A plain connection whose server has the heartbeat of graceful_ws in its application."""

    def text(self, frame: WSFrame) -> None:
        sent_at = _decode(frame.get_payload_as_memoryview()).sent_at
        self.transport.send(WSMsgType.TEXT, b'{"type":"pong","sent_at":%d}' % sent_at)
        self.crowd.pings += 1


class GracefulClient(Client):
    """A session; ``connect`` again resumes it. With ``follows`` it is ready when it follows."""

    graceful = True

    def __init__(
        self, crowd: Crowd, received: Callable[[Any, int], None], *, follows: bool = False
    ) -> None:
        super().__init__(crowd, received)
        self.follows = follows
        self.instance = uuid.uuid4().hex
        self.attempt = 0
        self.token: str | None = None
        self.last_seq = 0
        self.positions: dict[str, list[Any]] = {}  # stream: [epoch, number]
        self.sent = 0
        self.acked = 0  # the last of ours that the server has acknowledged
        self.waiting: deque[bytes] = deque()  # for credit
        self.unacked = 0
        self.unacked_bytes = 0

    def opened(self) -> None:
        self.attempt += 1
        hello: dict[str, Any] = {
            "type": "hello",
            "version": 1,
            "instance": self.instance,
            "attempt": self.attempt,
        }
        if self.token is not None:
            hello |= {
                "session_token": self.token,
                "last_seq_id": self.last_seq,
                "pending_from": self.acked + 1,
                "positions": self.positions,
            }
        self.transport.send(WSMsgType.TEXT, msgspec.json.encode(hello))

    def leave(self) -> None:
        self.leaving = True
        self.transport.send(WSMsgType.TEXT, b'{"type":"bye","reason":"done"}')

    def send(self, data: bytes) -> None:
        if self.sent - self.acked >= CREDIT:
            self.waiting.append(data)
            return
        self.sent += 1
        self.transport.send(
            WSMsgType.TEXT, b'{"type":"message","seq":%d,"data":%b}' % (self.sent, data)
        )

    def text(self, frame: WSFrame) -> None:
        decoded = _decode(frame.get_payload_as_memoryview())
        self.unacked_bytes += frame.payload_size
        if type(decoded) is list:
            for one in decoded:
                self.frame(one)
        else:
            self.frame(decoded)

    def frame(self, frame: Frame) -> None:
        kind = frame.type
        if kind == "message":
            self.message(frame)
        elif kind == "ack":
            self.acked = frame.seq
            while self.waiting and self.sent - self.acked < CREDIT:
                self.send(self.waiting.popleft())
            self.crowd.acked(self)
        elif kind == "ping":
            self.crowd.pings += 1
            self.transport.send(WSMsgType.TEXT, b'{"type":"pong","sent_at":%d}' % frame.sent_at)
        elif kind == "welcome":
            self.welcomed(frame)
        elif kind == "subscribed":
            self.positions[frame.stream or ""] = [frame.epoch, frame.head]
            if not self.ready.done():
                self.ready.set_result(None)
        else:
            raise WrongDelivery(f"the server said {frame}")

    def welcomed(self, frame: Frame) -> None:
        if frame.resumed is not (self.token is not None):
            raise WrongDelivery(f"resumed: {frame.resumed}")
        if any(one["state"] != "resumed" for one in frame.streams.values()):
            raise WrongDelivery(f"streams: {frame.streams}")
        if not self.follows or frame.resumed:
            self.ready.set_result(None)
        if frame.session_token is not None:
            self.token = frame.session_token

    def message(self, frame: Frame) -> None:
        seq = frame.seq
        if frame.stream is None:
            if seq != self.last_seq + 1:
                raise WrongDelivery(f"{seq} after {self.last_seq}")
            self.last_seq = seq
        else:
            position = self.positions[frame.stream]
            if seq != position[1] + 1:
                raise WrongDelivery(f"{frame.stream}: {seq} after {position[1]}")
            position[1] = seq
        self.unacked += 1
        assert frame.data is not None
        self.received(self, frame.data.n)
        if self.unacked >= ACK_MESSAGES or self.unacked_bytes >= ACK_BYTES:
            self.acknowledge()

    def acknowledge(self) -> None:
        self.unacked = self.unacked_bytes = 0
        if self.transport.is_disconnected:
            return
        if self.positions:
            streams = {name: position[1] for name, position in self.positions.items()}
            ack = {"type": "ack", "seq": self.last_seq, "streams": streams}
            self.transport.send(WSMsgType.TEXT, msgspec.json.encode(ack))
        else:
            self.transport.send(WSMsgType.TEXT, b'{"type":"ack","seq":%d}' % self.last_seq)


class Crowd:
    """The clients of one round: what goes wrong with one of them ends it for all."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clients: list[Any] = []
        self.failed: asyncio.Future[None] = self.loop.create_future()
        self.pings = 0  # heard by all of them
        self.retries = 0
        self.acked: Callable[[GracefulClient], None] = lambda client: None
        self._ticker = asyncio.create_task(self._acknowledge())

    async def __aenter__(self) -> Crowd:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ticker.cancel()
        live = [one for one in self.clients if one.transport and not one.transport.is_disconnected]
        try:
            if error[0] is None:
                for client in live:
                    client.leave()
                await asyncio.wait([one.gone for one in live], timeout=15) if live else None
        finally:
            for client in live:
                if not client.gone.done():
                    client.cut()
            if self.failed.done():
                self.failed.exception()  # retrieved

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    async def until(self, done: asyncio.Future[Any]) -> None:
        """Waits for ``done``; raises what has gone wrong meanwhile."""
        await asyncio.wait([done, self.failed], return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            self.failed.result()
        done.result()

    async def connect(self, url: str, clients: list[Any], *, at_once: int = 200) -> None:
        """Connects all of them, ``at_once`` at a time."""
        self.clients.extend(client for client in clients if client.transport is None)
        waiting = iter(clients)

        async def connect_some() -> None:
            for client in waiting:
                await client.connect(url)

        workers = min(at_once, len(clients))
        await self.until(asyncio.gather(*(connect_some() for _ in range(workers))))

    async def _acknowledge(self) -> None:
        while True:
            await asyncio.sleep(1)
            for client in self.clients:
                if client.graceful and client.unacked:
                    client.acknowledge()
