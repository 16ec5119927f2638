from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from graceful_ws.node.journal import Journal
from tests.store.kit import Elsewhere


@pytest.fixture
def limits(settings: Any) -> Callable[..., None]:
    """Changes settings of the package: ``limits(journal_rows=5)``."""

    def change(**values: Any) -> None:
        settings.GRACEFUL_WS = {**getattr(settings, "GRACEFUL_WS", {}), **values}

    return change


@pytest.fixture
def elsewhere(database: object) -> Iterator[Elsewhere]:
    """Runs functions in other threads; all have ended before the database goes."""
    threads = Elsewhere()
    yield threads
    threads.join()


@pytest.fixture
async def journal(database: object) -> AsyncIterator[Journal]:
    """A journal with its writer running, and stopped at the end."""
    journal = Journal()
    running = asyncio.create_task(journal.run())
    try:
        yield journal
        assert not running.done(), "the writer ended by itself"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await journal.stop()
