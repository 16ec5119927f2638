"""What every node does for all: it notices the dead, detaches their sessions, and cleans up.

There is no leader and there are no leases: a lease that ran out while the database was away would
declare the living dead. A node is dead when its beat stood still for ``dead_after`` seconds of the
watcher's own clock, with every look in between successful. All work is derived from state, so any
node finishes what another began.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from typing import TYPE_CHECKING

from django.utils.module_loading import import_string

from graceful_ws.conf import settings
from graceful_ws.store import nodes, retention
from graceful_ws.store.base import is_conflict
from graceful_ws.store.presence import announce_exits

from .limits import limits_of
from .threads import OUTAGES

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.reaper")

PAUSE = 0.05  # seconds between batches, for those who wait for the database
LONG_LOOK = 3.0  # beats: looks further apart than this have a hole between them
COME_BACK = 1.5  # beats that a node declared dead has to come back
SETTLED = 10  # beats of uninterrupted looks before anybody is called absent or anything purged


class Reaper:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: dict[uuid.UUID, tuple[int, float]] = {}  # beat, and since when
        self._since: float | None = None  # of uninterrupted looks
        self._dead: dict[uuid.UUID, float] = {}  # with sessions still attached, since when
        self._looked = 0.0
        self._purged = 0.0
        self._purging: asyncio.Task[None] | None = None
        self._leaving = False  # somebody has, since the last look for it began
        self._announcing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(settings.beat_interval)
            try:
                await self._look()
            except OUTAGES as error:
                logger.warning("cannot look after other nodes: %s", error)
                if not is_conflict(error):  # a deadlock proves that the database is there
                    self._since = None

    async def _look(self) -> None:
        run = self._node.services.run
        clock = asyncio.get_running_loop().time
        beats = await run(nodes.beats, self._node.id)
        now = clock()
        if self._since is None or now - self._looked > LONG_LOOK * settings.beat_interval:
            # A look that failed, or that hung, saw nothing in between: begin anew.
            self._since = now
            self._seen.clear()
        self._looked = now
        self._seen = {
            node: self._seen[node]
            if node in self._seen and self._seen[node][0] == beat
            else (beat, now)
            for node, beat in beats.items()
        }
        for node, (beat, since) in list(self._seen.items()):
            if now - since >= settings.dead_after and await run(nodes.declare_dead, node, beat):
                logger.warning("node %s is dead: no beat for %.0f s", node, now - since)
        await self._detach(now)
        await self._announce(absences=self._may_call_absent(now))
        if now - self._since >= self._settled and now - self._purged >= settings.purge_interval:
            self._purged = now
            if self._purging is None:  # beside the looks: it may take its time
                self._purging = self._node.spawn(self._purge())
                self._purging.add_done_callback(self._purge_ended)

    async def _detach(self, now: float) -> None:
        """A dead node that lives gets a beat's time to come back and keep what is its own."""
        run = self._node.services.run
        dead = await run(nodes.dead)
        self._dead = {node: self._dead.get(node, now) for node in dead}
        grace = COME_BACK * settings.beat_interval
        spare = [node for node, since in self._dead.items() if now - since < grace]
        # They are away since the node was found dead, if not for longer.
        while await run(nodes.detach_dead, 500, spare, grace) > 0:
            pass

    # --- exits --------------------------------------------------------------------------------

    def somebody_left(self) -> None:
        """A session of this node is over: its audience hears of it now."""
        self._leaving = True
        if self._announcing is None:
            self._announcing = self._node.spawn(self._announce_now())
            self._announcing.add_done_callback(self._announced)

    def _announced(self, task: asyncio.Task[None]) -> None:
        self._announcing = None
        if self._leaving and not task.cancelled():
            self.somebody_left()

    async def _announce_now(self) -> None:
        self._leaving = False
        try:
            await self._announce(absences=False)
        except OUTAGES as error:
            logger.warning("cannot announce who left: %s", error)  # the next look does

    async def _announce(self, *, absences: bool) -> None:
        exits = functools.partial(announce_exits, absences=absences)
        while told := await self._node.services.run(exits):
            self._node.sequencer.ask(told)

    @property
    def _settled(self) -> float:
        return SETTLED * float(settings.beat_interval)

    def _may_call_absent(self, now: float) -> bool:
        """Nobody is absent who could not have come back: this node must have taken connections
        for a while. (A deploy of a single node announces nobody.)"""
        if self._since is None or self._node.drain is not None:
            return False
        wait = settings.reconnect_window + settings.exit_grace
        return bool(now - self._since >= max(self._settled, wait))

    async def _purge(self) -> None:
        run = self._node.services.run
        try:
            windows = windows_of(await run(retention.consumers))
            for public_id, label in await run(retention.expire, windows):
                self._node.stats.exits["expired"] += 1
                logger.info(
                    "ended (expired)", extra={"node": self._node.name, "session": str(public_id)}
                )
                self._node.spawn(_session_ended(public_id, label))
            while await run(retention.purge) >= retention.BATCH:  # noqa: ASYNC110
                await asyncio.sleep(PAUSE)
            await run(retention.trim_streams)
        except OUTAGES as error:
            logger.warning("cannot clear what is old: %s", error)

    def _purge_ended(self, task: asyncio.Task[None]) -> None:
        self._purging = None


def windows_of(labels: list[str]) -> dict[str, float]:
    """The resume_window of consumers, by label, where it is not that of the settings."""
    windows: dict[str, float] = {}
    for label in labels:
        with contextlib.suppress(Exception):  # of a version of the code that is gone, perhaps
            window = limits_of(import_string(label)).resume_window
            if window != settings.resume_window:
                windows[label] = window
    return windows


async def _session_ended(public_id: uuid.UUID, label: str) -> None:
    """Calls the hook on an instance without a connection: the session ended while detached."""
    try:
        consumer = import_string(label)()
        consumer.session_id = str(public_id)
        async with asyncio.timeout(settings.handler_timeout):
            await consumer.session_ended()
    except Exception:
        logger.exception("session_ended of %s failed", label)
