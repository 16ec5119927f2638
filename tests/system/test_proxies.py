"""The files of docs/deploy in front of two nodes: a deploy that nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from graceful_ws.client import (
    Disconnected,
    Event,
    GapTold,
    GracefulClient,
    MessageReceived,
    Subscribed,
    Welcomed,
)
from tests.conftest import missing
from tests.support.ledger import LedgerBook
from tests.support.proxies import FILES, Changes, Proxy, ProxyName, binary, proxy, settings_said
from tests.support.raw import Raw, again
from tests.support.servers import ServerName, ServerProcess, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

PAIRS = [("nginx", "daphne"), ("nginx", "uvicorn"), ("haproxy", "daphne"), ("haproxy", "uvicorn")]
CLIENTS = 6
# As in production, where nobody is in a hurry: clients have time to move.
SETTINGS = {"drain_window": 8.0, "drain_deadline": 15.0, "reconnect_window": 0.5}


class Traveller:
    """A client that sends numbers and takes what it is told, and remembers both and each end."""

    def __init__(self, through: Proxy, path: str) -> None:
        self.received: list[object] = []
        self.sent = 0
        self.results: list[object] = []
        self.ends: list[tuple[int, str]] = []
        self.complaints: list[str] = []
        self.welcomes: list[bool] = []
        self.follows: list[str] = []
        self.enough = False
        self.client = GracefulClient(
            through.ws(path),
            probe=None,
            on_event=self._hear,
            on_message=self._take,
            websockets={"ssl": through.tls, "proxy": None},
        )

    def _take(self, message: MessageReceived) -> None:
        self.received.append(message.data)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Welcomed):
            self.welcomes.append(event.resumed)
        elif isinstance(event, Subscribed):
            self.follows.append(event.stream)
        elif isinstance(event, GapTold):
            self.complaints.append(str(event))
        elif isinstance(event, Disconnected) and not (event.final and self.enough):
            self.ends.append((event.code, event.reason))

    @property
    def ticks(self) -> list[str]:
        return [data["tick"] for data in self.received if isinstance(data, dict)]

    async def send_numbers(self) -> None:
        while not self.enough:
            self.sent += 1
            self.results.append(await self.client.send({"n": self.sent}))

    def kept_its_session(self) -> None:
        """It never saw an end after which a client does anything but resume."""
        assert self.complaints == []
        assert self.welcomes == [False] + [True] * (len(self.welcomes) - 1), "a new session"
        assert set(self.ends) <= {(1012, "the server restarts")}

    def lost_nothing(self, book: LedgerBook) -> None:
        """Nothing lost, duplicated or out of order, in either direction."""
        session = self.client.session_id
        assert session is not None
        numbers = list(range(1, self.sent + 1))
        assert self.results == [{"handled": n} for n in numbers]
        assert [int(n) for n in book.lines(session, "handled")] == numbers
        assert len(set(self.ticks)) == len(self.ticks), "a message arrived twice"
        assert set(book.accepted(session)) <= set(self.ticks), "an accepted message was lost"
        assert set(self.ticks) <= set(book.lines(session, "attempted"))
        of_connections: dict[str, list[int]] = {}
        for tick in self.ticks:
            connection, number = tick.split(":")
            of_connections.setdefault(connection, []).append(int(number))
        for found in of_connections.values():
            assert found == sorted(found), "messages changed places"


@asynccontextmanager
async def travellers(
    through: Proxy, book: LedgerBook
) -> AsyncIterator[tuple[list[Traveller], Traveller, Traveller]]:
    """Those who send and are sent numbers, one who publishes, and one who follows."""
    everybody = [Traveller(through, "/ledger/") for _ in range(CLIENTS)]
    publisher = Traveller(through, "/room/")
    follower = Traveller(through, "/room/?stream=deploy")

    async def publish() -> None:
        while not publisher.enough:
            publisher.sent += 1
            await publisher.client.send({"publish": "deploy", "data": publisher.sent})
            await asyncio.sleep(0.01)

    async with AsyncExitStack() as stack:
        for one in (*everybody, publisher, follower):
            await stack.enter_async_context(one.client)
        await eventually(lambda: follower.follows == ["deploy"], 10)
        loads = [asyncio.create_task(one.send_numbers()) for one in everybody]
        loads.append(asyncio.create_task(publish()))
        try:
            yield everybody, publisher, follower
            for one in (*everybody, publisher, follower):
                one.enough = True
            async with asyncio.timeout(20):
                await asyncio.gather(*loads)
            book.stop_ticking()
            await eventually(lambda: all(has_everything(one, book) for one in everybody), 20)
            await eventually(
                lambda: len(follower.received) >= publisher.sent, 10, "all that was published"
            )
        finally:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)


def has_everything(one: Traveller, book: LedgerBook) -> bool:
    session = str(one.client.session_id)
    return bool(book.lines(session, "stopped")) and set(book.accepted(session)) <= set(one.ticks)


async def more(found: Sequence[Traveller], count: int = 20) -> None:
    """Until each of them has so many more messages, and so many more of its own done."""
    goals = [(one, len(one.received) + count, len(one.results) + count) for one in found]
    await eventually(
        lambda: all(
            len(one.received) >= received and len(one.results) >= results
            for one, received, results in goals
        ),
        20,
        "traffic in both directions",
    )


async def sent_to(node: ServerProcess, through: Proxy) -> None:
    """Until the proxy gives a new connection to this node."""

    async def there() -> bool:
        with suppress(InvalidStatus):
            async with Raw(through.ws("/echo/"), ssl=through.tls) as raw:
                welcome = await raw.hello()
                await raw.bye()
                return bool(welcome["node"] == node.name)
        return False

    await eventually(there, 15, f"{through.name} sends clients to {node.name}")


async def roll(site: Site, through: Proxy, found: Sequence[Traveller]) -> None:
    """One node after the other: stopped, started, found by the proxy; then the next."""
    for node in site.nodes:
        node.terminate()
        assert await node.await_exit(20) == 0
        await more(found)
        await asyncio.to_thread(node.start)
        await sent_to(node, through)


@contextmanager
def behind(
    make_site: MakeSite,
    name: ProxyName,
    server: ServerName,
    directory: Path,
    *,
    changes: Changes = (),
    **options: Any,
) -> Iterator[tuple[Site, Proxy]]:
    """Two nodes behind a proxy."""
    for needed in (name, "openssl"):
        if binary(needed) is None:
            missing(needed)
    # uvicorn believes a proxy on 127.0.0.1 without being asked to.
    arguments = ["--proxy-headers"] if server == "daphne" else []
    site = make_site(server=server, nodes=2, arguments=arguments, **options)
    ports = [node.port for node in site.nodes]
    with proxy(name, ports, directory / "proxy", changes) as through:
        try:
            yield site, through
        except BaseException:
            print(through.log())  # shown when the test fails
            raise


@pytest.mark.parametrize("name", FILES)
def test_proxy_takes_its_file(name: ProxyName, tmp_path: Path) -> None:
    for needed in (name, "openssl"):
        if binary(needed) is None:
            missing(needed)
    said = Proxy(name, (1, 2), tmp_path / "proxy").check()
    assert said.returncode == 0, said.stderr
    assert "warn" not in (said.stdout + said.stderr).lower()


@pytest.mark.parametrize(("name", "server"), PAIRS)
async def test_rolling_deploy_through_a_proxy_loses_nothing_and_no_session(
    make_site: MakeSite, book: LedgerBook, tmp_path: Path, name: ProxyName, server: ServerName
) -> None:
    settings = {**SETTINGS, **settings_said(FILES[name])}
    with behind(make_site, name, server, tmp_path, env=book.env, settings=settings) as (
        site,
        through,
    ):
        async with travellers(through, book) as (everybody, publisher, follower):
            await more(everybody)
            assert {one.client.node for one in everybody} == {"node-1", "node-2"}
            await roll(site, through, everybody)
            await more(everybody)
        if name == "haproxy":
            assert "Server nodes/one is DOWN" in through.log(), "nobody asked for readiness"
    for one in (*everybody, publisher, follower):
        one.kept_its_session()
        assert len(one.welcomes) >= 2, "its node was never stopped"
    for one in everybody:
        one.lost_nothing(book)
    assert follower.received == list(range(1, publisher.sent + 1))


@pytest.mark.parametrize(("name", "server"), PAIRS[::3])
async def test_proxy_gives_a_refused_handshake_to_the_other_node_and_passes_1012_on(
    make_site: MakeSite, tmp_path: Path, name: ProxyName, server: ServerName
) -> None:
    settings = {"drain_window": 1.5}
    with behind(make_site, name, server, tmp_path, settings=settings) as (site, through):
        async with AsyncExitStack() as stack:

            async def come(again_as: Raw | None = None) -> Raw:
                raw = Raw(through.ws("/echo/"), ssl=through.tls)
                if again_as is not None:
                    raw = again(again_as, ssl=through.tls)
                await stack.enter_async_context(raw)
                await raw.hello()
                return raw

            clients = [await come() for _ in range(4)]
            stays, *rest = clients
            first, second = sorted(site.nodes, key=lambda node: node.name != node_of(stays))
            for client in rest:
                if node_of(client) == first.name:
                    await client.bye()  # so that the proxy prefers this node
            first.terminate()
            await stays.expect("drain")
            for _ in range(4):
                late = await come()
                assert node_of(late) == second.name
                await late.bye()
            assert stays.is_open
            assert await stays.closed() == (1012, "the server restarts")
            assert await first.await_exit() == 0
            back = await come(again_as=stays)
            assert (back.welcomed["resumed"], node_of(back)) == (True, second.name)
            second.terminate()
            await back.expect("drain")
            with pytest.raises(InvalidStatus) as refused:  # when there is nobody: at once
                await come()
            assert refused.value.response.status_code in (502, 503)
            assert await back.closed() == (1012, "the server restarts")
        assert await second.await_exit() == 0


def node_of(raw: Raw) -> str:
    return str(raw.welcomed["node"])


@pytest.mark.parametrize(("name", "server"), PAIRS[::2])  # Daphne believes more than uvicorn does
async def test_nodes_learn_who_connects_and_slow_headers_reach_none_of_them(
    make_site: MakeSite, tmp_path: Path, name: ProxyName, server: ServerName
) -> None:
    short = {
        "nginx": ("client_header_timeout 10s", "client_header_timeout 1s"),
        "haproxy": ("timeout http-request 10s", "timeout http-request 1s"),
    }[name]
    with behind(make_site, name, server, tmp_path, changes=[short]) as (site, through):
        lie = {"X-Forwarded-For": "192.0.2.66"}
        options = {"ssl": through.tls, "local_addr": ("127.0.0.9", 0), "additional_headers": lie}
        async with Raw(through.ws("/echo/"), **options) as raw:
            await raw.hello()
            await sends_its_header_slowly(through)
            assert await raw.ask({"result": "still here"}) == "still here"
            await raw.bye()
        logs = "".join(node.log() for node in site.nodes)
        assert "127.0.0.9:0" in logs  # which names clients by the address that scope has
        assert "192.0.2.66" not in logs
        assert "/slow/" not in logs


async def sends_its_header_slowly(through: Proxy) -> None:
    """A byte now and then, until it is cut off, which has to come soon."""
    reader, writer = await asyncio.open_connection("127.0.0.1", through.port, ssl=through.tls)
    answer = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(5):
            writer.write(b"GET /slow/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            with suppress(OSError):
                while not answer.done():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.wait([answer], timeout=0.1)
            with suppress(OSError):
                assert not (await answer).startswith(b"HTTP/1.1 2")
    finally:
        answer.cancel()
        writer.transport.abort()
