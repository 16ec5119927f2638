"""Closed for memory (4106) or for its pace (4201): when the asyncio client comes again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from graceful_ws.client import (
    Backoff,
    ErrorTold,
    Event,
    GracefulClient,
    RetryScheduled,
    SessionLost,
    connect,
)
from tests.support.waiting import eventually

from .peers import Visit, client_of, echoing, lowest, serving

PARKED = Backoff(base_delay=0.05, parked_delay=60.0, min_uptime=0.2)


async def reclaims(visit: Visit) -> None:
    """The first connection is closed 4106 after it has said something."""
    if visit.number > 1:
        return await echoing(visit)
    await visit.welcome()
    await visit.say("message", seq=1, data="before")
    await visit.ws.close(4106, "memory 87 % of 512 MiB, idle 412 s")


async def parked(client: GracefulClient) -> None:
    await eventually(lambda: client.state == "parked")


async def test_reclaimed_connection_is_made_again_in_the_slow_lane_only() -> None:
    events: list[Event] = []
    async with serving(reclaims) as peer, client_of(peer, events, backoff=PARKED) as client:
        await parked(client)
        assert [e.delay for e in events if isinstance(e, RetryScheduled)] == [30.0]
        assert client.close_codes == {4106: 1}


async def test_slow_lane_ends_by_itself_and_the_session_goes_on() -> None:
    async with serving(reclaims) as peer:
        backoff = Backoff(parked_delay=0.4, min_uptime=0.2)
        async with client_of(peer, backoff=backoff) as client:
            await eventually(lambda: client.resumes == 1)
            assert peer.dials[1] - peer.dials[0] >= 0.2


async def test_slow_lane_after_4106_is_not_the_last_of_the_tries() -> None:
    events: list[Event] = []
    async with serving(reclaims) as peer:
        backoff = Backoff(max_retries=0, parked_delay=60.0, when_exhausted="stop")
        async with client_of(peer, events, backoff=backoff) as client:
            await parked(client)


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.send("hello"),
        lambda client: client.request("hello"),
        lambda client: asyncio.to_thread(lambda: None),
    ],
    ids=["send", "request", "volatile"],
)
async def test_whoever_sends_something_while_it_is_reclaimed_is_connected_at_once(
    use: Callable[[GracefulClient], Any], request: pytest.FixtureRequest
) -> None:
    async with serving(reclaims) as peer, client_of(peer, backoff=PARKED) as client:
        await parked(client)
        if "volatile" in request.node.name:
            assert not client.volatile("hello")
            await client.connected()
        else:
            assert await use(client) == "hello"
        assert client.resumes == 1
        assert (await client.receive()).data == "before"


async def test_start_ends_the_wait_of_the_reclaimed() -> None:
    async with serving(reclaims) as peer, client_of(peer, backoff=PARKED) as client:
        await parked(client)
        client.start()
        await client.connected()


async def test_reading_is_no_use_of_a_connection() -> None:
    async with serving(reclaims) as peer, client_of(peer, backoff=PARKED) as client:
        await parked(client)
        assert (await client.receive()).data == "before"
        await asyncio.sleep(0.1)
        assert (client.state, len(peer.dials)) == ("parked", 1)


async def test_sending_does_not_end_a_wait_for_a_server_that_is_away() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 1
        client = client_of(peer, backoff=Backoff(base_delay=60))
        client.start()
        await eventually(lambda: client.state == "waiting")
        assert await client.send("x", wait=False) is None
        await asyncio.sleep(0.1)
        assert (client.state, len(peer.dials)) == ("waiting", 1)
        await client.close()


async def test_what_was_on_its_way_when_it_was_reclaimed_is_sent_again_soon() -> None:
    async def script(visit: Visit) -> None:
        if visit.number > 1:
            return await echoing(visit)
        await visit.welcome()
        await visit.read("message")
        await visit.ws.close(4106)

    async with serving(script) as peer, client_of(peer, backoff=PARKED) as client:
        assert await client.send("x") == "x"
        assert client.resent == 1


# --- the rate -------------------------------------------------------------------------------------


async def limits(visit: Visit, retry_after: int) -> None:
    if visit.number > 1:
        hello = await visit.welcome(session_token=None, last_client_seq=1)
        assert (hello["session_token"], hello["pending_from"]) == ("token", 1)
        await visit.say("ack", seq=1, results={"1": "done before"})
        frame = await visit.read("message")
        assert (frame["seq"], frame["data"]) == (2, "b")
        await visit.say("ack", seq=2, results={"2": "done after"})
        await visit.read("bye")
        return
    await visit.welcome()
    for _ in range(2):
        await visit.read("message")
    await visit.say("error", code="rate", detail="too many", retry_after=retry_after)
    await visit.ws.close(4201, "too many")


async def test_server_that_says_when_to_come_back_is_obeyed_and_nothing_is_lost() -> None:
    events: list[Event] = []
    async with (
        serving(lambda visit: limits(visit, 700)) as peer,
        client_of(peer, events) as client,
    ):
        begun = time.monotonic()
        results = await asyncio.gather(client.send("a"), client.send("b"))
        assert results == ["done before", "done after"]
        assert time.monotonic() - begun >= 0.69
        assert (client.resumes, client.resent) == (1, 1)
    assert ErrorTold("rate", "too many", None, 0.7) in events
    [retry] = [event for event in events if isinstance(event, RetryScheduled)]
    assert 0.6 < retry.delay <= 0.7
    assert not peer.errors


async def test_servers_word_has_a_bound_and_the_application_may_come_sooner() -> None:
    events: list[Event] = []
    async with (
        serving(lambda visit: limits(visit, 10**9)) as peer,
        client_of(peer, events) as client,
    ):
        sending = [asyncio.create_task(client.send(data)) for data in "ab"]
        await eventually(lambda: client.state == "waiting")
        [retry] = [event for event in events if isinstance(event, RetryScheduled)]
        assert 299 < retry.delay <= 300
        client.start()
        assert await asyncio.gather(*sending) == ["done before", "done after"]
    assert not peer.errors


# --- a successor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4503, 4505])
async def test_successor_that_is_told_to_stop_is_not_tried_again_while_the_old_one_works(
    code: int,
) -> None:
    leave = asyncio.Event()

    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", reconnect_in=0, close_in=60_000)
        await visit.read("message")
        await visit.say("ack", seq=1, results={"1": "old"})
        await leave.wait()
        await visit.ws.close(1012)

    async def refuses(visit: Visit) -> None:
        await visit.read_hello()
        await visit.ws.close(code, "no")

    async with serving(old) as first, serving(refuses) as second:
        client = connect(
            [first.url, second.url], backoff=Backoff(base_delay=0.05), random=lowest, probe=None
        )
        async with client:
            await eventually(lambda: client.close_codes == {code: 1})
            assert await client.send("x") == "old"
            await asyncio.sleep(0.3)
            assert len(second.dials) == 1
            first.refusing = 100
            leave.set()
            with pytest.raises(SessionLost, match=str(code)):  # it is what it comes to
                await client.receive()
            assert len(second.dials) == 2
