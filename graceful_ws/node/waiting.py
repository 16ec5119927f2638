"""What waits for the writer: entries and hellos, each with the future of its outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graceful_ws.store.attach import Attach
from graceful_ws.store.entries import Entry

logger = logging.getLogger("graceful_ws.journal")


class Overloaded(Exception):
    """Too many hellos wait for the writer; come back later."""


@dataclass(slots=True, eq=False)
class Item:
    """An entry on its way. ``committed`` runs on the event loop, in order, when it is kept."""

    entry: Entry
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None


@dataclass(slots=True, eq=False)
class Waiting:
    """A hello on its way; ``wanted`` is asked once more just before the database is."""

    entry: Attach
    future: asyncio.Future[Any]
    wanted: Callable[[], bool]
    since: float


def tell(item: Item, outcome: Any) -> None:
    if item.committed is None:
        return
    try:
        item.committed(outcome)
    except Exception:  # a defect; what committed with it must still be told
        logger.exception("the callback of a committed entry failed")
