"""Groups and channels over the layers of channels_redis: the same from both base classes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings

from tests.compat.kit import PAIRS, Transcript
from tests.compat.peer import Peer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("layer", "graceful_node"), pytest.mark.sqlite_only]

LAYERS = ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"]


@pytest.fixture(params=LAYERS)
async def layer(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[None]:
    hosts = [{"address": redis_url, "socket_timeout": 20}]
    config = {"BACKEND": f"channels_redis.{request.param}", "CONFIG": {"hosts": hosts}}
    with override_settings(CHANNEL_LAYERS={"default": config}):
        layer: Any = get_channel_layer()
        yield
        if hasattr(layer, "close_pools"):
            await layer.close_pools()
        await layer.flush()


async def news(peer: Peer, base: Any, name: str) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = [f"all_{name}"]

        async def connect(self) -> None:
            await self.channel_layer.group_add(f"room_{name}", self.channel_name)
            await self.accept()
            peer.consumer = self

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            message = {"type": "chat.message", "text": text_data}
            await self.channel_layer.group_send(f"room_{name}", message)

        async def chat_message(self, event: Any) -> None:
            peer.log("chat_message", event)
            await self.send(text_data=event["text"])

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(f"room_{name}", self.channel_name)
            peer.log("disconnect", code)

    async def came(count: int) -> None:
        await eventually(lambda: len(peer.sent) >= count, 10)

    peer.start(Consumer.as_asgi())
    await came(1)
    layer: Any = get_channel_layer()
    await layer.group_send(f"all_{name}", {"type": "chat.message", "text": "to all"})
    await came(2)
    peer.says("to the room")
    await came(3)
    direct = {"type": "chat.message", "text": "to one", "n": [1, None, 2.5]}
    await layer.send(peer.consumer.channel_name, direct)
    await came(4)
    peer.leaves(1001)
    await came(5)


@pytest.mark.parametrize("pair", PAIRS)
async def test_groups_and_channels_over_redis_are_the_same(pair: str) -> None:
    transcripts = []
    for base in PAIRS[pair]:
        peer = Peer()
        await news(peer, base, uuid.uuid4().hex)
        await peer.over()
        transcripts.append(Transcript(peer.sent, peer.hooks))
    channels, here = transcripts
    assert here == channels
    assert [line[1] for line in here.sent[1:4]] == ["to all", "to the room", "to one"]
