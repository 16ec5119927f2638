"""One sequence on its way to one connection."""

from __future__ import annotations

from typing import Protocol

from graceful_ws.core.window import Cursor, SendWindow


class Source(Protocol):
    """A sequence that can be read: the session's own, or a stream."""

    head: int  # the highest number known to be committed

    @property
    def name(self) -> str | None:
        """None for the session's own sequence."""

    @property
    def epoch(self) -> str | None: ...

    def frame(self, seq: int, data: str) -> str: ...
    async def read(self, after: int, rows: int) -> list[tuple[int, str]]: ...


class Feed:
    """One sequence on its way to one connection."""

    __slots__ = ("acked_epoch", "cursor", "source")

    def __init__(self, source: Source, window: SendWindow, position: int) -> None:
        self.source = source
        self.cursor = Cursor(window, position=position, acked=position)
        self.acked_epoch = source.epoch  # that ``cursor.acked`` is a number of

    @property
    def behind(self) -> bool:
        return self.cursor.position < self.source.head
