"""A plain client may be sent any text; what is none is refused where it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.node.node import Node
from tests.node.kit import soon
from tests.node.kit_peer import running_node
from tests.store.kit import WITHIN
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")

TEXTS = {"ill-formed": "\ud83d", "well-formed": "\U0001f600"}


class Texts(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        try:
            await self.send(text_data=TEXTS[content])
        except ValueError:
            await self.send(text_data="refused")


class OwnEncoding(GracefulConsumer):
    @classmethod
    async def encode_json(cls, content: Any) -> str:
        return TEXTS.get(content, content)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        try:
            await self.send_json(content)
        except ValueError:
            await self.send_json("refused")


@pytest.fixture
async def node(database: Database) -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


@pytest.mark.parametrize("consumer", [Texts, OwnEncoding])
async def test_ill_formed_text_is_refused_and_the_client_goes_on(
    node: Node, consumer: type[GracefulConsumer]
) -> None:
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": []}
    events.put_nowait({"type": "websocket.connect"})
    serving = asyncio.ensure_future(consumer.as_asgi()(scope, events.get, send))
    for text in ('"ill-formed"', '"well-formed"'):
        events.put_nowait({"type": "websocket.receive", "text": text})
    await eventually(lambda: len(sent) >= 3, WITHIN, "both are answered")
    assert [event["type"] for event in sent] == ["websocket.accept", *["websocket.send"] * 2]
    assert [event["text"] for event in sent[1:]] == ["refused", "\U0001f600"]
    events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await soon(serving)
