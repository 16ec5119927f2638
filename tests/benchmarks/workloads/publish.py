"""What synchronous code pays for telling others, inside its transaction."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import redis.asyncio

from tests.benchmarks.clients import Client, Crowd, GracefulClient, WrongDelivery
from tests.benchmarks.workload import OURS, RIVAL, Measure, Side, Turn, Workload

HEARD_WITHIN = 10.0  # seconds after the last one
ANSWERED_WITHIN = 60.0


class Publish(Workload):
    name = "publish"
    about = "publish() in a transaction of a sync view, and of a process without a node"
    sides = (
        Side("ours", OURS, "/room/", graceful=True, layer="pubsub"),
        Side("rival", RIVAL, "/room/", bare=True, layer="core", variant="core"),
        Side("rival", RIVAL, "/room/", bare=True, layer="pubsub", variant="pubsub"),
    )
    measures = {
        f"{place}-{name}": Measure(unit, False)
        for place in ("view", "process")
        for name, unit in (("wall", "µs"), ("cpu", "µs of CPU"))
    }
    db = "postgres"
    fresh = True

    async def turn(self, turn: Turn) -> dict[str, float]:
        seconds = 1.5 if turn.quick else 5.0
        found: dict[str, float] = {}
        for place, told in (
            ("view", await self._in_a_view(turn, seconds)),
            ("process", await self._in_a_process(turn, seconds)),
        ):
            found |= {f"{place}-{name}": told[name] for name in ("wall", "cpu")}
            name = f"{turn.side.name} {place}, µs of the transaction without it"
            turn.facts.setdefault(name, []).append(told["transaction"])
        return found

    async def _in_a_view(self, turn: Turn, seconds: float) -> dict[str, Any]:
        """Of a server with one client that follows, and gets everything."""
        heard: list[int] = []

        def received(client: Client, n: int) -> None:
            if n != len(heard):
                raise WrongDelivery(f"{n} in place of {len(heard)}")
            heard.append(n)

        def ask() -> dict[str, Any]:
            url = turn.server.url(f"/publish/?seconds={seconds}")
            with urllib.request.urlopen(url, timeout=ANSWERED_WITHIN) as answer:
                told: dict[str, Any] = json.load(answer)
                return told

        async with Crowd() as crowd:
            if turn.side.graceful:
                client: Client = GracefulClient(crowd, received, follows=True)
            else:
                client = Client(crowd, received)
            await crowd.connect(turn.url, [client])
            told = await asyncio.to_thread(ask)
            await _all_of(told["published"], heard, f"{turn.side.name} in a view")
        return told

    async def _in_a_process(self, turn: Turn, seconds: float) -> dict[str, Any]:
        side = replace(turn.side, application="publish_cost")
        async with _heard(turn) as heard:
            with turn.bench.script(side, turn.vendor, str(seconds)) as child:
                status = await asyncio.to_thread(child.wait, ANSWERED_WITHIN + seconds)
                assert status == 0, child.log_tail()
                told: dict[str, Any] = json.loads(child.log().splitlines()[-1])
            published = told["published"]
            if turn.side.graceful and told["kept"] != list(range(published)):
                raise WrongDelivery(f"{len(told['kept'])} kept of {published}, or in disorder")
            if turn.side.layer == "pubsub":
                await _all_of(published, heard, f"{turn.side.name} in a process")
        return told


async def _all_of(published: int, heard: list[int], where: str) -> None:
    for _ in range(int(HEARD_WITHIN / 0.05)):
        if len(heard) >= published > 0:
            return
        await asyncio.sleep(0.05)
    raise WrongDelivery(f"{where}: {len(heard)} of {published} delivered")


@asynccontextmanager
async def _heard(turn: Turn) -> AsyncIterator[list[int]]:
    """Grows by one with each message of the layer, whoever follows it."""
    heard: list[int] = []
    client = redis.asyncio.Redis.from_url(turn.bench.redis.url, socket_timeout=None)
    async with client, client.pubsub() as layer:
        await layer.psubscribe("*")

        async def listen() -> None:
            async for message in layer.listen():
                if message["type"] == "pmessage":
                    heard.append(len(message["data"]))

        listening = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.wait([listening])
