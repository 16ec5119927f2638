"""The steps of a drain; each ends as soon as nothing is left for it.

1. The node's row says draining, readiness says 503; handshakes are still accepted.
2. After ``observe`` seconds new handshakes are refused.
3. Every client hears when to come back: slots spread over the window at the rate asked.
4. At the end of the window: no new messages, running handlers finish, the journal is flushed, the
   rest is closed 1012; after the close handshake, or at the deadline, transports are dropped.
5. The row says drained, or stopped when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from graceful_ws import servers
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.store import nodes

if TYPE_CHECKING:
    from .live import LiveConnection
    from .node import Node

logger = logging.getLogger("graceful_ws.drain")

POLL = 0.02  # seconds between looks at what is left
RESERVE = 3.0  # seconds of the deadline kept for closing, after the handlers
FAREWELL = 2.0  # seconds for what a node that has drained says at last
LEFT_NAMED = 20  # so many of those who were dropped are named


class Phase(StrEnum):
    OBSERVING = "observing"
    NOTIFYING = "notifying"
    SETTLING = "settling"
    CLOSING = "closing"
    DRAINED = "drained"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Seconds, reconnects per second, and a reason that clients see."""

    observe: float
    window: float
    rate: float
    deadline: float
    reason: str = "the server restarts"
    actor: str = ""

    @classmethod
    def from_settings(cls) -> DrainOptions:
        return cls(
            settings.drain_observe,
            settings.drain_window,
            settings.drain_rate,
            settings.drain_deadline,
        )

    @classmethod
    def from_request(cls, request: dict[str, Any]) -> DrainOptions:
        """What an operator asked for; what was not said comes from the settings."""
        known = {field.name for field in fields(cls)}
        given = {key: value for key, value in request.items() if key in known and value is not None}
        defaults = cls.from_settings()
        values = {name: getattr(defaults, name) for name in known}
        return cls(**{**values, **given})


