"""The process: one Node per event loop. It starts at the first connection, never before a fork."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from graceful_ws import __version__, servers
from graceful_ws.conf import settings
from graceful_ws.envelopes import NODES, node_envelope, node_group
from graceful_ws.store import nodes
from graceful_ws.store.base import JournalUnavailable, prepare
from graceful_ws.store.rounds import Numbers, standing
from graceful_ws.store.wakers import wakers

from .admission import Admission
from .backplane import Backplane
from .collector import settle
from .django_thread import DjangoThread
from .drain import Drain, DrainOptions, adapt_servers
from .ending import lost_session
from .flusher import Flusher
from .hub import Hub
from .journal import Journal
from .lookout import Lookout
from .reaper import Reaper
from .reclaim import Reclaimer
from .registry import Registry
from .sampler import Sampler
from .sequencer import AT_ONCE, Sequencer
from .stats import Stats
from .threads import OUTAGES, Threads, abandon
from .timers import Timers

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.node")

READERS = 2
SERVICES = 2
THREADS = 1 + READERS + SERVICES + AT_ONCE  # with the writer; and handler_threads beside these
STOP_TIMEOUT = 1.0  # seconds for cancelled tasks to end

_nodes: dict[asyncio.AbstractEventLoop, Node] = {}


def node_here() -> Node:
    """The node of the running loop. It may not have started yet."""
    loop = asyncio.get_running_loop()
    node = _nodes.get(loop)
    if node is None:
        for other in [other for other in _nodes if other.is_closed()]:
            _nodes.pop(other).abandon()
        node = _nodes[loop] = Node()
    return node


async def get_node() -> Node:
    """The started node of the running loop. Raises JournalUnavailable when it cannot register."""
    node = node_here()
    await node.started()
    return node


def local_nodes() -> list[Node]:
    """The nodes of this process that have been started; normally one."""
    return list(_nodes.values())


class _Waker:
    """The nodes of this process hear of what was left, in whatever thread."""

    def published(self, stream: str) -> bool:
        return self._tell(lambda node: node.sequencer.ask([stream]))

    def left(self, sessions: Iterable[tuple[int, uuid.UUID | None]]) -> bool:
        return self._tell(lambda node: node.sequencer.left(sessions))

    def asked(self, nodes: Collection[uuid.UUID]) -> bool:
        return self._tell(lambda node: node.ask(nodes))

    def _tell(self, what: Callable[[Node], None]) -> bool:
        """One node is enough: it tells the others."""
        for node in local_nodes():
            if node.works:
                try:
                    node.loop.call_soon_threadsafe(what, node)
                except RuntimeError:  # the loop has closed
                    continue
                return True
        return False


wakers.append(_Waker())


class Node(Registry):
    """The local connections, and everything that runs once for all of them."""

    def __init__(self) -> None:
        self.name = settings.node_name or f"{socket.gethostname()}:{os.getpid()}"
        self.id: uuid.UUID = uuid.UUID(int=0)
        super().__init__()
        self.stats = Stats()
        self.counts_since: float | None = None  # UNIX seconds; None: it counted as another row too
        self.admission = Admission(self.stats)
        self.journal = Journal(self.stats)
        self.readers = Threads("reader", READERS, 4096)
        self.services = Threads("service", SERVICES, 256)  # beat and rounds wait for no page
        self.handler_threads = Threads("handler", settings.handler_threads, settings.handler_queue)
        self.timers = Timers()
        self.flusher = Flusher()
        self.backplane = Backplane(self._heard, self._joined)
        self.hub = Hub(self.backplane, self.readers, self.services, self.spawn)
        self.sequencer = Sequencer(self)
        self.lookout = Lookout(self)
        self.reaper = Reaper(self)
        self.reclaimer = Reclaimer(self)
        self.sampler = Sampler(self)
        self.django_thread = DjangoThread(self.spawn)
        self.drain: Drain | None = None
        self.replay_rows = int(settings.replay_rows)
        self.loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._service: list[asyncio.Task[Any]] = []
        self._starting: asyncio.Task[None] | None = None
        self._looking: set[LiveConnection] = set()

    # --- start and stop -----------------------------------------------------------------------

    async def started(self) -> None:
        """Waits until the node is registered. Raises JournalUnavailable with what is wrong."""
        if self._starting is not None and self._starting.done():
            if self._starting.exception() is None:
                return
            self._starting = None
        if self._starting is None:
            self._starting = self.loop.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        adapt_servers()  # once more: a server may have been imported since the app was ready
        try:
            await self.journal.threads.run(prepare)
            await self.register()
        except DatabaseError as error:
            raise JournalUnavailable(
                f"the node cannot register ({error}): is the database up, and has"
                " 'manage.py migrate' been run?"
            ) from error
        self._service = [
            self.loop.create_task(self._supervise(name, work))
            for name, work in (
                ("journal", self.journal.run),
                ("beat", self.lookout.beat),
                ("round", self.lookout.rounds),
                ("poll", self.lookout.poll),
                ("reaper", self.reaper.run),
                ("reclaimer", self.reclaimer.run),
                ("backplane", self.backplane.run),
                ("sequencer", self.sequencer.run),
                ("sampler", self.sampler.run),
                ("django thread", self.django_thread.run),
            )
        ]
        settle()
        logger.info("node %s started on %s", self.name, servers.current())

    async def register(self) -> None:
        """A new row for this node, and the group in which it is spoken to."""
        before = self.id
        me = nodes.Identity(
            self.name, socket.gethostname(), os.getpid(), servers.current(), __version__
        )
        self.id = await self.journal.threads.run(nodes.register, me)
        self.counts_since = None if before.int else time.time()
        self.backplane.leave(node_group(before))
        for group in (NODES, node_group(self.id)):
            self.backplane.join(group)

    async def _supervise(self, name: str, work: Any) -> None:
        """A service that fails is a defect, and not a reason to serve without it."""
        while True:
            try:
                await work()
            except asyncio.CancelledError:
                if self._service:
                    self.abandon()  # not by stop(): by whoever closes the loop
                raise
            except Exception:
                logger.exception("the node's %s failed; it starts again", name)
                await asyncio.sleep(1.0)

    async def stop(self) -> None:
        """Ends every task, thread and timer of the node. Connections must be closed before."""
        tasks, self._service = [*self._service, *self._tasks], []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT)  # a handler may swallow the cancel
        self.timers.stop()
        pools = (self.readers, self.services, self.handler_threads)
        await asyncio.gather(
            self.journal.stop(),
            self.backplane.stop(),
            self.sequencer.stop(STOP_TIMEOUT),
            *(pool.stop(STOP_TIMEOUT) for pool in pools),
        )
        if _nodes.get(self.loop) is self and self.drain is None:
            del _nodes[self.loop]  # a node that has drained stays, and refuses

    def abandon(self) -> None:
        """The loop ends without a stop, as those of tests do: nobody comes back for the threads."""
        pools = (self.journal.threads, self.readers, self.services, self.handler_threads)
        abandon([*pools, self.sequencer.threads], STOP_TIMEOUT)

    def spawn(
        self, coroutine: Coroutine[Any, Any, Any], context: Context | None = None
    ) -> asyncio.Task[Any]:
        """A task that the node ends at the latest; its exception is logged."""
        # Never an eager one: the context may be that of who spawns it, and is entered already.
        task = asyncio.Task(coroutine, loop=self.loop, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task failed", exc_info=error)

    @property
    def tasks(self) -> int:
        """Tasks of connections that run now."""
        return len(self._tasks)

    def add(self, live: LiveConnection) -> None:
        """The WebSocket of ``live`` is open."""
        super().add(live)
        self.timers.schedule(live)
        if self.drain is not None:
            self.drain.joined(live)

    def remove(self, live: LiveConnection) -> None:
        """It is over."""
        super().remove(live)
        self.hub.forget(live.outbox)

    # --- what connections ask -----------------------------------------------------------------

    @property
    def works(self) -> bool:
        """True while its services run."""
        return bool(self._service) and not self.loop.is_closed()

    @property
    def healthy(self) -> bool:
        """False while the database does not answer the writer."""
        return self.journal.healthy

    @property
    def refusing(self) -> bool:
        """True when new handshakes are answered 503."""
        return self.drain is not None and self.drain.refusing

    @property
    def reconnect_window(self) -> float:
        return float(settings.reconnect_window)

    async def standing(self, session: int, client_seq: int) -> tuple[Numbers, str | None] | None:
        """The session's committed numbers, and the outcome kept for a client's number."""
        return await self.readers.run(standing, session, client_seq)

    async def find_out(self, lost: Iterable[LiveConnection], *, fenced: bool = False) -> None:
        """Asks the database what became of sessions that are no longer ours, and closes them."""
        asked = {live.session_pk: live for live in lost if live not in self._looking}
        if not asked:
            return
        self._looking.update(asked.values())
        try:
            endings = await self.readers.run(nodes.endings, list(asked))
            for pk, live in asked.items():
                if live.is_open:
                    lost_session(live, endings.get(pk), fenced=fenced)
        except OUTAGES as error:
            logger.warning("cannot ask what became of sessions: %s", error)  # the next round does
        finally:
            self._looking.difference_update(asked.values())

    # --- what others say ----------------------------------------------------------------------

    def _heard(self, envelope: dict[str, Any]) -> None:
        """From the layer; its shape has been checked."""
        kind = envelope["kind"]
        if kind == "stream":
            self.hub.hear(
                envelope["stream"],
                envelope["epoch"],
                envelope["from"],
                envelope["head"],
                envelope.get("data") or (),
            )
            if "at" in envelope:
                self.sampler.woken(envelope["stream"], envelope["at"])
        elif kind == "pending":
            self.take_pending(envelope["sessions"])
        elif kind == "node":
            self.lookout.look_now()

    def ask(self, nodes: Collection[uuid.UUID]) -> None:
        """Says to these that they have something to see."""
        for node in nodes:
            if node == self.id:
                self.lookout.look_now()
            else:
                self.backplane.send(node_group(node), node_envelope())

    def _joined(self, group: str) -> None:
        """What was said to the group before may have been missed."""
        if group in (NODES, node_group(self.id)):
            self.lookout.look_now()
        else:
            self.hub.look_at(group)

    # --- drain --------------------------------------------------------------------------------

    def start_drain(self, options: DrainOptions) -> Drain:
        """Begins to drain, or returns the drain under way."""
        if self.drain is None:
            self.drain = Drain(self, options)
            self.drain.task = self.loop.create_task(self.drain.run())
        return self.drain
