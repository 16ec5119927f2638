"""The node's ear and voice on the channel layer. What is lost here is found by polling.

A *period* is the time in which the layer works. The first error or silence ends it: connections are
thrown away, and the next period joins all groups anew. So a Redis that restarts, and forgets all
memberships, needs no case of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.retry import DATABASE_RETRIES
from graceful_ws.envelopes import (
    NODES,
    anudge,
    echo_envelope,
    is_known,
    node_group,
    nudge,
    stream_group,
)

from .shared_layer import AT_ONCE, Kind, SharedLayer, own_layer

__all__ = ["NODES", "Backplane", "anudge", "node_group", "nudge", "stream_group"]

logger = logging.getLogger("graceful_ws.layer")

# Seconds:
SELF_TEST = 2.0  # between tests of whether the node hears itself
# How long a test waits until it is said again, as one may fall to a full mailbox; in the end, 3 s
# in all, it has failed. Counted in waits: a loop that was blocked is no reason.
HEARD_WITHIN = (0.02, 0.08, 0.2, 0.7, 1.0, 1.0)
RENEW = 4 * 3600.0  # the core layer forgets a membership after group_expiry, a day by default
RETRIES = (*DATABASE_RETRIES, 1.0)  # between periods; the last one stays
OPEN_FOR = 1.0  # the breaker, from the last failure to a probe

FAILURES = 10  # in a row open the breaker
QUEUE = 1000  # envelopes that wait to be said
BREATH = 32  # envelopes heard without a look at the rest of the loop

MISUSE = (TypeError, ValueError, AssertionError, OverflowError)  # of a serializer, a bad name


class Silent(Exception):
    """The layer takes envelopes and delivers nothing."""


class Backplane:
    """Wanted memberships, a bounded queue of what is to be said, and the tasks that see to both.

    * ``heard``: called on the event loop with each envelope of a known version and kind
    * ``joined``: called with a group after each (re)join; what was said to it before may be missed

    Everything is for the thread of the event loop, but ``state`` and ``failing``. Without a layer,
    or with one in memory, nothing is ever joined, said or heard.
    """

    def __init__(
        self, heard: Callable[[dict[str, Any]], None], joined: Callable[[str], None]
    ) -> None:
        self._on_heard = heard
        self._on_joined = joined
        self._kind: Kind = "shared"
        self._layer: SharedLayer | None = None
        try:
            self._kind, self._layer = own_layer()
        except Exception as error:
            logger.error("the channel layer cannot be loaded: %r", error)
        self._wanted: set[str] = set()
        self._joined: set[str] = set()  # in this period
        self._missing: set[str] = set()  # wanted, and not joined
        self._unwanted: set[str] = set()  # to be left, as far as it is known
        self._unannounced: set[str] = set()  # joined again before the leave was done
        self._changed = asyncio.Event()
        self._queue: deque[tuple[str, dict[str, Any]]] = deque()
        self._queued = asyncio.Event()
        self._tests: dict[str, asyncio.Event] = {}
        self._test_group = f"graceful.t.{uuid.uuid4().hex}"
        self._heard = 0  # messages
        self._breaker = Breaker(FAILURES, OPEN_FOR, probes=1)
        self._failures = 0  # in a row
        self.dropped = 0  # envelopes never said, because of a full queue or an open breaker
        self.listens = False  # a shared layer answers, and the node has heard itself

    # --- what the node asks ---------------------------------------------------------------------

    @property
    def state(self) -> str:
        """ "none", "memory", or the breaker's "closed", "open", "half_open"; from any thread."""
        if self._kind != "shared":
            return self._kind
        # A copy: the clock moves a breaker on, and this may not be the thread it belongs to.
        return str(copy.copy(self._breaker).state(time.monotonic()))

    @property
    def failing(self) -> bool:
        """Whether a shared layer failed and has not worked for a while since; from any thread."""
        return self._failures > 0

    @property
    def works(self) -> bool:
        """Whether what other nodes say arrives: polling may be slow."""
        return self.listens and not self._missing

    def join(self, group: str) -> None:
        """The group is wanted from now on; ``joined`` is called when it is."""
        if group in self._wanted:
            return
        self._wanted.add(group)
        self._unwanted.discard(group)
        (self._unannounced if group in self._joined else self._missing).add(group)
        self._changed.set()

    def leave(self, group: str) -> None:
        """The group is not wanted any more."""
        if group not in self._wanted:
            return
        self._wanted.discard(group)
        self._missing.discard(group)
        self._unannounced.discard(group)
        if self._kind == "shared":
            self._unwanted.add(group)  # even if not joined: the join may be under way
            self._changed.set()

    def send(self, group: str, envelope: dict[str, Any]) -> None:
        """Says an envelope to a group soon, in turn. Never waits, never raises."""
        if self._kind != "shared":
            return
        if len(self._queue) >= QUEUE or not self._is_closed():
            self.dropped += 1
            return
        self._queue.append((group, envelope))
        self._queued.set()

    # --- periods --------------------------------------------------------------------------------

    async def run(self) -> None:
        """A service of the node: until it is cancelled."""
        if self._kind != "shared":
            await asyncio.Event().wait()
        while True:
            try:
                await self._period()
            except Exception as error:
                self._lost(error)
            else:
                raise RuntimeError("a period ended without an error")
            wait = RETRIES[min(self._failures, len(RETRIES)) - 1]
            await asyncio.sleep(max(wait, self._breaker.retry_after(time.monotonic())))

    async def _period(self) -> None:
        """Returns never: raises what ended the period."""
        if self._layer is None:
            self._kind, self._layer = own_layer()
        assert self._layer is not None
        layer = self._layer
        tasks: list[asyncio.Task[None]] = []
        try:
            await layer.open()
            reader = asyncio.create_task(self._read(layer))
            tasks = [reader, asyncio.create_task(self._begin(layer))]
            await _first(tasks)
            work = (self._test(layer), self._reconcile(layer), self._say(layer))
            tasks = [reader, *(asyncio.create_task(coroutine) for coroutine in work)]
            await _first(tasks)
        except Exception:
            await layer.end(tasks)
            await layer.reset(self._groups())
            raise
        except asyncio.CancelledError:
            await layer.end(tasks)
            raise
        finally:
            self.listens = False

    async def _begin(self, layer: SharedLayer) -> None:
        """Joins the test's group, and hears itself: only this proves that the layer works."""
        await layer.add([self._test_group])
        await self._hear_itself(layer, self._test_group)
        if not self._is_closed():
            self._breaker.succeeded(time.monotonic())
        self.listens = True

    def _groups(self) -> list[str]:
        return [self._test_group, *self._joined, *self._missing, *self._unwanted]

    def _is_closed(self) -> bool:
        return self._breaker.state(time.monotonic()) is BreakerState.CLOSED

    def _lost(self, error: Exception) -> None:
        """Memberships may be forgotten, so they are taken for lost."""
        said = f"{type(error).__name__} {error}"
        was_closed, self._failures = self._is_closed(), self._failures + 1
        self._breaker.failed(time.monotonic())
        if self._failures == 1:
            logger.warning("the channel layer failed, nodes find out by polling: %s", said)
        if not self._is_closed():
            if was_closed:
                logger.warning("the channel layer failed %d times in a row: %s", FAILURES, said)
            self.dropped += len(self._queue)
            self._queue.clear()
        self._forget()

    def _forget(self) -> None:
        self._unannounced.clear()
        self._joined.clear()
        self._missing = set(self._wanted)

    # --- hearing --------------------------------------------------------------------------------

    async def _read(self, layer: SharedLayer) -> None:
        while True:
            try:
                message = await layer.receive()
            except Exception as error:
                # redis-py 8 ends a blocking read after 5 s (django/channels_redis#422); whether
                # more is wrong than nobody speaking, the test tells.
                if type(error).__name__ != "TimeoutError":
                    raise
                await asyncio.sleep(RETRIES[0])
                continue
            self._hear(message)
            self._heard += 1
            if self._heard % BREATH == 0:
                await asyncio.sleep(0)

    def _hear(self, message: Any) -> None:
        try:
            if not is_known(message):
                return
            if message["kind"] == "echo":
                if (event := self._tests.get(message["token"])) is not None:
                    event.set()
                return
            self._on_heard(message)
        except Exception:
            logger.exception("an envelope could not be handled")

    async def _test(self, layer: SharedLayer) -> None:
        while True:
            await asyncio.sleep(SELF_TEST)
            await self._hear_itself(layer, self._test_group)
            # Not before: where one of several hosts is away, periods begin well and end at once.
            self._breaker.succeeded(time.monotonic())
            if self._failures:
                logger.info("the channel layer works again after %d failures", self._failures)
            self._failures = 0

    async def _hear_itself(self, layer: SharedLayer, group: str) -> None:
        """Returns when what was said to ``group`` came back. Raises Silent when neither that comes
        in time nor anything else."""
        token, event, before = uuid.uuid4().hex, asyncio.Event(), self._heard
        self._tests[token] = event
        try:
            for wait in HEARD_WITHIN:
                await layer.send(group, echo_envelope(token))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await event.wait()
                        return
            if self._heard == before:
                raise Silent(f"nothing heard within {sum(HEARD_WITHIN):g} s")
        finally:
            del self._tests[token]

    # --- memberships ----------------------------------------------------------------------------

    async def _reconcile(self, layer: SharedLayer) -> None:
        """The only task that joins and leaves, so the last wish wins."""
        renew_at = time.monotonic() + RENEW
        while True:
            self._changed.clear()
            while self._missing or self._unwanted or self._unannounced:
                await self._round(layer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(renew_at - time.monotonic()):
                    await self._changed.wait()
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + RENEW
                await layer.add([self._test_group, *self._joined])

    async def _round(self, layer: SharedLayer) -> None:
        """Joins some and leaves some. Wishes change meanwhile: each line below leaves the sets such
        that the next round does what is wanted by then."""
        leaving = list(itertools.islice(self._unwanted, AT_ONCE))
        self._joined.difference_update(leaving)  # wanted again meanwhile, one is missing
        await layer.discard(leaving)
        self._unwanted.difference_update(leaving)
        joining = list(itertools.islice(self._missing, AT_ONCE * 4))
        await layer.add(joining)
        if joining and not layer.add_is_answered:
            await self._confirm(layer)
        self._joined.update(joining)
        self._missing.difference_update(joining)
        self._unwanted.update(group for group in joining if group not in self._wanted)
        announced = {*joining, *self._unannounced} & self._wanted
        self._unannounced.clear()
        for group in announced:
            try:
                self._on_joined(group)
            except Exception:
                logger.exception("joined(%r) failed", group)

    async def _confirm(self, layer: SharedLayer) -> None:
        """Joins are in force when something is heard through one that came after them."""
        group = f"graceful.t.{uuid.uuid4().hex}"
        await layer.add([group])
        await self._hear_itself(layer, group)
        await layer.discard([group])

    # --- saying ---------------------------------------------------------------------------------

    async def _say(self, layer: SharedLayer) -> None:
        while True:
            while self._queue:
                group, envelope = self._queue.popleft()
                try:
                    await layer.send(group, envelope)
                except MISUSE:
                    self.dropped += 1
                    logger.exception("cannot be said to %r: %.200r", group, envelope)
            self._queued.clear()
            await self._queued.wait()

    async def stop(self) -> None:
        """Leaves the groups and closes, within a second. ``run`` has to be over."""
        if self._layer is not None:
            await self._layer.stop(self._groups())
        self._queue.clear()
        self._unwanted.clear()
        self._forget()


async def _first(tasks: list[asyncio.Task[None]]) -> None:
    """Returns when one of them is done, or raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