class Drain:
    """One drain of one node."""

    def __init__(self, node: Node, options: DrainOptions) -> None:
        self.node = node
        self.options = options
        self.phase = Phase.OBSERVING
        self.total = len(node.connections)
        self.left: list[str] = []
        self.task: asyncio.Task[None] | None = None
        self.final = False  # the process ends after it: an operator cannot undo it
        self._hurried = False
        self._started = node.loop.time()
        self._closing_at = self._started + options.observe + options.window
        self._deadline = self._started + options.deadline
        self._reported = 0.0

    @property
    def refusing(self) -> bool:
        return self.phase is not Phase.OBSERVING

    def hurry(self) -> None:
        """Closes everything now: the second signal."""
        self._hurried = True

    async def run(self) -> None:
        node, options = self.node, self.options
        logger.warning("node %s drains %d connections (%s)", node.name, self.total, options.reason)
        await self._report(nodes.NodeState.DRAINING)
        await self._wait(lambda: False, lambda: self._closing_at - options.window)
        sharing = await self._sharing()
        self._enter(Phase.NOTIFYING)
        spread = self._notify(max(1e-3, options.rate / sharing))
        await self._wait(lambda: not node.connections, lambda: max(self._closing_at, spread))
        self._enter(Phase.SETTLING)
        for live in list(node.connections):
            live.inbox.stop_taking()
        await self._wait(
            lambda: not any(live.inbox.busy for live in node.connections),
            lambda: self._deadline - RESERVE,
        )
        await self._flush()
        await self._close()
        await self._flush()  # the detaches of those who have gone
        self.phase = Phase.DRAINED
        await self._report(nodes.NodeState.DRAINED)
        logger.warning(
            "node %s drained in %.1f s, %d connections dropped",
            node.name,
            node.loop.time() - self._started,
            len(self.left),
        )

    async def undo(self) -> None:
        """Accepts connections again. What was closed stays closed."""
        self.phase = Phase.UNDONE
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.node.drain is self:
            self.node.drain = None
        for live in list(self.node.connections):
            if not live.inbox.taking:  # it was told to go already, and handles nothing any more
                live.close(CloseCode.SERVICE_RESTART, self.options.reason)
        with contextlib.suppress(Exception):
            await self.node.readers.run(
                lambda: nodes.report(self.node.id, "up", requested_state="", drain_progress="")
            )

    def make_final(self) -> None:
        """The process is about to stop, and its platform waits no longer than for its own drain."""
        self.final = True
        limits = DrainOptions.from_settings()
        self._closing_at = min(self._closing_at, self._now() + limits.observe + limits.window)
        self._deadline = min(self._deadline, self._now() + limits.deadline)

    def joined(self, live: LiveConnection) -> None:
        """A connection that was accepted while the load balancer still looked this way."""
        if self.phase is Phase.NOTIFYING:
            self._tell(live, random.uniform(0, max(0.0, self._closing_at - self._now())))
        elif self.phase in (Phase.SETTLING, Phase.CLOSING):
            live.close(CloseCode.SERVICE_RESTART, self.options.reason)  # its handshake came late

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.node.spawn(self._report())

    # --- the steps ----------------------------------------------------------------------------

    def _notify(self, rate: float) -> float:
        """Gives every client its slot; returns when the last plain client's slot is."""
        everybody = list(self.node.connections)
        random.shuffle(everybody)
        spread = min(len(everybody) / rate, self.options.window)
        for k, live in enumerate(everybody):
            self._tell(live, spread * k / len(everybody))
        return self.node.loop.time() + (spread if any(live.plain for live in everybody) else 0.0)

    def _tell(self, live: LiveConnection, slot: float) -> None:
        if live.plain:
            # It cannot be told; its close, at its slot, is what spreads the reconnects.
            self.node.loop.call_later(slot, self._close_plain, live)
            return
        close_in = max(0.0, self._closing_at - self.node.loop.time())
        live.drain_started(min(slot, close_in), close_in, self.options.reason)

    def _close_plain(self, live: LiveConnection) -> None:
        if self.phase is Phase.NOTIFYING and live.is_open:
            live.inbox.stop_taking()
            self.node.spawn(self._close_when_finished(live))

    async def _close_when_finished(self, live: LiveConnection) -> None:
        await live.inbox.finished()
        live.close(CloseCode.SERVICE_RESTART, self.options.reason)

    async def _flush(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.1, self._deadline - RESERVE / 2 - self._now())):
                await self.node.journal.flush()

    async def _close(self) -> None:
        self._enter(Phase.CLOSING)
        for live in list(self.node.connections):
            live.close(CloseCode.SERVICE_RESTART, self.options.reason)
        for live in self.node.served - self.node.connections:
            live.reader.give_up()  # its handshake is under way, or it ends already
        await self._wait(
            lambda: not self.node.served, lambda: self._deadline, even_hurried_for=RESERVE
        )
        rest = list(self.node.connections)
        self.left = [str(live.attached.uuid) if live.attached else "(no hello)" for live in rest]
        for live in list(self.node.served):
            live.inbox.cancel()
            live.drop()
        dropped_at = self._now()
        await self._wait(lambda: not self.node.served, lambda: dropped_at + 1.0)

    async def _wait(
        self,
        done: Callable[[], bool],
        until: Callable[[], float],
        *,
        even_hurried_for: float = 0.0,
    ) -> None:
        """Returns when ``done``, at ``until`` (the drain may become final, and shorter, meanwhile),
        or soon after a second signal."""
        hurried_until: float | None = None
        while not done():
            now = self._now()
            if self._hurried and hurried_until is None:
                hurried_until = now + even_hurried_for
            if now >= until() or (hurried_until is not None and now >= hurried_until):
                return
            if now - self._reported >= 1.0:
                self.node.spawn(self._report())
            await asyncio.sleep(min(POLL, max(0.0, until() - now)))

    def _now(self) -> float:
        return self.node.loop.time()

    async def _sharing(self) -> int:
        with contextlib.suppress(Exception):
            return int(await asyncio.wait_for(self.node.readers.run(nodes.draining_count), 1.0))
        return 1

    # --- telling the operator -----------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "total": self.total,
            "remaining": len(self.node.connections),
            "seconds": round(self._now() - self._started, 2),
            "left": len(self.left),
            "left_sessions": self.left[:LEFT_NAMED],
        }

    async def report_again(self) -> None:
        """The node has a new row."""
        await self._report(
            nodes.NodeState.DRAINED if self.phase is Phase.DRAINED else nodes.NodeState.DRAINING
        )

    async def _report(self, state: str | None = None) -> None:
        """The row follows; a database that is away stops no drain. Without a state it is progress,
        which counts only while the row says draining: it may come late."""
        self._reported = self._now()
        values: dict[str, Any] = {"drain_progress": json.dumps(self.progress())}
        values["connections"] = len(self.node.connections)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.node.readers.run(
                    lambda: nodes.report(self.node.id, state=state, **values)
                )


def adapt_servers() -> None:
    """Makes each server that is imported drain before it stops; what it has adapted, it leaves."""
    if settings.adapt_servers:
        servers.set_close_timeout(settings.closing_timeout)
        servers.install(drain_process, hurry_process)


async def drain_process() -> None:
    """Drains the node of the running loop, if any, and ends it: the process is about to stop."""
    from .node import local_nodes

    loop = asyncio.get_running_loop()
    for node in local_nodes():
        if node.loop is not loop:
            continue
        drain = node.start_drain(DrainOptions.from_settings())
        if drain.phase is Phase.UNDONE:  # an operator takes it back at this very moment
            node.drain = None
            drain = node.start_drain(DrainOptions.from_settings())
        drain.make_final()
        assert drain.task is not None
        await asyncio.wait([drain.task])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(FAREWELL):
                await node.lookout.end()
                await node.sampler.look(last=True)  # who watches hears of it at once
        await node.stop()


def hurry_process() -> None:
    """The second signal: every drain of this process closes what is left at once."""
    from .node import local_nodes

    for node in local_nodes():
        if node.drain is not None:
            node.drain.hurry()
