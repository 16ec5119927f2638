"""Connections that do nothing: what they take of memory, and the heartbeat of the processor."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.benchmarks.clients import Client, Crowd, GracefulClient, PongingClient
from tests.benchmarks.machine import resident_bytes
from tests.benchmarks.workload import OURS, RAW, RIVAL, Measure, Side, Turn, Workload

CONNECTIONS, QUICK_CONNECTIONS = 5000, 1000
INTERVAL = 5.0  # seconds: the heartbeat of both


class IdleMemory(Workload):
    name = "idle-memory"
    about = "memory of the server for each of 5,000 idle connections"
    sides = (
        Side("ours", OURS, "/echo/", graceful=True),
        Side("rival", RIVAL, "/echo/", bare=True),
        Side("limit", RAW, "/echo/", bare=True),
    )
    measures = {"": Measure("KiB each", False)}
    fresh = True

    async def turn(self, turn: Turn) -> dict[str, float]:
        count = QUICK_CONNECTIONS if turn.quick else CONNECTIONS
        kind = GracefulClient if turn.side.graceful else Client
        async with Crowd() as crowd:
            clients = [kind(crowd, lambda client, n: None) for _ in range(count + 20)]
            await crowd.connect(turn.url, clients[:20])  # what the first ones bring is not theirs
            await asyncio.sleep(1)
            before = resident_bytes(turn.server.pid)
            await crowd.connect(turn.url, clients[20:])
            await asyncio.sleep(2)
            return {"": (resident_bytes(turn.server.pid) - before) / count / 1024}


class IdleCpu(Workload):
    name = "idle-cpu"
    about = "processor time for 5,000 idle connections with a ping each 5 s; beside raw ASGI"
    sides = (
        Side("ours", OURS, "/echo/", graceful=True),
        Side("rival", RAW, "/idle/", bare=True),
    )
    measures = {"": Measure("% of a core", False)}
    fresh = True

    async def turn(self, turn: Turn) -> dict[str, float]:
        count = QUICK_CONNECTIONS if turn.quick else CONNECTIONS
        kind: Any = GracefulClient if turn.side.graceful else PongingClient
        async with Crowd() as crowd:
            clients = [kind(crowd, lambda client, n: None) for _ in range(count)]
            await crowd.connect(turn.url, clients)
            await asyncio.sleep(INTERVAL + 1)
            before = crowd.pings
            with turn.meter.measuring():
                await asyncio.sleep((2 if turn.quick else 4) * INTERVAL)
            assert turn.meter.usage is not None
            seconds = turn.meter.usage.seconds
            wanted = count * seconds / INTERVAL
            share = (crowd.pings - before) / wanted
            assert share > 0.8, f"{crowd.pings - before} pings in {seconds:g} s"
            if not 0.9 < share < 1.1:
                turn.notes.append(f"{turn.side.name}: {share:.0%} of the pings expected")
            return {"": turn.meter.server_cpu / seconds * 100}
