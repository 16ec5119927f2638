from __future__ import annotations

from typing import Any

import pytest

from graceful_ws.testing.fixtures import graceful_node
from tests.support.databases import Database

__all__ = ["graceful_node"]

MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


@pytest.fixture
def transactional_db(database: Database) -> None:
    """In place of pytest-django's: a test has a database of its own."""


@pytest.fixture
def memory_layers(settings: Any) -> None:
    """The default channel layer, and another one, both in memory."""
    settings.CHANNEL_LAYERS = {"default": MEMORY, "other": MEMORY}
