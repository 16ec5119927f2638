"""Gives committed messages of streams their numbers, and says so: to this node and to the others.

Publishers of this process ask for it; what those of other processes left, because they died or
because they could not, is found by a look every second.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from graceful_ws.envelopes import node_group, pending_envelope, said, stream_group
from graceful_ws.store import pending, streams
from graceful_ws.store.base import one_writer
from graceful_ws.store.streams import Numbered

from .threads import OUTAGES, Threads

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.sequencer")

SWEEP = 1.0  # seconds between looks for what nobody asked for
AGAIN = 0.5  # seconds after a failure
AT_ONCE = 4  # streams in work


class Sequencer:
    """A service of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names: dict[str, None] = {}  # in the order in which they were asked for
        self._wake = asyncio.Event()
        self._threads = Threads("sequencer", 2, 4096)
        self._shared: Threads | None = None
        self._swept = 0.0

    def ask(self, names: Iterable[str]) -> None:
        """Messages of these streams, or for users, have been committed without a number."""
        self._names.update(dict.fromkeys(names))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        if self._shared is None:
            single = await self._node.services.run(one_writer)
            self._shared = self._node.journal.threads if single else self._threads
        while True:
            try:
                if loop.time() - self._swept >= SWEEP:
                    found = await self._node.services.run(streams.waiting)
                    self._swept = loop.time()
                    self._names.update(dict.fromkeys(found))
                await self._all()
            except OUTAGES as error:
                logger.warning("cannot number what was published: %s", error)
                await asyncio.sleep(AGAIN)
                # It may be another database now, or an older state of it.
                self._node.hub.look_at_all()
                continue
            self._wake.clear()
            if not self._names:
                try:
                    async with asyncio.timeout(max(0.0, self._swept + SWEEP - loop.time())):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _all(self) -> None:
        while self._names:
            names = list(self._names)[:AT_ONCE]
            for name in names:
                del self._names[name]
            outcomes = await asyncio.gather(*map(self._one, names), return_exceptions=True)
            failed = [one for one in outcomes if isinstance(one, BaseException)]
            for error in failed:
                if not isinstance(error, OUTAGES):
                    logger.error("numbering failed", exc_info=error)
            for error in failed:
                if isinstance(error, OUTAGES):
                    raise error

    async def _one(self, name: str) -> None:
        assert self._shared is not None
        if name.startswith(pending.USER):
            handed = await self._shared.run(pending.hand_out, name)
            if handed is not None:
                self._names[name] = None  # there may be more
                self.left(handed)
            return
        numbered = await self._shared.run(streams.number, name)
        if numbered is not None:
            if len(numbered.data) == streams.BATCH:
                self._names[name] = None
            self._tell(numbered)

    def _tell(self, numbered: Numbered) -> None:
        node, n = self._node, numbered
        node.hub.hear(n.stream, n.epoch, n.first, n.head, n.data)
        node.backplane.send(stream_group(n.stream), said(n))

    def left(self, sessions: Iterable[tuple[int, uuid.UUID | None]]) -> None:
        """Messages wait for sessions (primary keys, and their nodes): here, or elsewhere."""
        elsewhere: dict[uuid.UUID, list[int]] = {}
        for pk, at in sessions:
            if pk in self._node.sessions:
                self._node.take_pending([pk])
            elif at is not None:
                elsewhere.setdefault(at, []).append(pk)
        for at, pks in elsewhere.items():
            self._node.backplane.send(node_group(at), pending_envelope(pks))

    async def stop(self, within: float) -> None:
        await self._threads.stop(within)

    def end(self) -> None:
        self._threads.end()
