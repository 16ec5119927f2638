"""Who waits for what became of a message."""

from __future__ import annotations

import asyncio
from typing import Any

from .errors import GracefulError
from .events import Outgoing


class Outcomes:
    """A future for each message that somebody waits for."""

    def __init__(self) -> None:
        self._waiters: dict[Outgoing, asyncio.Future[Any]] = {}

    async def wait(self, message: Outgoing, within: float | None = None) -> Any:
        """What its handler returned. Raises what ``fail`` was given, and TimeoutError after
        ``within`` seconds; None: never."""
        waiter = self._waiters[message] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                return await waiter
        finally:
            self._waiters.pop(message, None)

    def settle(self, message: Outgoing, result: Any) -> None:
        waiter = self._waiters.pop(message, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(result)

    def fail(self, message: Outgoing, error: GracefulError) -> None:
        waiter = self._waiters.pop(message, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def fail_all(self, error: GracefulError) -> None:
        for message in list(self._waiters):
            self.fail(message, error)
