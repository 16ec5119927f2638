"""Helpers for tests of what runs on the event loop over a real database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections

from graceful_ws.node.journal import Journal
from tests.store.kit import WITHIN
from tests.support.waiting import eventually

T = TypeVar("T")

WRITER = "graceful-writer-1"  # the name of the writer's thread


async def store(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Runs a function of the store, or of the tests, in a thread with a connection of its own."""

    def run() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()  # the test may kill the server before the next

    return await sync_to_async(run)()


async def soon(awaitable: Awaitable[T]) -> T:
    """Waits with a deadline."""
    async with asyncio.timeout(WITHIN):
        return await awaitable


@contextlib.asynccontextmanager
async def writer_held(journal: Journal) -> AsyncIterator[None]:
    """Inside the block the writer's thread is occupied: what it has taken is not written yet."""
    gate, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert gate.wait(WITHIN)

    holding = asyncio.create_task(journal.threads.run(hold))
    await eventually(held.is_set, WITHIN)
    try:
        yield
    finally:
        gate.set()
        await soon(holding)


async def taken(journal: Journal) -> None:
    """Returns when the writer has taken all that waited."""
    await eventually(lambda: len(journal) == 0, WITHIN, "the writer takes what waits")
