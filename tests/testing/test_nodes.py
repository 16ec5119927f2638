"""A node of a test drains, is replaced and stops as one of a deployment does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.db import connections, transaction

from graceful_ws.client import Draining
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import Node as NodeRow
from graceful_ws.models import Session
from graceful_ws.node.node import local_nodes
from graceful_ws.testing import (
    GracefulCommunicator,
    LocalNode,
    NotReady,
    Refused,
    running_node,
    settle,
)
from tests.consumers import Echo

ECHO = Echo.as_asgi()


async def test_drained_client_is_told_closed_and_resumes_on_the_next_node(
    graceful_node: LocalNode,
) -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send("one")
        first = graceful_node.node.id
        await graceful_node.drain("a new version")
        assert (await client.event(Draining)).reason == "a new version"
        closed = await client.wait_closed()
        assert closed == (CloseCode.SERVICE_RESTART, "a new version")
        assert (await client.receive()).data == "one"
        assert (await client.resume()).resumed
        assert graceful_node.node.id != first
        assert await client.receive_nothing()
        rows = {row.id: row.state async for row in NodeRow.objects.all()}
        assert rows == {first: "stopped", graceful_node.node.id: "up"}


async def test_drain_lets_a_running_handler_finish(graceful_node: LocalNode) -> None:
    gate = asyncio.Event()

    class Slow(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> str:
            await gate.wait()
            return "done"

    async with GracefulCommunicator(Slow.as_asgi(), "/ws/") as client:
        answer = client.send_nowait("order")
        await settle()
        draining = asyncio.create_task(graceful_node.drain())
        await client.event(Draining)
        assert client.closed is None
        gate.set()
        await draining
        assert await answer == "done"
        assert client.closed is not None


async def test_client_moves_to_the_successor_while_the_old_node_drains(
    graceful_node: LocalNode,
) -> None:
    client = GracefulCommunicator(ECHO, "/ws/")
    await client.connect()
    async with graceful_node.draining(window=10) as drain:
        told = await client.event(Draining)
        assert 0 < told.close_in <= 10
        assert client._live().node is drain.node
        await client.close(CloseCode.SUSPENDED)
        assert (await client.resume()).resumed
        assert client._live().node is graceful_node.node
        assert client._live().node is not drain.node
    assert client.closed is None
    await client.bye()


async def test_end_of_the_block_is_the_end_of_the_window(graceful_node: LocalNode) -> None:
    loop = asyncio.get_running_loop()
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        begun = loop.time()
        async with graceful_node.draining(window=60):
            assert await client.send({"result": 1, "echo": False}) == 1
        assert client.closed is not None
        assert client.closed.code == CloseCode.SERVICE_RESTART
        assert loop.time() - begun < 30


async def test_node_without_a_successor_refuses(graceful_node: LocalNode) -> None:
    async with graceful_node.draining(successor=False):
        with pytest.raises(Refused) as caught:
            await GracefulCommunicator(ECHO, "/ws/").connect()
        assert caught.value.status == 503
        assert b"retry-after" in dict(caught.value.headers)
    async with GracefulCommunicator(ECHO, "/ws/"):
        pass


async def test_plain_client_is_drained_too(graceful_node: LocalNode) -> None:
    plain = WebsocketCommunicator(ECHO, "/ws/")
    assert await plain.connect() == (True, None)
    await plain.send_json_to("hello")
    assert await plain.receive_json_from() == "hello"
    draining = asyncio.create_task(graceful_node.drain("bye"))
    closed = await plain.receive_output()
    assert closed == {"type": "websocket.close", "code": 1012, "reason": "bye"}
    await plain.disconnect(1012)
    await draining


async def test_nothing_is_left_of_a_node(transactional_db: None) -> None:
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    loop = asyncio.get_running_loop()
    async with running_node() as local:
        client = GracefulCommunicator(ECHO, "/ws/")
        await client.connect()
        await client.send("one")
        await local.drain()
        await client.resume()  # and it is left open
    assert asyncio.all_tasks() == tasks
    assert local_nodes() == []
    assert threading.active_count() <= threads + 1  # that of sync_to_async stays
    assert "time" not in vars(loop)
    assert "run_in_executor" not in vars(loop)
    assert await Session.objects.filter(state="attached").acount() == 0


async def test_one_node_after_another_in_one_loop(transactional_db: None) -> None:
    for _ in range(2):
        async with running_node(), GracefulCommunicator(ECHO, "/ws/") as client:
            assert await client.send({"result": 1, "echo": False}) == 1


async def test_communicator_without_a_node_says_what_is_missing(transactional_db: None) -> None:
    with pytest.raises(NotReady, match="use the fixture graceful_node"):
        await GracefulCommunicator(ECHO, "/ws/").connect()


async def test_test_inside_a_transaction_is_told_the_mark(transactional_db: None) -> None:
    async def run() -> None:
        async with running_node():
            pass

    def begin() -> None:  # as a TestCase does around an async test
        try:
            with transaction.atomic():
                async_to_sync(run)()
        finally:
            connections.close_all()

    with pytest.raises(NotReady, match=r"django_db\(transaction=True\)"):
        await asyncio.to_thread(begin)
