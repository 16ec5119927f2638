"""Everybody at once: new sessions, and sessions that come back for what they missed."""

from __future__ import annotations

import asyncio
import time

from tests.benchmarks.clients import Client, Crowd, GracefulClient
from tests.benchmarks.machine import cpu_seconds, group
from tests.benchmarks.workload import OURS, RAW, RIVAL, Measure, Side, Turn, Workload

from .audience import Audience

MISSED = 50  # messages that each session missed


def _told(turn: Turn, crowd: Crowd) -> None:
    if crowd.retries:
        turn.notes.append(f"{turn.side.name}: {crowd.retries} connections were tried again")


async def _plain_storm(turn: Turn, count: int) -> float:
    """Seconds until the last of so many clients is connected."""
    async with Crowd() as crowd:
        kind = GracefulClient if turn.side.graceful else Client
        clients = [kind(crowd, lambda client, n: None) for _ in range(count)]
        with turn.meter.measuring():
            start = time.perf_counter()
            await crowd.connect(turn.url, clients, at_once=count)
            elapsed = time.perf_counter() - start
        _told(turn, crowd)
        return elapsed


class ConnectStorm(Workload):
    name = "connect-storm"
    about = "2,000 new sessions at once, until the last has its welcome"
    sides = (
        Side("ours", OURS, "/echo/", graceful=True),
        Side("rival", RIVAL, "/echo/", bare=True),
        Side("limit", RAW, "/echo/", bare=True),
    )
    measures = {"": Measure("connects/s")}

    async def turn(self, turn: Turn) -> dict[str, float]:
        count = 500 if turn.quick else 2000
        return {"": count / await _plain_storm(turn, count)}


class ResumeStorm(Workload):
    name = "resume-storm"
    about = "sessions cut at once come back for 50 messages each; beside a plain connect storm"
    sides = (
        Side("ours", OURS, "/room/", graceful=True),
        Side("rival", RIVAL, "/echo/", bare=True),
        Side("limit", RAW, "/echo/", bare=True),
    )
    measures = {"1000": Measure("s", False), "4000": Measure("s", False)}
    fresh = True
    deadline = 240.0

    async def turn(self, turn: Turn) -> dict[str, float]:
        return {
            size: await (self._resumes if turn.side.graceful else _plain_storm)(turn, int(size))
            for size in (["1000"] if turn.quick else self.measures)
        }

    async def _resumes(self, turn: Turn, count: int) -> float:
        """Seconds until the last of so many sessions has its last message."""
        async with Crowd() as crowd:
            audience = Audience(crowd, graceful=True)
            await audience.grow(turn.url, count + 1)
            await audience.burst(1)
            rest = audience.clients[1:]  # the first one publishes
            for client in rest:
                client.cut()
            await crowd.until(asyncio.gather(*(client.gone for client in rest)))
            await self._settled(turn)
            audience.expect(MISSED)  # the publisher hears it, nobody else is there
            audience.publish(MISSED)
            await audience.heard(30)
            await self._settled(turn)
            audience.expect(MISSED * count)
            with turn.meter.measuring():
                start = time.perf_counter()
                await crowd.connect(turn.url, rest, at_once=count)
                await audience.heard(60)
                elapsed = time.perf_counter() - start
            assert all(client.attempt >= 2 for client in rest)
            _told(turn, crowd)
            return elapsed

    async def _settled(self, turn: Turn) -> None:
        """Returns when the server has nothing to do; after 20 s in any case."""
        for _ in range(40):
            before = cpu_seconds(group(turn.server.pid))
            await asyncio.sleep(0.5)
            if cpu_seconds(group(turn.server.pid)) - before < 0.03:
                return
