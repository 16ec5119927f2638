"""Tests of your own ``GracefulConsumer``s: without a server, without a socket, without a sleep.

    pytest_plugins = ["graceful_ws.testing.fixtures"]  # in conftest.py

    async def test_an_order_survives_a_lost_network(communicator, graceful_node):
        client = await communicator("/ws/orders/")
        await client.drop()
        ...
        assert (await client.resume()).resumed

docs/testing.md has the whole of it. Needs ``pip install "django-graceful-ws[client]"``; pytest is
needed by ``graceful_ws.testing.fixtures`` alone.
"""

from __future__ import annotations

from graceful_ws.client.errors import Nacked

from .clock import Clock, fake_clock
from .communicator import GracefulCommunicator, Resumed
from .errors import ConnectionEnded, NotReady, Refused
from .line import Closed
from .nodes import LocalNode, running_node
from .pair import connect_in_process
from .work import settle

__all__ = [
    "Clock",
    "Closed",
    "ConnectionEnded",
    "GracefulCommunicator",
    "LocalNode",
    "Nacked",
    "NotReady",
    "Refused",
    "Resumed",
    "connect_in_process",
    "fake_clock",
    "running_node",
    "settle",
]
