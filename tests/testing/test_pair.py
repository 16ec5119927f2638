"""The real client and the consumer, with nothing between them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graceful_ws.client import Backoff, Disconnected, Draining, Event, Nacked, SessionLost
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.testing import (
    Clock,
    GracefulCommunicator,
    LocalNode,
    NotReady,
    connect_in_process,
    settle,
)
from graceful_ws.testing import work as work_module
from tests.consumers import Broken, Denying, Echo

ECHO = Echo.as_asgi()
nodes = pytest.mark.usefixtures("graceful_node")


@nodes
async def test_client_sends_and_receives() -> None:
    async with connect_in_process(ECHO, "/ws/") as client:
        assert await client.send({"result": 1}) == 1
        assert (await client.receive()).data == {"result": 1}
        with pytest.raises(Nacked):
            await client.send({"fail": "on purpose"})


@nodes
async def test_client_reconnects_by_itself_and_loses_nothing() -> None:
    events: list[Event] = []
    async with connect_in_process(ECHO, "/ws/", on_event=events.append) as client:
        for n in range(5):
            await client.send(n)
            client.abort()
        assert [(await client.receive()).data for _ in range(5)] == list(range(5))
    lost = [event.code for event in events if isinstance(event, Disconnected)]
    assert lost[:-1] == [1006] * (len(lost) - 1)
    assert len(lost) > 1


async def test_client_moves_in_a_drain(graceful_node: LocalNode) -> None:
    events: list[Event] = []
    async with connect_in_process(ECHO, "/ws/", on_event=events.append) as client:
        await client.send("one")
        async with graceful_node.draining(window=10) as drain:
            await settle()
            assert not drain.node.connections  # before its end
        await client.send("two")
        assert [(await client.receive()).data for _ in range(2)] == ["one", "two"]
    assert any(isinstance(event, Draining) for event in events)
    assert not [event for event in events if isinstance(event, Disconnected)][:-1]


@nodes
async def test_delays_of_a_real_client_pass_with_the_clock(clock: Clock) -> None:
    async with connect_in_process(ECHO, "/ws/", backoff=Backoff()) as client:
        client.abort()
        await settle()
        assert client.state == "waiting"
        await clock.advance(1.1)
        assert client.state == "connected"


@nodes
async def test_client_sees_the_silence_of_a_server(clock: Clock) -> None:
    asked = 0

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asked
        asked += 1
        sent, hanging = 0, asked == 1

        async def some(event: dict[str, Any]) -> None:
            nonlocal sent
            sent += 1
            if not hanging or sent <= 2:  # the accept and the welcome
                await send(event)

        await ECHO(scope, receive, some)

    events: list[Event] = []
    async with connect_in_process(hangs, "/ws/", on_event=events.append) as client:
        await clock.advance(30)
        assert client.state == "connected"
    codes = [event.code for event in events if isinstance(event, Disconnected)]
    assert codes[0] == CloseCode.SERVER_SILENT


@nodes
async def test_client_that_was_taken_over_is_closed_for_good() -> None:
    async with connect_in_process(ECHO, "/ws/") as client:
        token = client.session.token
        async with GracefulCommunicator(ECHO, "/ws/", session_token=token):
            with pytest.raises(SessionLost) as caught:
                await client.receive()
            assert caught.value.code == CloseCode.SUPERSEDED


@nodes
@pytest.mark.parametrize(("consumer", "status"), [(Denying, 403), (Broken, 500)])
async def test_refused_client_tries_again(consumer: Any, status: int) -> None:
    events: list[Event] = []
    backoff = Backoff(max_retries=2, base_delay=0, when_exhausted="stop")
    client = connect_in_process(consumer.as_asgi(), "/ws/", backoff=backoff, on_event=events.append)
    client.start()
    with pytest.raises(SessionLost):
        await client.connected()
    reasons = {event.reason for event in events if isinstance(event, Disconnected)}
    assert reasons == {f"refused with HTTP {status}"}
    await client.close()


async def test_pair_without_a_node_says_what_is_missing(transactional_db: None) -> None:
    assert not work_module._work
    with pytest.raises(NotReady, match="graceful_node"):
        connect_in_process(ECHO, "/ws/")


async def test_nothing_is_left_of_a_client(graceful_node: LocalNode) -> None:
    await settle()
    before = asyncio.all_tasks()
    async with connect_in_process(ECHO, "/ws/") as client:
        await client.send("one")
        client.abort()
        await client.send("two")
    await settle()
    assert asyncio.all_tasks() == before
