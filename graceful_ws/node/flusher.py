"""Sends what the connections of a node have queued: those of one turn of the event loop together.

A task for each message and connection costs more than the sending. Where the server offers to take
a whole frame at once (``graceful_ws.servers.writer``) there is none, and what goes to many is
encoded once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from graceful_ws.core.frames import join, wire

logger = logging.getLogger("graceful_ws.connection")

AT_ONCE = 500  # connections served before others have their turn


class Sender(Protocol):
    """An outbox, as far as it concerns its flusher."""

    def flush(self) -> None: ...


class Flusher:
    """Of one node. Nothing here waits, so no connection waits for another one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: deque[Sender] = deque()
        self._soon = False  # the loop will call, or does
        self._last: Sequence[str | bytes] = ()
        self._encoded = b""

    def __bool__(self) -> bool:
        """True while somebody waits to be called."""
        return bool(self._due)

    def ask(self, sender: Sender) -> None:
        """``flush`` is called soon. The sender asks again only when it was."""
        self._due.append(sender)
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        due = self._due
        for _ in range(min(len(due), AT_ONCE)):
            try:
                due.popleft().flush()
            except Exception:  # a defect, and not a reason to send nothing to the others
                logger.exception("a connection could not be served")
        self._soon = bool(due)
        if due:
            self._loop.call_soon(self._flush)
        else:
            self._last, self._encoded = (), b""

    def encoded(self, frames: Sequence[str | bytes]) -> bytes:
        """Frames as one WebSocket message; what the connection before got is not encoded anew."""
        if frames != self._last:
            self._last, self._encoded = frames, wire(join(frames))
        return self._encoded
