"""One of two nodes ends: how long the clients of a stream hear nothing, and what they lose."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import quantiles
from typing import Any

from tests.benchmarks.bench import Nodes
from tests.benchmarks.clients import WrongDelivery
from tests.benchmarks.followers import Follower, OurFollower, PlainFollower, leave
from tests.benchmarks.workload import OURS, RIVAL, Measure, Side, Turn, Workload

from .audience import TEXT

CLIENTS, QUICK_CLIENTS = 200, 50
PACE = 20  # messages a second
BEFORE = 1.0  # seconds of messages before the signal
AFTER = 7.0  # and after it: longer than a drain, and than a first back-off
READY_WITHIN = 30.0
COMPLETE_WITHIN = 15.0  # seconds after the last message
AT_ONCE = 20  # clients that connect at the same time

PERCENTILES = ("p50", "p99", "worst")
KINDS = ("sigterm", "sigkill", "sigkill-past-wait")


class Stalls:
    """How long this process itself kept its clients waiting, at worst: no gap is measured finer."""

    longest = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, loop.time() - due)


class Gaps(Workload):
    name = "gaps"
    about = "SIGTERM and SIGKILL of one of two nodes: time without a message, 20/s to 200 clients"
    sides = (
        Side(
            "ours",
            OURS,
            "/room/",
            graceful=True,
            layer="pubsub",
            settings={"drain_window": 3, "reconnect_window": 1},
        ),
        Side("rival", RIVAL, "/room/", bare=True, layer="pubsub"),
    )
    measures = {f"{kind}.{name}": Measure("ms", False) for kind in KINDS for name in PERCENTILES}
    db = "postgres"
    fresh = True
    deadline = 180.0

    def server(self, bench: Any, side: Side, db: str) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Nodes] = bench.nodes(side, db, 2)
        return found

    async def turn(self, turn: Turn) -> dict[str, float]:
        there, rest = await self._phase(turn, signal.SIGTERM)
        found = _percentiles("sigterm", _gaps(there), _gaps(rest))
        await asyncio.to_thread(turn.server.start_again)
        there, rest = await self._phase(turn, signal.SIGKILL)
        found |= _percentiles("sigkill", _gaps(there), _gaps(rest))
        # What came on top of the wait that each of them chose, by chance, is the work.
        past = [gap - (one.wait or 0.0) for one, gap in zip(there, _gaps(there), strict=True)]
        return found | _percentiles("sigkill-past-wait", past, _gaps(rest))

    async def _phase(
        self, turn: Turn, number: signal.Signals
    ) -> tuple[list[Follower], list[Follower]]:
        """The clients that were on the node which got that signal, and those on the other one."""
        ending, other = turn.server.servers
        urls = [node.ws(turn.side.path) for node in (ending, other)]
        kind: Callable[[list[str]], Follower] = OurFollower if turn.side.graceful else PlainFollower
        followers = [kind(urls) for _ in range(QUICK_CLIENTS if turn.quick else CLIENTS)]
        publisher = kind(urls[1:])
        everybody = [*followers, publisher]
        stalls = Stalls()
        watch = asyncio.create_task(stalls.watch())
        try:
            for start in range(0, len(everybody), AT_ONCE):
                some = everybody[start : start + AT_ONCE]
                for one in some:
                    one.start()
                async with asyncio.timeout(READY_WITHIN):
                    await asyncio.gather(*(one.ready.wait() for one in some))
            there = [one for one in followers if one.url == urls[0]]
            assert len(there) > len(followers) / 5, f"only {len(there)} are on the node that ends"
            gc.collect()
            gc.freeze()
            stalls.longest = 0.0
            count = await self._publish(publisher, followers, ending, number)
            name = f"{turn.side.name} {number.name}, longest stall of the generator, ms"
            turn.facts.setdefault(name, []).append(stalls.longest * 1000)
            await self._complete(turn, followers, count, number)
            assert all(one.url == urls[1] for one in followers), "some are not on the other node"
            await ending.await_exit(COMPLETE_WITHIN)
        finally:
            gc.unfreeze()
            watch.cancel()
            await leave(everybody)
        return there, [one for one in followers if one not in there]

    async def _publish(
        self, publisher: Follower, followers: list[Follower], ending: Any, number: signal.Signals
    ) -> int:
        """Returns how many messages there were."""
        start = time.perf_counter()
        count = int((BEFORE + AFTER) * PACE)
        for n in range(count):
            await asyncio.sleep(start + n / PACE - time.perf_counter())
            if n == int(BEFORE * PACE):
                for one in followers:
                    one.watch()
                ending.kill() if number == signal.SIGKILL else ending.signal(number)
            await publisher.send({"n": n, "to": n + 1, "text": TEXT, "at_once": False})
        return count

    async def _complete(
        self, turn: Turn, followers: list[Follower], count: int, number: signal.Signals
    ) -> None:
        for _ in range(int(COMPLETE_WITHIN / 0.02)):
            if all(one.next == count for one in followers):
                break
            await asyncio.sleep(0.02)
        wrong = [one.wrong for one in followers if one.wrong]
        if wrong:
            raise WrongDelivery(f"after {number.name}: {wrong[0]} ({len(wrong)} clients)")
        lost = sum(one.lost + count - one.next for one in followers)
        if lost and turn.side.role != "rival":
            raise WrongDelivery(f"after {number.name}: {lost} of {count * len(followers)} missing")
        if lost:
            share = f"{lost:,} of {count * len(followers):,}"
            turn.notes.append(f"{turn.side.name}: {share} deliveries lost after {number.name}")


def _gaps(followers: list[Follower]) -> list[float]:
    return [max(0.0, one.gap - 1 / PACE) for one in followers]


def _percentiles(kind: str, there: list[float], rest: list[float]) -> dict[str, float]:
    """In ms; the worst is that of everybody."""
    percentiles = quantiles(there, n=100, method="inclusive")
    values = percentiles[49], percentiles[98], max(*there, *rest)
    return {f"{kind}.{name}": value * 1000 for name, value in zip(PERCENTILES, values, strict=True)}
