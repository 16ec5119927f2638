"""WebSockets in streams of HTTP/2 (RFC 8441), several over one connection: hypercorn."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.contract import WITHIN, Launch, Server, launcher

pytest.importorskip("hypercorn")
h2_connection = pytest.importorskip("h2.connection")

from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset  # noqa: E402
from wsproto.connection import Connection, ConnectionType  # noqa: E402
from wsproto.events import CloseConnection, TextMessage  # noqa: E402


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    def command(port: int) -> Sequence[str]:
        application = "tests.servers.apps:application"
        return ["-m", "hypercorn", "-w", "0", application, "--bind", f"127.0.0.1:{port}"]

    with launcher(command, tmp_path) as launch:
        yield launch


class Client:
    """One WebSocket; what it was told waits in ``events``."""

    def __init__(self, http2: Http2, stream_id: int) -> None:
        self._http2 = http2
        self.stream_id = stream_id
        self.connection = Connection(ConnectionType.CLIENT)
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    def order(self, **order: Any) -> None:
        self._http2.send(self, TextMessage(data=json.dumps(order)))

    def close(self, code: int, reason: str) -> None:
        self._http2.send(self, CloseConnection(code=code, reason=reason))

    async def expect(self, **message: Any) -> None:
        event = await self.event()
        assert json.loads(event.data) == message

    async def event(self) -> Any:
        async with asyncio.timeout(WITHIN):
            return await self.events.get()


class Http2:
    """A TCP connection with prior knowledge of HTTP/2, unencrypted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2: Any = h2_connection.H2Connection()
        self.clients: dict[int, Client] = {}
        self.h2.initiate_connection()
        self._flush()

    def _flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def send(self, client: Client, event: Any) -> None:
        self.h2.send_data(client.stream_id, client.connection.send(event))
        self._flush()

    async def client(self, path: str = "/") -> Client:
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http")]
        headers += [(":path", path), (":authority", "127.0.0.1"), ("sec-websocket-version", "13")]
        self.h2.send_headers(stream_id, headers)
        self._flush()
        client = self.clients[stream_id] = Client(self, stream_id)
        response = await client.event()
        assert dict(response.headers)[b":status"] == b"200"
        return client

    async def read(self) -> None:
        while data := await self.reader.read(65536):
            for event in self.h2.receive_data(data):
                client = self.clients.get(getattr(event, "stream_id", 0))
                if client is None:
                    continue
                if isinstance(event, DataReceived) and event.data:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    client.connection.receive_data(event.data)
                    for received in client.connection.events():
                        client.events.put_nowait(received)
                        if isinstance(received, CloseConnection):
                            self._answer(client, received)
                elif isinstance(event, ResponseReceived | StreamEnded | StreamReset):
                    client.events.put_nowait(event)
            self._flush()

    def _answer(self, client: Client, close: CloseConnection) -> None:
        if client.connection.state.name == "REMOTE_CLOSING":
            self.send(client, close.response())


@asynccontextmanager
async def http2(server: Server) -> AsyncIterator[Http2]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    connection = Http2(reader, writer)
    reading = asyncio.create_task(connection.read())
    try:
        yield connection
    finally:
        reading.cancel()
        writer.transport.abort()


async def test_codes_and_reasons_pass_in_both_directions(launch: Launch) -> None:
    async with http2(launch()) as connection:
        observer = await connection.client("/ends")
        closed = await connection.client("/closed")
        closed.order(close={"code": 4501, "reason": "superseded"})
        close = await closed.event()
        assert (close.code, close.reason) == (4501, "superseded")
        await observer.expect(path="/closed", code=4501, reason="superseded")
        closing = await connection.client("/closing")
        closing.close(4000, "page hidden")
        await observer.expect(path="/closing", code=4000, reason="page hidden")


async def test_dropping_one_resets_its_stream_and_leaves_the_others(launch: Launch) -> None:
    async with http2(launch()) as connection:
        observer, operator, dropped = [
            await connection.client(path) for path in ("/ends", "/", "/dropped")
        ]
        operator.order(drop="/dropped")
        assert isinstance(await dropped.event(), StreamReset)
        await observer.expect(path="/dropped", code=1006, reason="")
        operator.order(echo="still here")
        await operator.expect(echo="still here")


async def test_peer_that_does_not_let_its_stream_flow_can_be_dropped(launch: Launch) -> None:
    async with http2(launch()) as connection:
        observer, operator, deaf = [
            await connection.client(path) for path in ("/ends", "/", "/deaf")
        ]
        acknowledge = connection.h2.acknowledge_received_data

        def ignore_deaf(length: int, stream_id: int) -> None:
            # The connection's window stays open, for the others.
            if stream_id != deaf.stream_id:
                acknowledge(length, stream_id)

        connection.h2.acknowledge_received_data = ignore_deaf
        connection.h2.increment_flow_control_window(10_000_000)
        deaf.order(flood=None)
        operator.order(echo="later")
        await operator.expect(echo="later")
        operator.order(drop="/deaf")
        await observer.expect(path="/deaf", code=1006, reason="")
        operator.order(echo="still here")
        await operator.expect(echo="still here")


async def test_drain_closes_every_stream_and_the_process_ends(launch: Launch) -> None:
    server = launch()
    async with http2(server) as connection:
        clients = [await connection.client() for _ in range(3)]
        server.child.signal(signal.SIGTERM)
        for client in clients:
            await client.expect(draining="hypercorn")
            close = await client.event()
            assert (close.code, close.reason) == (1012, "restart")
        assert await asyncio.to_thread(server.exit_status) == 0, server.child.log_tail()
