"""The consumer's own channel on the layer: taken once, given back, whatever Redis does."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from graceful_ws.node import layer as module
from graceful_ws.node.layer import ConsumerLayer, LayerPump
from tests.support.redis import RedisServer
from tests.support.waiting import eventually


class Live:
    """What a pump needs of its connection."""

    def __init__(self, layer: Any, groups: list[str]) -> None:
        self.consumer = SimpleNamespace(channel_layer=layer, channel_name="", groups=groups)
        loop = asyncio.get_running_loop()
        self.node = SimpleNamespace(
            backplane=SimpleNamespace(failing=False),
            spawn=lambda work, context: loop.create_task(work, context=context),
        )
        self.inbox = SimpleNamespace()
        self.context = copy_context()
        self.over = False

    def extra(self) -> dict[str, Any]:
        return {}


def channels(layer: RedisPubSubChannelLayer) -> int:
    return len(layer._get_layer().channels)


async def test_no_channel_is_left_of_a_connection_that_came_while_redis_was_away(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url])
    redis_server.kill()
    live = Live(layer, ["group"])
    live.node.backplane.failing = True
    pump = LayerPump(live)  # type: ignore[arg-type]
    await pump.open()
    await pump.join()
    pump.start()
    before = channels(layer)
    await asyncio.sleep(0.5)  # ten tries, if it tried
    assert channels(layer) == before
    redis_server.restart()
    live.node.backplane.failing = False
    await eventually(lambda: live.consumer.channel_name != "", 10)
    await pump.stop()
    await asyncio.sleep(0)
    await eventually(lambda: channels(layer) <= before, 5)
    await layer.flush()


async def test_a_channel_that_was_never_read_is_given_back(redis_server: RedisServer) -> None:
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url])
    live = Live(layer, [])
    pump = LayerPump(live)  # type: ignore[arg-type]
    await pump.open()
    assert channels(layer) == 1
    await pump.stop()
    await eventually(lambda: channels(layer) == 0, 5)
    await layer.flush()


@pytest.mark.parametrize(
    "changes", [["group_discard"], ["group_discard", "group_add"], ["group_add"], []]
)
async def test_a_group_that_is_left_while_it_is_joined_again_stays_left(changes: list[str]) -> None:
    members: set[str] = set()
    answer = asyncio.Event()

    class Slow:
        async def group_add(self, group: str, channel: str) -> None:
            await answer.wait()
            members.add(group)

        async def group_discard(self, group: str, channel: str) -> None:
            members.discard(group)

    layer = ConsumerLayer(Slow(), SimpleNamespace(channel_name="channel"))
    layer.graceful_groups["room"] = None
    again = asyncio.create_task(layer.join_again())
    await asyncio.sleep(0)
    adding = [asyncio.create_task(getattr(layer, name)("room", "channel")) for name in changes]
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(again, *adding)
    stays = changes != ["group_discard"]
    assert (members, list(layer.graceful_groups)) == (
        ({"room"}, ["room"]) if stays else (set(), [])
    )


@pytest.mark.parametrize("instead", ["goes on waiting", "raises something else", "has a message"])
async def test_pump_ends_although_the_layer_loses_a_cancellation(instead: str) -> None:
    class Layer:
        async def new_channel(self) -> str:
            return "channel"

        async def receive(self, channel: str) -> Any:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if instead == "raises something else":
                    raise ConnectionError("cancelled") from None
                if instead == "goes on waiting":
                    await asyncio.sleep(60)
            return {"type": "unheard.of"}

    live = Live(Layer(), [])
    pump = LayerPump(live)  # type: ignore[arg-type]
    await pump.open()
    pump.start()
    await asyncio.sleep(0)
    task = pump._task
    assert task is not None
    live.over = True
    await pump.stop()
    assert task.done()
