"""Time passes as far as a test says, for the connection, the node and the database alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import Session
from graceful_ws.testing import (
    Clock,
    ConnectionEnded,
    GracefulCommunicator,
    NotReady,
    fake_clock,
    running_node,
    settle,
)
from graceful_ws.testing.line import Line, websocket_scope
from tests.consumers import Dozing, Echo, Impatient, Present, Scarce

pytestmark = pytest.mark.usefixtures("graceful_node")

ECHO = Echo.as_asgi()


async def test_sleeps_limits_and_django_follow(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    begun, at = loop.time(), timezone.now()
    sleeping = asyncio.create_task(asyncio.sleep(60))
    await clock.advance(59)
    assert not sleeping.done()
    await clock.advance(1)
    assert sleeping.done()
    assert 60 <= loop.time() - begun < 70
    assert timedelta(seconds=60) <= timezone.now() - at < timedelta(seconds=70)


async def test_timers_run_in_their_order(clock: Clock) -> None:
    ran: list[int] = []
    loop = asyncio.get_running_loop()

    def chain(n: int) -> None:
        ran.append(n)
        loop.call_later(1, ran.append, n + 1)

    loop.call_later(3, chain, 30)
    loop.call_later(1, chain, 10)
    await clock.advance(10)
    assert ran == [10, 11, 30, 31]


@pytest.mark.sqlite_only
async def test_timer_that_comes_a_nanosecond_early_is_not_waited_for_for_ever(
    clock: Clock,
) -> None:
    loop = asyncio.get_running_loop()
    until, there = loop.time() + 0.5, asyncio.Event()

    def look() -> None:
        left = until - loop.time()
        if left > 1e-9:
            loop.call_at(until - 5e-10, look)
        elif left > 0:
            loop.call_soon(look)  # as asyncio.timeout does with next to nothing
        else:
            there.set()

    look()
    await clock.advance(0.6)
    assert there.is_set()


async def test_time_does_not_go_back(clock: Clock) -> None:
    with pytest.raises(ValueError, match="back"):
        await clock.advance(-1)


async def test_clock_is_the_real_one_afterwards() -> None:
    loop = asyncio.get_running_loop()
    now, time = timezone.now, loop.time()
    with fake_clock() as clock:
        await clock.advance(200)
    assert timezone.now is now
    assert loop.time() - time < 100


async def test_live_client_answers_every_ping(clock: Clock) -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await clock.advance(120)
        assert client.closed is None
        assert await client.send({"result": "here", "echo": False}) == "here"


async def test_silent_client_is_closed_after_three_misses(clock: Clock) -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        client.silent = True
        await clock.advance(11)  # 2.5 to 5 s without traffic, and 3 s for each of three pings
        assert client.closed is None
        await clock.advance(4)
        assert client.closed is not None
        assert client.closed.code == CloseCode.HEARTBEAT_LOST
        client.silent = False
        assert (await client.resume()).resumed


async def test_idle_client_is_closed(clock: Clock) -> None:
    async with GracefulCommunicator(Dozing.as_asgi(), "/ws/") as client:
        await clock.advance(1)
        assert (await client.wait_closed()).code == CloseCode.IDLE


async def test_client_that_says_no_hello_is_closed(clock: Clock) -> None:
    line = Line(
        ECHO,
        websocket_scope("/", subprotocols=["graceful.v1"]),
        lambda data: None,
        lambda: None,
    )
    await settle()
    assert line.accepted
    await clock.advance(3)
    assert line.ended is None
    await clock.advance(2.1)
    assert line.ended is not None
    assert line.ended.code == CloseCode.HELLO_TIMEOUT
    await line.over()


async def test_handler_runs_out_of_time(clock: Clock) -> None:
    async with GracefulCommunicator(Impatient.as_asgi(), "/ws/") as client:
        answer = client.send_nowait({"sleep": 30})
        await clock.advance(0.6)
        assert "timeout" in str(answer.exception())


async def test_rate_is_that_of_the_clock(clock: Clock) -> None:
    async with GracefulCommunicator(Scarce.as_asgi(), "/ws/") as client:
        answers = [client.send_nowait({"echo": False}) for _ in range(4)]
        await settle()
        assert [answer.done() for answer in answers] == [True, True, True, False]
        await clock.advance(101)  # a message each 100 s
        assert answers[3].done()


async def test_session_expires_in_the_database_too(
    clock: Clock, limits: Callable[..., None]
) -> None:
    limits(resume_window=600)
    client = GracefulCommunicator(ECHO, "/ws/")
    await client.connect()
    await client.send({"echo": False})
    await client.drop()
    await clock.advance(590)
    assert (await client.resume()).resumed
    await client.drop()
    await clock.advance(700)
    assert (await Session.objects.aget()).state == Session.State.ENDED
    resumed = await client.resume()
    assert not resumed.resumed
    assert [gap.reason for gap in resumed.gaps] == ["expired"]
    await client.bye()


async def test_absence_is_announced_after_its_grace(clock: Clock) -> None:
    application = Present.as_asgi()
    async with GracefulCommunicator(application, "/ws/") as ann:
        await clock.advance(60)  # a node calls nobody absent who could not have come back
        bob = GracefulCommunicator(application, "/ws/")
        await bob.connect()
        await settle()
        while True:
            message = await ann.receive()
            if message.data["client_id"] == bob.session_id and message.stream == "news":
                break
        await settle()
        await bob.drop()
        await clock.advance(10)
        told = [await ann.receive() for _ in range(len(ann._messages))]
        assert not [m for m in told if m.data["type"] == "client_exit"]
        await clock.advance(15)
        gone = await ann.receive()
        assert (gone.data["type"], gone.data["cause"]) == ("client_exit", "timeout")


@pytest.mark.sqlite_only
async def test_wait_in_the_test_ends_when_the_clock_is_advanced_beside_it(clock: Clock) -> None:
    async with GracefulCommunicator(ECHO, "/ws/", within=30) as client:
        waiting = asyncio.create_task(client.receive())
        await clock.advance(31)
        with pytest.raises(TimeoutError, match="within 30 s"):
            await waiting


async def test_clock_without_a_node_says_what_is_missing(request: Any) -> None:
    # In another event loop than the node's.
    def elsewhere() -> None:
        async def run() -> None:
            with fake_clock():
                pass

        asyncio.run(run())

    with pytest.raises(NotReady, match="graceful_node"):
        await asyncio.to_thread(elsewhere)


async def test_second_node_in_one_loop_is_refused() -> None:
    with pytest.raises(NotReady, match="already"):
        async with running_node():
            pass


async def test_connection_that_ended_tells_who_waits(clock: Clock) -> None:
    async with GracefulCommunicator(ECHO, "/ws/", within=60) as client:
        client.silent = True
        waiting = asyncio.create_task(client.receive())
        await clock.advance(20)
        with pytest.raises(ConnectionEnded, match="4102"):
            await waiting
