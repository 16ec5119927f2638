"""What a node tells of itself: kept for an hour, published while somebody watches, counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graceful_ws.conf import settings
from graceful_ws.store import samples

from .threads import OUTAGES

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.node")

WHILE_DRAINING = 1.0  # seconds between two looks; else ``beat_interval``

# Called with the node at each look, in the event loop: graceful_ws.metrics, if it is there.
listeners: list[Callable[[Node], None]] = []


class Sampler:
    """Of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept_at = -math.inf

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(WHILE_DRAINING if self._node.drain else settings.beat_interval)

    async def look(self, *, last: bool = False) -> None:
        """Keeps the figures if a sample is due, as the ``last`` one is, and publishes them if
        somebody watches."""
        node = self._node
        for listener in listeners:
            listener(node)
        now = node.loop.time()
        due = last or now - self._kept_at >= settings.sample_interval
        published = False
        try:
            watched = await node.services.run(samples.is_watched)
            if due or watched:  # to count thousands of connections takes a while
                row, figures = node.id, self.figures()
                published = await node.services.run(
                    lambda: samples.keep(row, figures, sample=due, publish=watched)
                )
        except OUTAGES as error:
            logger.info("figures are not kept: %s", error)
            return
        if due:
            self._kept_at = now
        if published:
            node.sequencer.ask([samples.LIVE])

    def figures(self) -> dict[str, Any]:
        """As JSON can carry it; what is counted counts from the node's start, which is ``since``
        (UNIX milliseconds), or None for a node that has counted under another row before."""
        node = self._node
        states: Counter[str] = Counter()
        unacked = 0
        for live in node.connections:
            states[live.machine.state] += 1
            unacked += live.outbox.window.messages
        return {
            "connections": len(node.connections),
            "states": states,
            "unacked": unacked,
            "breakers": self.breakers(),
            "drain": node.drain and node.drain.progress(),
            "stats": node.stats.figures(),
            "since": node.counts_since and round(node.counts_since * 1000),
        }

    def breakers(self) -> dict[str, str]:
        """Of the writer and of the channel layer, which may also be "none" or "memory"."""
        node = self._node
        journal = node.journal.health.breaker.state(node.loop.time())
        return {"journal": str(journal), "layer": node.backplane.state}

    def woken(self, stream: str, at: float) -> None:
        """What was committed ``at`` (UNIX time, seconds) is on its way to the sockets here."""
        if stream not in self._node.hub.sources:
            return
        # Behind the flusher, which was asked before. Clocks of other hosts may be ahead.
        lag = self._node.stats.lag
        self._node.loop.call_soon(lambda: lag.observe(max(0.0, time.time() - at)))
