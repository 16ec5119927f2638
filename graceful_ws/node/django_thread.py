"""Database connections of the one thread in which asynchronous code of the application queries.

Channels closes those that are old or broken before each message. Without that a connection that the
database has ended would fail for ever: nothing else closes it in a process that serves WebSockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, close_old_connections

from graceful_ws.conf import settings

logger = logging.getLogger("graceful_ws.node")
AT_ONCE = 0.2  # seconds between two looks at least


class DjangoThread:
    """A service of one node: looks each ``round_interval``, and when a handler has failed."""

    def __init__(self) -> None:
        self._failed = asyncio.Event()

    def failed(self, error: BaseException) -> None:
        """A handler has. Was it because of the database?"""
        if isinstance(error, DatabaseError | InterfaceError):
            self._failed.set()

    async def run(self) -> None:
        close = sync_to_async(close_old_connections, thread_sensitive=True)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.round_interval):
                    await self._failed.wait()
            self._failed.clear()
            try:
                await close()
            except (DatabaseError, InterfaceError) as error:
                logger.warning("old connections: %s", error)
            await asyncio.sleep(AT_ONCE)
