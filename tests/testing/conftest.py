from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graceful_ws.testing.fixtures import clock, communicator, graceful_node
from tests.support.databases import Database

__all__ = ["clock", "communicator", "graceful_node"]


@pytest.fixture
def transactional_db(database: Database) -> None:
    """In place of pytest-django's: a test has a database of its own, on SQLite and on
    PostgreSQL."""


@pytest.fixture
def limits(settings: Any) -> Callable[..., None]:
    """Changes settings of the package: ``limits(journal_rows=5)``."""

    def change(**values: Any) -> None:
        settings.GRACEFUL_WS = {**getattr(settings, "GRACEFUL_WS", {}), **values}

    return change
