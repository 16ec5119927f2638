"""The node of a test: started in the test's event loop, drained, replaced, and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async
from django.db import connections

from .errors import NotReady
from .work import Work, new_work

if TYPE_CHECKING:
    from graceful_ws.node.drain import Drain
    from graceful_ws.node.node import Node

GONE_WITHIN = 5.0  # seconds for connections that were left open to end
CANCELLED_WITHIN = 1.0  # seconds for handlers that outlive them

_draining: list[Node] = []


def draining_nodes() -> list[Node]:
    """Those that have a successor, and still serve who has not left."""
    return list(_draining)


class LocalNode:
    """The node in the test's event loop, and its successors: to the application and to clients it
    is one process after another, with one database."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()

    @property
    def node(self) -> Node:
        """The one that takes new connections."""
        from graceful_ws.node.node import node_here

        return node_here()

    async def drain(self, reason: str = "the server restarts") -> None:
        """Drains it as for a deploy, and returns when it has stopped: running handlers finish,
        clients are told, then closed 1012. Who connects next comes to a new node."""
        async with self.draining(0.0, reason):
            pass

    @asynccontextmanager
    async def draining(
        self, window: float = 10.0, reason: str = "the server restarts", *, successor: bool = True
    ) -> AsyncIterator[Drain]:
        """Inside the block it drains: its clients are told, and may leave within ``window``
        seconds. The end of the block ends that window, and returns when the node has stopped.

        New connections come to its successor, as behind a load balancer that knows; without a
        ``successor`` they are refused 503.
        """
        from graceful_ws.conf import settings
        from graceful_ws.node.drain import DrainOptions
        from graceful_ws.node.node import get_node

        old = await get_node()
        deadline = window + settings.drain_deadline
        options = DrainOptions(0.0, window, settings.drain_rate, deadline, reason)
        drain = old.start_drain(options)
        assert drain.task is not None
        try:
            if successor:
                self._part_with(old)
                _draining.append(old)
                await get_node()
            await self._work.settle()
            yield drain
        finally:
            drain._closing_at = min(drain._closing_at, self._loop.time())
            await asyncio.wait([drain.task])
            with suppress(Exception):
                await old.lookout.end()
            await self._stop(old)
            if successor:
                _draining.remove(old)

    async def stop(self) -> None:
        """Ends its connections, as a lost network does, and all of its tasks, timers and threads.
        Who connects next comes to a new node."""
        from graceful_ws.node.node import local_nodes

        for node in [*local_nodes(), *draining_nodes()]:
            if node.loop is self._loop:
                await self._stop(node)

    async def _stop(self, node: Node) -> None:
        for live in list(node.served):
            live.drop()
        if not await _ended(node, GONE_WITHIN):
            for live in list(node.served):
                live.inbox.cancel()
            await _ended(node, CANCELLED_WITHIN)
        await node.stop()
        self._part_with(node)

    def _part_with(self, node: Node) -> None:
        from graceful_ws.node import node as module

        if module._nodes.get(self._loop) is node:
            del module._nodes[self._loop]


async def _ended(node: Node, within: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while node.served or node.tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    return not node.served


@asynccontextmanager
async def running_node() -> AsyncIterator[LocalNode]:
    """A node in the running event loop, registered in the test's database, for the block; at its
    end nothing of it is left.

    Raises NotReady, with the remedy, where the test's database or event loop will not do.
    """
    from graceful_ws.node.node import get_node

    work = new_work(in_django_thread=await sync_to_async(_only_one_thread)())
    with work.watched():
        local = LocalNode(work)
        try:
            await get_node()
            await work.settle()  # a fixture may write next, in another thread
            yield local
        finally:
            await local.stop()
            # The thread of the ORM's async calls would hold a database that is to be dropped.
            await sync_to_async(_close_connections)()


def _close_connections() -> None:
    """But for those in the transaction of a TestCase, which goes on."""
    for using in connections.all(initialized_only=True):
        if not using.in_atomic_block:
            using.close()


def _only_one_thread() -> bool:
    """Whether all threads have to share one connection: SQLite in memory locks whole tables, and
    waits for nobody. Raises NotReady inside a transaction, which other threads cannot see. Runs in
    Django's thread: in the event loop's own, connections are others."""
    from graceful_ws.conf import settings
    from graceful_ws.store.base import connection

    using = connection()
    if using.in_atomic_block and not settings.store_in_django_thread:
        raise NotReady(
            "the test runs in a transaction, which the node's threads cannot see: mark it"
            " @pytest.mark.django_db(transaction=True), or make it a TransactionTestCase"
        )
    return using.vendor == "sqlite" and bool(using.is_in_memory_db())  # type: ignore[attr-defined]
