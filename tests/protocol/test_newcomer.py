"""A client that was written from docs/protocol.md alone, through a cut, kill -9 and a drain, with
both ends writing down what they sent and got."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.protocol import newcomer as module
from tests.protocol.newcomer import Newcomer
from tests.support.ledger import LedgerBook
from tests.support.servers import ServerProcess, Site
from tests.support.waiting import eventually
from tests.system.conftest import SETTINGS, MakeSite

HURRY = 0.05  # of the delays that the page asks for
COUNT = 40  # messages on their way at each blow


@contextlib.asynccontextmanager
async def running(client: Newcomer) -> AsyncIterator[None]:
    task = asyncio.create_task(client.run())
    try:
        await eventually(lambda: client.ws is not None, 15)
        yield
        await client.bye()
        assert await asyncio.wait_for(task, 15) == 1000
    finally:
        task.cancel()
        await asyncio.wait([task])
        if client.ws is not None:
            client.ws.transport.abort()


@pytest.fixture
def book(tmp_path: Path) -> LedgerBook:
    return LedgerBook(tmp_path / "ledger")


async def two_nodes(make_site: MakeSite, **options: Any) -> Site:
    site = make_site(start=False, nodes=2, settings=SETTINGS | {"drain_window": 5}, **options)
    await site.astart()
    return site


def current(site: Site, client: Newcomer) -> ServerProcess:
    return next(node for node in site.nodes if f":{node.port}/" in client.url)


async def some(client: Newcomer) -> None:
    """Sends messages, not all at once; each says its own number."""
    for _ in range(COUNT):
        client.send({"n": client.next_seq})
        await asyncio.sleep(0.005)


async def through_everything(site: Site, client: Newcomer) -> None:
    await some(client)
    assert client.ws is not None
    client.ws.transport.abort()
    await some(client)
    await client.settled()
    assert client.resumes == 1

    sending = asyncio.create_task(some(client))
    killed = current(site, client)
    await asyncio.sleep(0.1)
    killed.kill()
    await sending
    await client.settled()
    assert client.resumes == 2
    await killed.arestart()

    sending = asyncio.create_task(some(client))
    drained = current(site, client)
    drained.terminate()
    await sending
    await eventually(lambda: client.moves == 1, 15)
    await client.settled()
    assert client.resumes == 3
    assert client.closes == [1006, 1006], "the drain broke no connection"
    assert await drained.await_exit(20) == 0
    await some(client)
    await client.settled()
    assert client.failed == {} and client.gaps == []


async def test_client_written_from_the_page_has_each_reply_once_and_in_order(
    make_site: MakeSite,
) -> None:
    """The handler replies in its transaction: each effect is there exactly once."""
    site = await two_nodes(make_site)
    client = Newcomer([node.ws("/soak/") for node in site.nodes], HURRY)
    sent = [{"n": n} for n in range(1, 5 * COUNT + 1)]
    async with asyncio.timeout(90):
        async with running(client):
            await through_everything(site, client)
            await eventually(lambda: len(client.received) >= len(sent), 10)
        assert client.received == sent
        assert client.results == dict(enumerate(sent, 1))
    rows = "SELECT state, cause, last_client_seq FROM graceful_ws_session"
    await eventually(lambda: site.sql(rows) == [("ended", "bye", len(sent))])


async def test_client_written_from_the_page_loses_nothing_that_a_server_says_by_itself(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = await two_nodes(make_site, env=book.env)
    client = Newcomer([node.ws("/ledger/") for node in site.nodes], HURRY)
    async with asyncio.timeout(90), running(client):
        await through_everything(site, client)
        book.stop_ticking()
        robot: Any = LikeRobot(client)
        await book.complete(robot)
        book.verify(robot, starts=2)  # killed in the middle, a handler is started once more
        assert len(client.received) > 50


class LikeRobot:
    """What ``LedgerBook`` asks of a client."""

    def __init__(self, client: Newcomer) -> None:
        self.complaints = client.gaps
        self.received, self.results = client.received, client.results
        self.pending, self.nacks = client.waiting, client.failed
        self.session_id, self.next_seq = client.session_id, client.next_seq

    async def settled(self, within: float) -> None:
        await eventually(lambda: not self.pending, within)


def test_the_client_imports_nothing_of_this_project() -> None:
    nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text())))
    imported = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"websockets"}
