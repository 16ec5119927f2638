"""Clients that follow one room, come back by themselves and know how long they heard nothing.

Ours are the package's own Python client. A rival has no client of its own: it gets one of
``websockets`` that waits as ours does (docs/close-codes.md, docs/clients.md) and then dials the
other node.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from graceful_ws.client import (
    Backoff,
    Disconnected,
    Event,
    GapTold,
    GracefulClient,
    MessageReceived,
    RetryScheduled,
    Subscribed,
)
from graceful_ws.core.close_codes import Advice, advice

OPTIONS: dict[str, Any] = {"compression": None}
LEAVE_WITHIN = 10.0  # seconds for all to say goodbye


class Follower:
    """What one client heard: numbers from 0, each once and in order, but for what is ``lost``."""

    def __init__(self) -> None:
        self.next = 0
        self.lost = 0
        self.wrong = ""
        self.gap = 0.0  # seconds, the longest since ``watch``
        self.wait: float | None = None  # seconds, the first back-off since then
        self.watching = False
        self.ready = asyncio.Event()
        self._heard_at = 0.0

    def watch(self) -> None:
        self.watching, self.gap, self.wait = True, 0.0, None

    def heard(self, n: int) -> None:
        now = time.perf_counter()
        if self.watching:
            self.gap = max(self.gap, now - self._heard_at)
        self._heard_at = now
        if n < self.next:
            self.wrong = f"{n} in place of {self.next}"
        self.lost += max(0, n - self.next)
        self.next = n + 1

    def waits(self, seconds: float) -> None:
        if self.watching and self.wait is None:
            self.wait = seconds

    def start(self) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str | None:
        """Where it is connected."""
        raise NotImplementedError

    async def send(self, data: Any) -> None:
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError


class OurFollower(Follower):
    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        self.client = GracefulClient(
            urls, probe=None, on_event=self._hear, on_message=self._message, websockets=OPTIONS
        )

    def start(self) -> None:
        self.client.start()

    @property
    def url(self) -> str | None:
        return self.client.endpoint

    async def send(self, data: Any) -> None:
        await self.client.send(data, wait=False)

    async def leave(self) -> None:
        await self.client.close()

    def _message(self, message: MessageReceived) -> None:
        self.heard(message.data["n"])

    def _hear(self, event: Event) -> None:
        if isinstance(event, Subscribed):
            self.ready.set()
        elif isinstance(event, RetryScheduled):
            self.waits(event.delay)
        elif isinstance(event, GapTold) or (isinstance(event, Disconnected) and event.final):
            self.wrong = self.wrong or repr(event)


class PlainFollower(Follower):
    """Does not know what it missed while it was away; only that it did."""

    window = 1.0  # seconds, as the servers of ours announce it here
    backoff = Backoff()

    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        self._urls = random.sample(urls, len(urls))  # the first one is dialled
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    @property
    def url(self) -> str | None:
        return self._urls[0] if self._socket is not None else None

    async def send(self, data: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(data))

    async def leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._socket is not None:
            await self._socket.close()

    async def _run(self) -> None:
        attempt = 0
        while True:
            told_to_go = False
            try:
                self._socket = await ws_connect(self._urls[0], **OPTIONS)
                attempt = 0
                self.ready.set()
                async for text in self._socket:
                    self.heard(json.loads(text)["n"])
                told_to_go = True  # 1000 or 1001
            except ConnectionClosed as error:
                told_to_go = error.rcvd is not None and advice(error.rcvd.code) is Advice.RESUME
            except (OSError, TimeoutError, InvalidHandshake, InvalidMessage):
                attempt += 1
            self._socket = None
            self._urls.append(self._urls.pop(0))
            window = random.random() * self.window
            delay = window if told_to_go else self.backoff.delay(attempt, random.random)
            assert delay is not None
            self.waits(delay)
            await asyncio.sleep(delay)


async def leave(followers: list[Any]) -> None:
    """All of them, also those that were never connected."""
    leaving = [asyncio.ensure_future(one.leave()) for one in followers]
    if leaving:
        _, late = await asyncio.wait(leaving, timeout=LEAVE_WITHIN)
        for task in late:
            task.cancel()
        for task in leaving:
            with suppress(asyncio.CancelledError, Exception):
                await task
