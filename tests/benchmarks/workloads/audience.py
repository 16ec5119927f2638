"""Many clients that follow one room: what each was told, and when."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from tests.benchmarks.clients import Client, Crowd, GracefulClient, WrongDelivery

TEXT = "x" * 64


class Audience:
    """Counts what arrives; the first client also publishes, by asking the server to."""

    def __init__(self, crowd: Crowd, *, graceful: bool, strict: bool = True) -> None:
        """``strict``: in order and without holes. Else what a rival loses is counted."""
        self.crowd = crowd
        self.graceful = graceful
        self.strict = strict
        self.unordered = False  # True: only how many come is looked at
        self.clients: list[Any] = []
        self.next: dict[Any, int] = {}  # client: the number that it expects
        self.published = 0  # numbers below it have been published
        self.said_at: list[float] = []  # when each of them was
        self.delays: list[float] = []  # seconds, of each delivery
        self.delivered = 0
        self._wanted = 0
        self._done: asyncio.Future[None] = crowd.loop.create_future()

    async def grow(self, url: str, size: int, *, at_once: int = 50) -> None:
        """Connects further clients, until there are ``size``."""
        new: list[Any] = []
        for _ in range(size - len(self.clients)):
            if self.graceful:
                new.append(GracefulClient(self.crowd, self.received, follows=True))
            else:
                new.append(Client(self.crowd, self.received))
        self.next |= dict.fromkeys(new, self.published)
        self.clients += new
        await self.crowd.connect(url, new, at_once=at_once)

    def received(self, client: Any, n: int) -> None:
        if n != self.next[client] and (self.strict or n < self.next[client]) and not self.unordered:
            raise WrongDelivery(f"{n} in place of {self.next[client]}")
        self.next[client] = max(self.next[client], n + 1)
        self.delivered += 1
        self.delays.append(time.perf_counter() - self.said_at[n])
        if self.delivered == self._wanted and not self._done.done():
            self._done.set_result(None)

    def publish(self, count: int, *, at_once: bool = False) -> None:
        """Asks the server to publish that many, one after another or all at the same time."""
        command = {
            "n": self.published,
            "to": self.published + count,
            "text": TEXT,
            "at_once": at_once,
        }
        self.published += count
        self.said_at += [time.perf_counter()] * count
        self.clients[0].send(msgspec.json.encode(command))

    def expect(self, count: int) -> None:
        """So many deliveries from now on."""
        self.delivered, self._wanted = 0, count
        self.delays.clear()
        self._done = self.crowd.loop.create_future()

    async def heard(self, within: float) -> int:
        """Waits for what is expected; returns how many are missing after ``within`` seconds, of
        which a strict audience has none."""
        try:
            async with asyncio.timeout(within):
                await self.crowd.until(self._done)
        except TimeoutError:
            missing = self._wanted - self.delivered
            if self.strict:
                raise WrongDelivery(f"{missing} of {self._wanted} not delivered") from None
            return missing
        return 0

    async def burst(self, count: int, *, at_once: bool = False, within: float = 60.0) -> int:
        """Publishes, and waits for all of it; returns how many deliveries there were."""
        wanted = count * len(self.clients)
        self.expect(wanted)
        self.publish(count, at_once=at_once)
        return wanted - await self.heard(within)
