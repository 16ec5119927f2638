"""``drain_connections`` for a whole site, asked from anywhere, with the layer and without it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from tests.support.raw import Raw
from tests.support.redis import RedisServer
from tests.support.servers import Site
from tests.system.conftest import MakeSite

CLIENTS = 8  # of each node


async def clients_of(site: Site, stack: AsyncExitStack) -> list[Raw]:
    clients = []
    for node in site.nodes:
        for _ in range(CLIENTS):
            client = await stack.enter_async_context(Raw(node.ws("/echo/")))
            await client.hello()
            clients.append(client)
    return clients


@pytest.mark.parametrize("redis", ["works", "is stopped"])
async def test_a_site_drains_at_one_rate_whatever_redis_does(
    make_site: MakeSite, redis_server: RedisServer, redis: str
) -> None:
    """Sixteen clients of two nodes at four a second: four seconds, as of one node."""
    # With the layer nobody waits for the next beat: it would come too late for this test.
    beat = 60.0 if redis == "works" else 1.0
    settings = {"beat_interval": beat, "dead_after": 4 * beat}
    site = make_site(nodes=2, redis_url=redis_server.url, settings=settings)
    async with AsyncExitStack() as stack:
        clients = await clients_of(site, stack)
        if redis == "is stopped":
            redis_server.kill()
        drain = asyncio.create_task(
            site.adjango(
                "drain_connections", "--all", "--rate=4", "--window=8", "--timeout=20", "--json"
            )
        )
        notices = [await client.expect("drain") for client in clients]
        slots = sorted(notice["reconnect_in"] / 1000 for notice in notices)
        assert 3.0 < slots[-1] <= 4.0, slots
        assert sum(slot < 2.0 for slot in slots) == CLIENTS, "each node takes half of the rate"
        for client in clients:
            client.cut()
        done = json.loads((await drain).stdout)
        assert {node["name"]: node["outcome"] for node in done["nodes"]} == {
            "node-1": "done",
            "node-2": "done",
        }
        assert all(node["total"] == CLIENTS for node in done["nodes"])
        await site.adjango("drain_connections", "--all", "--undo")


async def test_one_node_drains_and_the_others_take_its_clients(
    make_site: MakeSite, redis_server: RedisServer
) -> None:
    site = make_site(nodes=2, redis_url=redis_server.url)
    async with AsyncExitStack() as stack:
        clients = await clients_of(site, stack)
        drain = asyncio.create_task(site.adjango("drain_connections", "--node", "node-2"))
        for client in clients[CLIENTS:]:
            await client.expect("drain")
            client.cut()
        assert "node-2" in (await drain).stdout
        assert all(client.is_open and not client.all("drain") for client in clients[:CLIENTS])
        states = "SELECT name, state FROM graceful_ws_node ORDER BY name"
        assert site.sql(states) == [("node-1", "up"), ("node-2", "drained")]
        await site.adjango("drain_connections", "--all", "--undo")
