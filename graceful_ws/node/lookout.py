"""What a node asks the database again and again: its beat, its round, and what others left for it.

This is the truth; what the layer says only hurries it on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

from graceful_ws.conf import settings
from graceful_ws.store import nodes, pending

from .attaching import note
from .credentials import Credentials
from .drain import DrainOptions
from .ending import out_of_step
from .threads import OUTAGES

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.node")

AT_ONCE = 0.2  # seconds between two rounds at least, however often somebody asks
STRAY_AFTER = 10.0  # seconds that a row may say attached without a connection


class Lookout:
    """Three services of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._comparing = asyncio.Lock()  # a node that registers anew compares nothing meanwhile
        self._row = asyncio.Lock()  # one at a time says what the node's row says
        self._missing: dict[tuple[int, int], float] = {}  # attached here says the row, since when
        self._asked = asyncio.Event()
        self._hurried = asyncio.Event()
        self._credentials = Credentials(node)
        self._polled = 0.0

    # --- beat ---------------------------------------------------------------------------------

    def look_now(self) -> None:
        """Somebody asked something of the node, or ended a session of its: the rows say what."""
        self._asked.set()
        self._hurried.set()

    async def beat(self) -> None:
        while True:
            try:
                async with self._row:
                    await self._beat()
            except OUTAGES as error:
                logger.warning("beat failed: %s", error)
            try:
                async with asyncio.timeout(settings.beat_interval):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    async def _beat(self) -> None:
        node = self._node
        beat = await node.services.run(nodes.beat, node.id, len(node.connections))
        if not beat.known:
            await self._come_back()
        elif beat.requested_state == "draining" and node.drain is None:
            node.start_drain(DrainOptions.from_request(beat.drain_options))
        elif beat.requested_state == "up" and node.drain and not node.drain.final:
            await node.drain.undo()

    async def end(self) -> None:
        """The row says stopped, and the node beats no more: a beat after that would take it for one
        that was declared dead, and register anew."""
        await self._row.acquire()  # for good
        await self._node.readers.run(nodes.report, self._node.id, nodes.NodeState.STOPPED)

    async def _come_back(self) -> None:
        """The node was declared dead, and lives: a new row, and what is still its own."""
        node = self._node
        old = node.id
        logger.warning("node %s was declared dead; it registers anew", node.name)
        async with self._comparing:
            await node.register()
            while True:
                owned = [(pk, live.generation) for pk, live in node.sessions.items()]
                try:
                    await node.services.run(nodes.adopt, old, node.id, owned)
                    break
                except OUTAGES as error:
                    logger.warning("cannot take sessions back yet: %s", error)
                    await asyncio.sleep(settings.poll_interval)
        if node.drain is not None:
            await node.drain.report_again()

    # --- round --------------------------------------------------------------------------------

    async def rounds(self) -> None:
        """Every ``round_interval`` ± 10 %, so that nodes do not ask all at once; and when somebody
        asks, but never more than a tenth of the time."""
        took = 0.0
        while True:
            interval = settings.round_interval * random.uniform(0.9, 1.1)
            pause = min(max(10 * took, AT_ONCE), interval)
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval - pause):
                    await self._hurried.wait()
            self._hurried.clear()
            begun = self._node.loop.time()
            try:
                async with self._comparing:
                    await self._credentials.check()
                    await self._sessions()
            except OUTAGES as error:
                logger.warning("round failed: %s", error)
            self._node.hub.look_at_all()
            self._node.hub.drop_unfollowed(self._node.loop.time())
            took = self._node.loop.time() - begun

    async def _sessions(self) -> None:
        """Compares the registry with the rows."""
        node = self._node
        before = {pk: (live, live.head) for pk, live in node.sessions.items()}
        rows = await node.services.run(nodes.attached, node.id)
        now = node.loop.time()
        lost = []
        for pk, (live, head) in before.items():
            if node.sessions.get(pk) is not live or not live.is_open:
                continue
            row = rows.pop(pk, None)
            if row is None or row[0] != live.generation:
                lost.append(live)
            elif row[1] < head:
                out_of_step(live)
            else:
                live.head_moved(row[1])
                note(live, now)
        node.spawn(node.find_out(lost))
        strays = [(pk, row[0]) for pk, row in rows.items() if pk not in node.sessions]
        self._missing = {stray: self._missing.get(stray, now) for stray in strays}
        long = [stray for stray, since in self._missing.items() if now - since >= STRAY_AFTER]
        if long:
            await node.services.run(nodes.detach_strays, node.id, long)

    # --- poll ---------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Finds what other processes left, while no layer says so."""
        while True:
            await asyncio.sleep(settings.poll_interval)
            try:
                await self._poll()
            except OUTAGES as error:
                logger.warning("poll failed: %s", error)

    async def _poll(self) -> None:
        node = self._node
        now = node.loop.time()
        if node.backplane.works and now - self._polled < settings.round_interval:
            return
        self._polled = now
        if node.sessions:
            node.take_pending(await node.services.run(pending.waiting, node.id))
        if not node.backplane.works:
            node.hub.look_at_all()
