"""Wakes whoever waits for room, and takes next to no memory while nobody does."""

from __future__ import annotations

import asyncio


class Bell:
    """Unlike an ``asyncio.Event`` it has no state to clear: who waits, waits for the next ring."""

    __slots__ = ("_rung",)

    def __init__(self) -> None:
        self._rung: asyncio.Event | None = None

    def ring(self) -> None:
        if self._rung is not None:
            self._rung.set()
            self._rung = None

    async def wait(self) -> None:
        if self._rung is None:
            self._rung = asyncio.Event()
        await self._rung.wait()
