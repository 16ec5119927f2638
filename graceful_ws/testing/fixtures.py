"""Fixtures for pytest, pytest-django and pytest-asyncio.

pytest_plugins = ["graceful_ws.testing.fixtures"]  # in the conftest.py at the root
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from . import Clock, GracefulCommunicator, LocalNode

# The package is imported in the fixtures: plugins are loaded before Django is set up.


@pytest_asyncio.fixture
async def graceful_node(transactional_db: None) -> AsyncIterator[LocalNode]:
    """A node in the test's event loop, stopped at the end. The test gets its database as with
    ``@pytest.mark.django_db(transaction=True)``, whether it says so or not."""
    from . import running_node

    async with running_node() as node:
        yield node


@pytest_asyncio.fixture
async def clock(graceful_node: LocalNode) -> AsyncIterator[Clock]:
    """``await clock.advance(60)``: a minute later, at once."""
    from . import fake_clock, settle

    with fake_clock() as clock:
        await settle()
        yield clock


@pytest_asyncio.fixture
async def communicator(
    graceful_node: LocalNode,
) -> AsyncIterator[Callable[..., Awaitable[GracefulCommunicator]]]:
    """``client = await communicator("/ws/orders/", user=user)``: connected, and closed with the
    test. Takes what ``GracefulCommunicator`` takes; ``application`` is the one of the setting
    ASGI_APPLICATION unless given."""
    from channels.routing import get_default_application

    from . import GracefulCommunicator, settle

    async with AsyncExitStack() as stack:

        async def connected(
            path: str, *, application: Any = None, **options: Any
        ) -> GracefulCommunicator:
            client = GracefulCommunicator(application or get_default_application(), path, **options)
            return await stack.enter_async_context(client)

        await settle()
        yield connected
