"""Nobody waits for a poll: what is left while a session moves, and what an accept sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.node.node import Node
from graceful_ws.publishing import asend_to_session
from graceful_ws.store.attach import Attached
from tests.node.kit_peer import Peer, running_node
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


class Plainest(GracefulConsumer):
    """Without a hook."""


class Greeter(GracefulConsumer):
    """Its accept waits for the session: the hello has to be read meanwhile."""

    async def accept(self, *args: Any, **kwargs: Any) -> None:
        await super().accept(*args, **kwargs)
        await self.send_json("welcome")


@pytest.fixture
async def node(database: Database, limits: Callable[..., None]) -> AsyncIterator[Node]:
    limits(poll_interval=60.0, round_interval=60.0)
    async with running_node() as node:
        yield node


async def test_what_is_left_between_the_attach_and_its_answer_comes_with_the_connection_before_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(Plainest)
    welcome = await peer.connect()
    run = node.journal.threads.run
    left: list[str] = []

    async def leaving(*args: Any) -> Any:
        outcomes = await run(*args)
        attached = isinstance(outcomes, list) and outcomes and isinstance(outcomes[0], Attached)
        if attached and not left:
            left.append("left")
            await asend_to_session(welcome["session_id"], "left")
            await asyncio.sleep(0.1)  # the old connection hears of it
        return outcomes

    monkeypatch.setattr(node.journal.threads, "run", leaving)
    other = Peer(Plainest)  # of the same client, while its old socket is open
    other.token, other._attempt = peer.token, 1
    await other.connect()
    async with asyncio.timeout(5):
        assert (await other.gets("message"))["data"] == "left"
    assert left


async def test_an_accept_of_the_application_may_send(node: Node) -> None:
    peer = Peer(Greeter)
    async with asyncio.timeout(5):
        await peer.connect()
        assert (await peer.gets("message"))["data"] == "welcome"
