"""One message to many: bursts, a steady pace, and the cost as the audience grows."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

from tests.benchmarks.clients import Crowd
from tests.benchmarks.workload import OURS, RAW, RIVAL, Measure, Medians, Side, Turn, Workload

from .audience import Audience

BURST = 20  # messages, asked for in one go
PACE = 20  # messages a second
PATIENCE = 15.0  # seconds that what is late is waited for


class Broadcast(Workload):
    name = "broadcast"
    about = "20 messages in a burst, and 20/s, to 1,000 subscribers; journaled; Redis"
    sides = (
        Side("ours", OURS, "/room/", graceful=True, layer="core"),
        Side("rival", RIVAL, "/room/", bare=True, layer="core", variant="core"),
        Side("rival", RIVAL, "/room/", bare=True, layer="pubsub", variant="pubsub"),
        Side("limit", RAW, "/room/", bare=True),
    )
    measures = {
        "burst": Measure("deliveries/s"),  # published one after another
        "burst-at-once": Measure("deliveries/s"),  # by twenty tasks at the same time
        "paced-p99": Measure("ms", False),
    }
    db = "postgres"
    fresh = True  # a rival is still busy with what nobody waits for any more
    deadline = 180.0

    async def turn(self, turn: Turn) -> dict[str, float]:
        async with Crowd() as crowd:
            strict = turn.side.role != "rival"
            audience = Audience(crowd, graceful=turn.side.graceful, strict=strict)
            await audience.grow(turn.url, 300 if turn.quick else 1000)
            await audience.burst(1)  # warm
            found = {}
            with turn.meter.measuring():
                for name, at_once in (("burst", False), ("burst-at-once", True)):
                    # Which of several tasks' group_send comes first is nobody's promise.
                    audience.unordered = at_once and not strict
                    found[name] = await self._bursts(turn, audience, at_once)
            audience.unordered = False
            found["paced-p99"] = await self._paced(turn, audience)
        return found

    async def _bursts(self, turn: Turn, audience: Audience, at_once: bool) -> float:
        delivered = 0
        start = time.perf_counter()
        while True:
            delivered += await audience.burst(BURST, at_once=at_once)
            elapsed = time.perf_counter() - start
            if elapsed > (0.5 if turn.quick else 3.0):
                return delivered / elapsed

    async def _paced(self, turn: Turn, audience: Audience) -> float:
        count = PACE * (2 if turn.quick else 10)
        wanted = count * len(audience.clients)
        audience.expect(wanted)
        start = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(start + number / PACE - time.perf_counter())
            audience.publish(1)
        missing = await audience.heard(PATIENCE)
        if missing:
            turn.notes.append(
                f"{turn.side.name}: {missing:,} of {wanted:,} paced deliveries missing"
                f" {PATIENCE:g} s after the last message"
            )
        # What never came is later than all that did.
        delays = audience.delays + [PATIENCE] * missing
        return quantiles(delays, n=100)[98] * 1000


class BroadcastScale(Workload):
    name = "broadcast-scale"
    about = "server's processor time for one delivery to 1,000 and 4,000 beside 100 subscribers"
    sides = (Broadcast.sides[0],)
    measures = {str(size): Measure("µs of CPU", False) for size in (100, 1000, 4000)}
    db = "postgres"
    fresh = True

    async def turn(self, turn: Turn) -> dict[str, float]:
        found = {}
        async with Crowd() as crowd:
            audience = Audience(crowd, graceful=True)
            for size in (100, 1000) if turn.quick else (100, 1000, 4000):
                await audience.grow(turn.url, size)
                await audience.burst(1)
                delivered = 0
                with turn.meter.measuring():
                    while delivered < 40_000:
                        delivered += await audience.burst(BURST)
                found[str(size)] = turn.meter.server_cpu / delivered * 1e6
        return found

    def pairs(self, medians: Medians) -> list[tuple[str, str, float, float | None, float | None]]:
        """The rival of a large audience is a small one."""
        ours = medians["ours"]
        return [
            (f"{self.name}.{size}", size, ours[size], ours["100"], None)
            for size in ours
            if size != "100"
        ]
