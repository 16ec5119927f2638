"""Echoes: how many a second over fifty connections, and how long one takes."""

from __future__ import annotations

import asyncio
import time
from statistics import quantiles

from tests.benchmarks.clients import Client, Crowd, GracefulClient, WrongDelivery
from tests.benchmarks.workload import OURS, RAW, RIVAL, Measure, Side, Turn, Workload

CONNECTIONS = 50
WINDOW = 8  # messages of a connection whose echo has not come
WARM_UP = 0.3  # seconds before the part that counts
SECONDS, QUICK_SECONDS = 4.0, 1.5
TEXT = b"x" * 32

OURS_RELIABLE = Side("ours", OURS, "/echo/", graceful=True)
OURS_LIGHT = Side("ours", OURS, "/light/", graceful=True)
OURS_PLAIN = Side("ours", OURS, "/echo/")
CHANNELS = Side("rival", RIVAL, "/echo/", bare=True)
LIMIT = Side("limit", RAW, "/echo/", bare=True)


class Echoes:
    """One connection's share: a window of messages, each echo asks for the next."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.client: Client = (GracefulClient if load.graceful else Client)(
            load.crowd, self.received
        )
        self.sent = 0
        self.echoed = 0

    def send(self) -> None:
        self.client.send(b'{"n":%d,"text":"%b"}' % (self.sent, TEXT))
        self.sent += 1

    def received(self, client: Client, n: int) -> None:
        if n != self.echoed:
            raise WrongDelivery(f"echo {n} in place of {self.echoed}")
        self.echoed += 1
        if self.load.running:
            self.send()
        elif self.echoed == self.sent:
            self.load.look()

    @property
    def complete(self) -> bool:
        """All echoes are here, and the server has acknowledged everything."""
        client = self.client
        acknowledged = not isinstance(client, GracefulClient) or client.acked == client.sent
        return self.echoed == self.sent and acknowledged


class Load:
    """Echoes over several connections for some time, to the last one."""

    def __init__(self, crowd: Crowd, connections: int, *, graceful: bool) -> None:
        self.crowd = crowd
        self.graceful = graceful
        self.running = False
        self.done: asyncio.Future[None] = crowd.loop.create_future()
        self.echoes = [Echoes(self) for _ in range(connections)]
        crowd.acked = self.acked

    def acked(self, client: GracefulClient) -> None:
        if not self.running:
            self.look()

    def look(self) -> None:
        if not self.done.done() and all(one.complete for one in self.echoes):
            self.done.set_result(None)

    @property
    def echoed(self) -> int:
        return sum(one.echoed for one in self.echoes)

    async def run(self, seconds: float, window: int) -> None:
        """Raises what one of the connections had to complain of."""
        self.done = self.crowd.loop.create_future()
        self.running = True
        self.crowd.loop.call_later(seconds, self._stop)
        for one in self.echoes:
            for _ in range(window):
                one.send()
        await self.crowd.until(self.done)

    def _stop(self) -> None:
        self.running = False
        self.look()


class Echo(Workload):
    measures = {"": Measure("echoes/s")}

    async def turn(self, turn: Turn) -> dict[str, float]:
        return {"": await rate(turn, turn.url, graceful=turn.side.graceful)}


async def rate(turn: Turn, url: str, *, graceful: bool) -> float:
    async with Crowd() as crowd:
        load = Load(crowd, CONNECTIONS, graceful=graceful)
        await crowd.connect(url, [one.client for one in load.echoes])
        await load.run(WARM_UP, WINDOW)
        before = load.echoed
        with turn.meter.measuring():
            start = time.perf_counter()
            await load.run(QUICK_SECONDS if turn.quick else SECONDS, WINDOW)
            elapsed = time.perf_counter() - start
        return (load.echoed - before) / elapsed


class EchoLight(Echo):
    name = "echo-light"
    about = "echo over 50 connections x window 8, resumable = False"
    sides = (OURS_LIGHT, CHANNELS, LIMIT)


class EchoPlain(Echo):
    name = "echo-plain"
    about = "the same with clients that know nothing of graceful.v1"
    sides = (OURS_PLAIN, CHANNELS, LIMIT)


class EchoReliable(Echo):
    name = "echo-reliable"
    about = "the same, reliable and journaled both ways"
    sides = (OURS_RELIABLE, CHANNELS, LIMIT)


class RoundTrip(Workload):
    name = "round-trip"
    about = "one connection, one message at a time, reliable"
    sides = (OURS_RELIABLE, CHANNELS, LIMIT)
    measures = {"p50": Measure("ms", False), "p99": Measure("ms", False)}

    async def turn(self, turn: Turn) -> dict[str, float]:
        times: list[float] = []
        async with Crowd() as crowd:
            load = Load(crowd, 1, graceful=turn.side.graceful)
            (echoes,) = load.echoes
            sent_at = 0.0

            def received(client: Client, n: int) -> None:
                nonlocal sent_at
                times.append(time.perf_counter() - sent_at)
                sent_at = time.perf_counter()  # the next one leaves now
                echoes.received(client, n)

            echoes.client.received = received
            await crowd.connect(turn.url, [echoes.client])
            await load.run(WARM_UP, 1)
            times.clear()
            with turn.meter.measuring():
                sent_at = time.perf_counter()
                await load.run(QUICK_SECONDS if turn.quick else SECONDS, 1)
        percentiles = quantiles(times, n=100)
        return {"p50": percentiles[49] * 1000, "p99": percentiles[98] * 1000}


class Generator(Workload):
    name = "generator"
    about = "the load generator itself: echoes of a picows server beside the raw ASGI application"
    sides = (
        Side("ours", "echo_server", picows=True),
        Side("rival", RAW, "/echo/", bare=True),
    )
    measures = {"plain": Measure("echoes/s"), "sessions": Measure("echoes/s")}

    async def turn(self, turn: Turn) -> dict[str, float]:
        found = {"plain": await self._rate(turn, "plain")}
        if turn.side.picows:
            found["sessions"] = await self._rate(turn, "sessions")
        else:
            found["sessions"] = found["plain"]
        return found

    async def _rate(self, turn: Turn, kind: str) -> float:
        found = await rate(turn, turn.url, graceful=kind == "sessions")
        assert turn.meter.usage is not None
        name = f"{turn.side.name} {kind}, echoes per second of the generator's processor"
        turn.facts.setdefault(name, []).append(found / turn.meter.usage.generator)
        return found
