"""Takes in what others left for a session: it is numbered by the session's owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from graceful_ws.store.entries import TakePending

from .attaching import forget

if TYPE_CHECKING:
    from .live import LiveConnection


class Taker:
    """Of one connection."""

    __slots__ = ("_again", "_begun", "_live", "_taking")

    def __init__(self, live: LiveConnection) -> None:
        self._live = live
        self._taking: asyncio.Future[Any] | None = None
        self._again = False  # something was left since the round under way began
        self._begun = False

    def begin(self, *, pending: bool) -> None:
        """The connection is welcomed. ``pending``: something was left before its session attached;
        what was left since then has been told."""
        self._begun = True
        if pending or self._again:
            self.take()

    def take(self) -> None:
        if self._taking is not None or not self._begun:
            self._again = True  # the round, or the attach, may have read already
            return
        self._again = False
        entry = TakePending(self._live.session_pk, self._live.generation)
        self._taking = self._live.node.journal.submit(entry, self._taken)
        self._taking.add_done_callback(self._done)

    def _taken(self, taken: tuple[int, list[str]]) -> None:
        live = self._live
        first, data = taken
        if not live.consumer.resumable and live.feed is not None:
            first = live.feed.source.head + 1  # its own messages are numbered here alone
        live.committed(first, data)

    def _done(self, future: asyncio.Future[Any]) -> None:
        forget(future)
        self._taking = None
        if self._again and self._live.is_open:
            self.take()
