"""A session's own sequence as a source that an outbox can read."""

from __future__ import annotations

from graceful_ws.core.frames import message_frame
from graceful_ws.store.rounds import page

from .threads import Threads


class OwnSequence:
    """The messages of ``OutboundMessage`` for one session; nobody else numbers them meanwhile."""

    __slots__ = ("_readers", "_session", "head")
    name: str | None = None
    epoch: str | None = None

    def __init__(self, session: int, head: int, readers: Threads) -> None:
        self.head = head
        self._session = session
        self._readers = readers

    def frame(self, seq: int, data: str) -> str:
        return message_frame(seq, data)

    async def read(self, after: int, rows: int) -> list[tuple[int, str]]:
        return await self._readers.run(page, self._session, after, rows)
