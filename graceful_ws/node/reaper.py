"""What every node does for all: it notices the dead, detaches their sessions, and cleans up.

There is no leader and there are no leases: a lease that ran out while the database was away would
declare the living dead. A node is dead when its beat stood still for ``dead_after`` seconds of the
watcher's own clock, with every look in between successful. All work is derived from state, so any
node finishes what another began.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING

from django.db import DatabaseError
from django.utils.module_loading import import_string

from graceful_ws.conf import settings
from graceful_ws.store import nodes, retention

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.reaper")

PAUSE = 0.05  # seconds between batches, for those who wait for the database
SETTLED = 30.0  # seconds of uninterrupted looks before anything is purged


class Reaper:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: dict[uuid.UUID, tuple[int, float]] = {}  # beat, and since when
        self._since: float | None = None  # of uninterrupted looks
        self._purged = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(settings.beat_interval)
            try:
                await self._look(loop.time)
            except DatabaseError as error:
                logger.warning("cannot look after other nodes: %s", error)
                self._seen.clear()
                self._since = None

    async def _look(self, clock) -> None:  # type: ignore[no-untyped-def]
        run = self._node.readers.run
        beats = await run(nodes.beats, self._node.id)
        now = clock()
        if self._since is None:
            self._since = now
        self._seen = {
            node: self._seen[node]
            if node in self._seen and self._seen[node][0] == beat
            else (beat, now)
            for node, beat in beats.items()
        }
        for node, (beat, since) in list(self._seen.items()):
            if now - since >= settings.dead_after and await run(nodes.declare_dead, node, beat):
                logger.warning("node %s is dead: no beat for %.0f s", node, now - since)
        while await run(nodes.detach_dead) > 0:
            pass
        if now - self._since >= SETTLED and now - self._purged >= settings.purge_interval:
            self._purged = now
            await self._purge()

    async def _purge(self) -> None:
        run = self._node.readers.run
        for public_id, label in await run(retention.expire):
            await _session_ended(public_id, label)
        while await run(retention.purge) >= retention.BATCH:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)


async def _session_ended(public_id: uuid.UUID, label: str) -> None:
    """Calls the hook on an instance without a connection: the session ended while detached."""
    try:
        consumer = import_string(label)()
        consumer.session_id = str(public_id)
        await consumer.session_ended()
    except Exception:
        logger.exception("session_ended of %s failed", label)
