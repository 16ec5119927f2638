"""What the logs say of a session: one line for each thing that happens to it, with its fields."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.node.node import Node
from tests.node.kit_peer import Peer, running_node
from tests.store.kit import WITHIN
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


class Quiet(GracefulConsumer):
    pass


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


async def test_a_session_is_opened_detached_resumed_and_ended_in_a_line_each(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graceful_ws.connection")
    peer = Peer(Quiet)
    session = (await peer.connect())["session_id"]
    await peer.cut()
    await peer.connect()
    await peer.bye()
    await eventually(lambda: not node.connections, WITHIN, "it is over")

    lines = [vars(record) for record in caplog.records if record.name == "graceful_ws.connection"]
    assert [
        (line["message"], line["session"], line["generation"], line["node"], line.get("code"))
        for line in lines
    ] == [
        ("opened", session, 1, node.name, None),
        ("detached 1006 (lost)", session, 1, node.name, 1006),
        ("resumed", session, 2, node.name, None),
        ("ended 1000 (bye)", session, 2, node.name, 1000),
    ]
    assert [line.get("cause") for line in lines] == [None, "lost", None, "bye"]
