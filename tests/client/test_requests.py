"""Requests: an answer in time, or the certainty that nothing will happen, wherever there is one."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from graceful_ws.client import CircuitOpen, GracefulError, Nacked, RequestTimeout
from graceful_ws.core.breaker import Breaker
from tests.support.waiting import eventually

from .peers import Visit, client_of, echoing, serving


async def test_request_returns_what_the_handler_returned() -> None:
    async with serving(echoing) as peer, client_of(peer) as client:
        assert await client.request({"n": 1}) == {"n": 1}


async def test_busy_server_is_asked_three_times_50_ms_apart_and_doubling() -> None:
    seen: list[tuple[float, int]] = []

    async def script(visit: Visit) -> None:
        await visit.welcome()
        while True:
            frame = await visit.read("message")
            seen.append((time.monotonic(), frame["seq"]))
            if frame["data"] == "next":
                return await visit.say("ack", seq=1, results={"1": "done"})
            await visit.say("nack", seq=1, code="try_again", retry=True)

    async with serving(script) as peer, client_of(peer) as client:
        with pytest.raises(Nacked) as caught:
            await client.request("busy")
        assert caught.value.code == "try_again"
        assert [seq for _, seq in seen] == [1, 1, 1]
        waits = [later[0] - sooner[0] for sooner, later in pairwise(seen)]
        assert waits[0] >= 0.05 and waits[1] >= 0.1
        # It was taken back: the next one has its number.
        assert await client.send("next") == "done"
        assert seen[-1][1] == 1


async def test_server_says_when_to_ask_again() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await visit.say("nack", seq=1, code="try_again", retry=True, retry_after=300)
        began = time.monotonic()
        await visit.read("message")
        assert time.monotonic() - began >= 0.29
        await visit.say("ack", seq=1)
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert await client.request("x") is None
    assert not peer.errors


async def test_answer_that_does_not_come_in_time_may_still_come() -> None:
    later = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await later.wait()
        await visit.say("ack", seq=1)
        frame = await visit.read("message")
        await visit.say("ack", seq=frame["seq"], results={str(frame["seq"]): frame["seq"]})
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        with pytest.raises(RequestTimeout) as caught:
            await client.request("slow", timeout=0.1)
        assert caught.value.sent
        assert isinstance(caught.value, TimeoutError | GracefulError)
        assert client.session.waiting == 1
        later.set()
        assert await client.send("x") == 2


async def test_request_that_never_left_is_taken_back() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 3
        client = client_of(peer)
        client.start()
        with pytest.raises(RequestTimeout) as caught:
            await client.request("too late", timeout=0.02)
        assert not caught.value.sent
        assert client.session.waiting == 0
        assert await client.send("first") == "first"
        await client.close()
    assert [visit.number for visit in peer.visits] == [1]


async def test_cancelled_request_that_never_left_is_taken_back() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 3
        client = client_of(peer)
        client.start()
        task = asyncio.create_task(client.request("nobody waits"))
        await eventually(lambda: client.session.waiting == 1)
        task.cancel()
        await asyncio.wait([task])
        assert client.session.waiting == 0
        await client.close()


async def test_request_fails_at_once_when_no_endpoint_works() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 100
        client = client_of(peer, breakers={peer.url: Breaker(failures=2, open_for=30)})
        client.start()
        await eventually(lambda: client.endpoints[0].breaker == "open")
        began = time.monotonic()
        with pytest.raises(CircuitOpen) as caught:
            await client.request("x")
        assert time.monotonic() - began < 8
        assert 20 < caught.value.retry_after <= 30
        assert client.session.waiting == 0
        await client.close()


async def test_requests_that_time_out_in_a_row_open_the_breaker() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        for n in range(1, 5):
            frame = await visit.read("message")
            if frame["data"] == "answer":
                await visit.say("ack", seq=n)
        await visit.read("bye")

    async with serving(script) as peer:
        breakers = {peer.url: Breaker(failures=2)}
        async with client_of(peer, breakers=breakers) as client:
            for data in ("silence", "answer", "silence", "silence"):
                assert client.endpoints[0].breaker == "closed"
                if data == "answer":
                    await client.request(data)
                else:
                    with pytest.raises(RequestTimeout):
                        await client.request(data, timeout=0.1)
            assert client.endpoints[0].breaker == "open"
            assert client.state == "connected"  # a connection is not left for it


async def test_full_queue_counts_against_the_time_of_a_request() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        for n in range(100):
            await client.send(n, wait=False)
        with pytest.raises(RequestTimeout) as caught:
            await client.request("x", timeout=0.1)
        assert not caught.value.sent
        assert client.session.waiting == 100
