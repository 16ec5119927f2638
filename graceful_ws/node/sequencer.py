"""Gives committed messages of streams their numbers, and says so: to this node and to the others.

Publishers of this process ask for it; what those of other processes left, because they died or
because they could not, is found by a look every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from graceful_ws.envelopes import node_group, pending_envelope, said, stream_group
from graceful_ws.store import pending, streams
from graceful_ws.store.base import is_outage, one_writer
from graceful_ws.store.streams import Numbered

from .threads import OUTAGES, Threads

if TYPE_CHECKING:
    from .node import Node

logger = logging.getLogger("graceful_ws.sequencer")

SWEEP = 1.0  # seconds between looks for what nobody asked for
AGAIN = 0.5  # seconds after a failure
AT_ONCE = 2  # streams in work, each in a thread


class Sequencer:
    """A service of the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names: dict[str, None] = {}  # in the order in which they were asked for
        self._wake = asyncio.Event()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._threads = Threads("sequencer", AT_ONCE, 4096)
        self._shared = self._threads
        self._swept = -SWEEP

    def ask(self, names: Iterable[str]) -> None:
        """Messages of these streams, or for users, have been committed without a number."""
        self._names.update(dict.fromkeys(names))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled: some streams at a time, so that one whose row somebody holds stops none
        of the others."""
        if await self._node.services.run(one_writer):
            self._shared = self._node.journal.threads
        try:
            while True:
                await self._sweep()
                while self._names and len(self._work) < AT_ONCE and self._begin():
                    pass
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._swept + SWEEP - self._now())):
                        await self._wake.wait()
        finally:
            for task in self._work.values():
                task.cancel()

    def _now(self) -> float:
        return self._node.loop.time()

    async def _sweep(self) -> None:
        if self._now() - self._swept < SWEEP:
            return
        self._swept = self._now()
        try:
            self.ask(await self._node.services.run(streams.waiting))
        except OUTAGES as error:
            self._failed(error)

    def _begin(self) -> bool:
        """Takes up the next stream that is not in work; False when there is none."""
        name = next((name for name in self._names if name not in self._work), None)
        if name is None:
            return False
        del self._names[name]
        task = self._work[name] = self._node.loop.create_task(self._number(name))
        task.add_done_callback(lambda _: self._done(name))
        return True

    def _done(self, name: str) -> None:
        del self._work[name]
        self._wake.set()

    async def _number(self, name: str) -> None:
        try:
            await self._one(name)
        except OUTAGES as error:
            self._failed(error)
            await asyncio.sleep(AGAIN)
        except Exception:
            logger.exception("what was published to %r cannot be numbered", name)
            await asyncio.sleep(AGAIN)

    def _failed(self, error: Exception) -> None:
        """The sweep finds it again. It may be another database then, or an older state of it."""
        logger.warning("cannot number what was published: %s", error)
        if is_outage(error):
            self._node.hub.look_at_all()

    async def _one(self, name: str) -> None:
        if name.startswith(pending.USER):
            handed = await self._shared.run(pending.hand_out, name)
            if handed is not None:
                self._names[name] = None  # there may be more
                self.left(handed)
            return
        numbered, at = await self._shared.run(_number, name)
        if numbered is not None:
            if len(numbered.data) == streams.BATCH:
                self._names[name] = None
            self._tell(numbered, at)

    def _tell(self, numbered: Numbered, at: float) -> None:
        node, n = self._node, numbered
        node.hub.hear(n.stream, n.epoch, n.first, n.head, n.data)
        node.sampler.woken(n.stream, at)
        node.backplane.send(stream_group(n.stream), said(n, at))

    def left(self, sessions: Iterable[tuple[int, uuid.UUID | None]]) -> None:
        """Messages wait for sessions (primary keys, and their nodes): here, or elsewhere."""
        elsewhere: dict[uuid.UUID, list[int]] = {}
        for pk, at in sessions:
            if pk in self._node.sessions or at == self._node.id:
                self._node.take_pending([pk])
            elif at is not None:
                elsewhere.setdefault(at, []).append(pk)
        for at, pks in elsewhere.items():
            self._node.backplane.send(node_group(at), pending_envelope(pks))

    async def stop(self, within: float) -> None:
        await self._threads.stop(within)

    @property
    def threads(self) -> Threads:
        return self._threads


def _number(name: str) -> tuple[Numbered | None, float]:
    """And when it was committed, as UNIX time in seconds."""
    numbered = streams.number(name)
    return numbered, time.time()
