"""The layer only hurries things on: what it does not say is found in the database."""

from __future__ import annotations

import signal

import pytest

from tests.support.outside import outside
from tests.support.raw import Raw
from tests.support.redis import RedisServer
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

ROOM = "room without a layer"
# While the layer works nothing but the layer is as fast as these tests want it.
SETTINGS = {"round_interval": 60.0, "poll_interval": 0.2}
FAST = 10.0  # seconds


async def listened(site: Site, *raws: Raw) -> None:
    """Until messages of another node come by the layer."""
    publisher, listener = raws
    seen = 0

    async def comes() -> bool:
        nonlocal seen
        seen += 1
        await publisher.ask({"publish": ROOM, "data": "warm"})
        try:
            await listener.has(ROOM, len(publisher.stream(ROOM)) or 1, 0.5)
        except AssertionError:
            return False
        return len(listener.stream(ROOM)) == len(publisher.stream(ROOM))

    await eventually(comes, 20, "the nodes hear each other")


@pytest.mark.parametrize(("layer", "fault"), [("pubsub", "stopped"), ("core", "killed")])
async def test_layer_that_fails_delays_messages_and_is_used_again_when_it_is_back(
    make_site: MakeSite, redis_server: RedisServer, layer: str, fault: str
) -> None:
    env = {"GRACEFUL_TEST_LAYER": layer}
    site = make_site(
        database="postgres", nodes=2, redis_url=redis_server.url, env=env, settings=SETTINGS
    )
    async with (
        Raw(site.nodes[0].ws("/room/")) as one,
        Raw(site.nodes[1].ws("/room/")) as two,
        outside(site.env) as process,
    ):
        for raw in (one, two):
            await raw.hello()
            await raw.follow(ROOM)
        await listened(site, one, two)
        if fault == "stopped":
            redis_server.signal(signal.SIGSTOP)
        else:
            redis_server.kill()
        await one.ask({"publish": ROOM, "data": "from a node"})
        await process.run(f"publish({ROOM!r}, 'from a process')")
        count = site.sql("SELECT head FROM graceful_ws_stream")[0][0]
        for raw in (one, two):
            rows = await raw.has(ROOM, count, 2 * FAST)
            assert [seq for seq, _ in rows] == list(range(1, count + 1))
            assert sorted(data for _, data in rows)[:2] == ["from a node", "from a process"]
        redis_server.revive()  # one that was killed is empty
        await listened(site, one, two)
        count = site.sql("SELECT head FROM graceful_ws_stream")[0][0]
        for raw in (one, two):
            rows = await raw.has(ROOM, count)
            assert [seq for seq, _ in rows] == list(range(1, count + 1))
            await raw.bye()


async def test_redis_that_was_emptied_in_an_instant_is_noticed(
    make_site: MakeSite, redis_server: RedisServer
) -> None:
    env = {"GRACEFUL_TEST_LAYER": "core"}  # the one that keeps its groups in Redis
    site = make_site(
        database="sqlite", nodes=2, redis_url=redis_server.url, env=env, settings=SETTINGS
    )
    async with Raw(site.nodes[0].ws("/room/")) as one, Raw(site.nodes[1].ws("/room/")) as two:
        for raw in (one, two):
            await raw.hello()
            await raw.follow(ROOM)
        await listened(site, one, two)
        redis_server.restart()
        await one.ask({"publish": ROOM, "data": "into the void"})
        count = site.sql("SELECT head FROM graceful_ws_stream")[0][0]
        for raw in (one, two):
            assert (await raw.has(ROOM, count, 2 * FAST))[-1] == (count, "into the void")
        await listened(site, one, two)
        for raw in (one, two):
            await raw.bye()
