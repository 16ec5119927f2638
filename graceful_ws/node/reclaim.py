"""Under memory pressure, connections on which nothing happens are closed 4106.

Their sessions stay, and so does all that was sent to them: nothing is lost but a connection, which
the clients make again a while later, or as soon as they have something to say.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import heapq
import logging
import sys
import uuid
from typing import TYPE_CHECKING

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.store import audit

from . import memory
from .threads import OUTAGES
from .timers import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .live import LiveConnection
    from .node import Node

logger = logging.getLogger("graceful_ws.reclaim")

EVERY = 3.0  # seconds between two looks
BELOW = 0.03  # of the limit: once over, so far under reclaim_above there is enough again
PART, LEAST, MOST = 0.05, 20, 500  # of the connections in one batch, and how many of them
TOGETHER = 0.25  # of the connections at most, until memory is looked at again
EACH = 30 * 1024  # bytes of an idle connection, about: how many have to go
GONE_WITHIN = 5.0  # seconds that a batch is waited for
LOOK_AGAIN = 0.05  # seconds: whether they are gone
COLLECTING = 0.05  # of the time at most the collector may hold the event loop for this


class Reclaimer:
    """A service of the node. ``share`` is the part of the memory limit in use, as last seen; None
    where it cannot be known."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._blind = False  # it has been said
        self._collect_at = 0.0  # not before
        self._spare = memory.Spare()
        self.share: float | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self._look()

    async def _look(self) -> None:
        above = settings.reclaim_above
        usage = await self._measure()
        if usage is None or not 0 < above <= usage.share:
            return
        while usage is not None and usage.share > above - BELOW:
            excess = usage.used - (above - BELOW) * usage.limit
            bound = TOGETHER * len(self._node.connections)
            if not await self._close_some(int(max(LEAST, min(bound, excess / EACH))), usage):
                return
            await self._give_back()
            usage = await self._measure()

    async def _measure(self) -> memory.Usage | None:
        """Without what the process has, and will use again before it asks for more."""
        usage = await asyncio.to_thread(memory.usage, int(settings.memory_limit))
        self.share = None if usage is None else usage.share
        if usage is None:
            if not self._blind:
                self._blind = True
                logger.warning(
                    "the use of memory cannot be read here, so nothing is reclaimed:"
                    ' pip install "django-graceful-ws[memory]"'
                )
            return None
        if not 0 < settings.reclaim_above <= usage.share:
            return usage
        resident = await asyncio.to_thread(memory.resident)
        spare = 0 if resident is None else self._spare.bytes(memory.blocks(), resident)
        return usage._replace(used=max(0, usage.used - spare))

    async def _close_some(self, count: int, usage: memory.Usage) -> int:
        """Closes up to ``count`` connections in batches; returns how many."""
        closed = 0
        while closed < count and self._node.drain is None:
            batch = self._longest_idle(count - closed)
            if not batch:
                break
            closed += len(batch)
            self._close(batch, usage)
            await self._gone(batch)
        return closed

    def _longest_idle(self, most: int) -> list[LiveConnection]:
        """A batch of those that may be closed, longest idle first. Not those whose session would
        not survive it."""
        connections = self._node.connections
        since = self._node.loop.time() - settings.reclaim_idle
        idle = [live for live in connections if _last_used(live) <= since and _may_go(live)]
        most = min(most, MOST, max(LEAST, int(PART * len(connections))))
        return heapq.nsmallest(most, idle, key=_last_used)

    def _close(self, batch: list[LiveConnection], usage: memory.Usage) -> None:
        now = self._node.loop.time()
        told = []
        for live in batch:
            reason = f"{usage}, idle {now - _last_used(live):.0f} s"
            live.close(CloseCode.RECLAIMED, reason)
            if live.attached is not None:
                told.append((live.attached.uuid, reason))
        logger.warning(
            "reclaims %d of %d connections: %s",
            len(batch),
            len(self._node.connections),
            usage,
            extra={"node": self._node.name, "code": int(CloseCode.RECLAIMED)},
        )
        self._node.spawn(self._keep(told))

    async def _keep(self, told: list[tuple[uuid.UUID, str]]) -> None:
        """Nobody waits for the database: memory does not either."""
        try:
            await self._node.services.run(audit.reclaimed, self._node.name, told)
        except OUTAGES as error:
            logger.warning("%d reclaimed connections are not audited: %s", len(told), error)

    async def _gone(self, batch: list[LiveConnection]) -> None:
        deadline = self._node.loop.time() + GONE_WITHIN
        connections = self._node.connections
        while any(live in connections for live in batch):
            if self._node.loop.time() > deadline:
                return
            await asyncio.sleep(LOOK_AGAIN)

    async def _give_back(self) -> None:
        """A connection is a web of objects that know each other: only a full collection frees it.
        That holds the event loop (0.1 s for 1,000 connections), so it has a bounded part of the
        time, and comes when the timers have let go of them too."""
        loop = self._node.loop
        await asyncio.sleep(max(PROGRESS, self._collect_at - loop.time()))
        began = loop.time()
        gc.collect()
        ended = loop.time()
        self._collect_at = ended + (ended - began) / COLLECTING
        if _trim is not None:
            await asyncio.to_thread(_trim, 0)


def _last_used(live: LiveConnection) -> float:
    """When the last application message came or went; without any, when it was welcomed."""
    machine = live.machine
    if machine.last_message_at is not None:
        return machine.last_message_at
    return float("inf") if machine.welcomed_at is None else machine.welcomed_at


def _may_go(live: LiveConnection) -> bool:
    """Whether closing it costs a reconnect and nothing else."""
    kept = live.consumer.resumable and not live.plain
    return kept and live.is_open and live.welcomed and not live.inbox.busy


def _find_trim() -> Callable[[int], int] | None:
    """glibc keeps what is freed for later; this gives it to the system (malloc_trim(3))."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


_trim = _find_trim()
