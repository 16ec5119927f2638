"""Database connections of the one thread in which asynchronous code of the application queries.

Channels closes those that are old or broken before each message and at each disconnect. Otherwise
one that the database has ended would fail for ever: nothing else closes it in a process that serves
WebSockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections

from graceful_ws.conf import settings

logger = logging.getLogger("graceful_ws.node")
AT_ONCE = 0.2  # seconds between two looks of the service at least
TIMEOUT = 1.0  # seconds that the end of a connection waits for a thread that is busy


class DjangoThread:
    """A service of one node: looks each ``round_interval``, and when a handler has failed."""

    def __init__(self, spawn: Callable[[Any], asyncio.Task[Any]]) -> None:
        self._spawn = spawn
        self._failed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def failed(self, error: BaseException) -> None:
        """A handler has. Was it because of the database?"""
        if isinstance(error, DatabaseError | InterfaceError):
            self._failed.set()

    async def look(self) -> None:
        """Returns when it has looked. In a storm many share one look."""
        if self._looking is None or self._looking.done():
            self._looking = self._spawn(self._look())
        # Nor does whoever waits end with the node, which cancels its tasks.
        await asyncio.wait({self._looking}, timeout=TIMEOUT)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.round_interval):
                    await self._failed.wait()
            self._failed.clear()
            await self.look()
            await asyncio.sleep(AT_ONCE)

    async def _look(self) -> None:
        try:
            await sync_to_async(_close_old, thread_sensitive=True)()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("old connections: %s", error)


def _close_old() -> None:
    """As Django does it, but for one that is in a transaction: that of a TestCase."""
    for using in connections.all(initialized_only=True):
        if not using.in_atomic_block:
            using.close_if_unusable_or_obsolete()
