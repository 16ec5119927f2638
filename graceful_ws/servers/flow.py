"""Back-pressure for Daphne's connections, which has none in either direction."""

from __future__ import annotations

import asyncio
from typing import Any

MOST = 32  # messages that the application has not taken yet; then the socket is not read
FEW = 8  # messages left when reading goes on


class Outflow:
    """Twisted's word for "stop writing" and "go on" (IPushProducer), for a coroutine to wait on.
    It is paused while 64 KiB or more wait for the peer to read."""

    __slots__ = ("_resumed",)

    def __init__(self) -> None:
        self._resumed: asyncio.Event | None = None

    @property
    def paused(self) -> bool:
        return self._resumed is not None

    async def writable(self) -> None:
        while self._resumed is not None:
            await self._resumed.wait()

    def pauseProducing(self) -> None:
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resumeProducing(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def stopProducing(self) -> None:
        self.resumeProducing()


class Inflow:
    """Stops reading a peer that sends faster than the application takes. A queue that is held has
    its way out watched; all others cost nothing."""

    __slots__ = ("_held", "_protocol")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._held = False

    def hold(self) -> None:
        """Read no more for now."""
        if not self._held:
            self._held = True
            self._protocol.transport.pauseProducing()

    def go_on(self) -> None:
        if self._held:
            self._held = False
            self._protocol.transport.resumeProducing()

    def hold_until_taken(self, queue: asyncio.Queue[Any]) -> None:
        """The same, until the application has taken all but a few of what waits in ``queue``."""
        take = getattr(queue, "_get", None)  # for subclasses to override, says asyncio
        if self._held or take is None:
            return

        def take_and_look() -> Any:
            item = take()
            if queue.qsize() <= FEW:
                del queue._get
                self.go_on()
            return item

        queue._get = take_and_look  # type: ignore[method-assign]
        self.hold()
