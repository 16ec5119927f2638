"""Which of several real endpoints the client connects to, and when it stops asking one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from graceful_ws.client import Backoff, GracefulClient, connect, dialer, probing
from graceful_ws.core.breaker import Breaker, BreakerState
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

from .peers import FAST, Peer, Visit, echoing, lowest, serving


@contextlib.asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"ws://127.0.0.1:{listening.getsockname()[1]}/"


async def test_nearer_of_two_endpoints_is_chosen() -> None:
    async with serving(echoing) as peer, Proxy(peer.port) as near, Proxy(peer.port) as far:
        near.delay(0.005)
        far.delay(0.08)
        for _ in range(4):
            async with connect([far.ws(), near.ws()]) as client:
                assert client.endpoint == near.ws()
                known = {each.url: each.rtt for each in client.endpoints}
                assert known[near.ws()] is not None and known[near.ws()] < 0.08
    assert not peer.errors


@pytest.mark.parametrize("answer", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY])
async def test_endpoint_that_says_it_is_not_ready_is_not_chosen(answer: HTTPStatus) -> None:
    async with serving(echoing) as sick, serving(echoing) as well:
        sick.probe_answer = answer
        for _ in range(4):
            async with connect([sick.url, well.url], random=lowest) as client:
                assert client.endpoint == well.url
    assert (sick.probes, len(sick.dials)) == (4, 0)


async def test_any_other_answer_shows_how_near_it_is() -> None:
    async with serving(echoing) as peer, serving(echoing) as other:
        peer.probe_answer = other.probe_answer = HTTPStatus.NOT_FOUND
        async with connect([peer.url, other.url], random=lowest) as client:
            assert client.endpoint == peer.url
            assert [each.rtt is None for each in client.endpoints] == [False, False]


async def test_dead_endpoint_does_not_delay_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_TIMEOUT", 20.0)
    async with serving(echoing) as peer, black_hole() as silent:
        for dead in (silent, nobody()):
            for urls in ([dead, peer.url], [peer.url, dead]):
                started = time.monotonic()
                async with connect(urls, random=lowest) as client:
                    assert client.endpoint == peer.url
                    assert client.refused == 0
                assert time.monotonic() - started < 10  # not the time of a probe


async def test_without_any_answer_one_is_dialled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "PROBE_TIMEOUT", 0.2)
    async with serving(echoing) as peer, Proxy(peer.port) as proxy:
        proxy.delay(0.15)  # twice for a round trip
        async with connect([proxy.ws(), proxy.ws("/other")], random=lowest) as client:
            assert client.endpoint == proxy.ws()
    assert peer.probes == 2


async def test_without_probes_the_first_choice_is_random() -> None:
    async with serving(echoing) as peer, serving(echoing) as other:
        async with connect([peer.url, other.url], probe=None, random=lambda: 0.9) as client:
            assert client.endpoint == other.url
        assert peer.probes == other.probes == 0


async def test_single_endpoint_is_not_probed() -> None:
    async with serving(echoing) as peer, connect(peer.url):
        assert peer.probes == 0


async def test_others_are_measured_while_connected_and_nobody_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialer, "PROBE_EVERY", 0.1)
    async with serving(echoing) as peer, Proxy(peer.port) as far, serving(echoing) as other:
        far.delay(0.1)
        async with connect([far.ws(), nobody(), other.url], random=lowest) as client:
            assert client.endpoint == other.url
            await eventually(lambda: peer.probes >= 4)
            assert client.endpoint == other.url
            assert client.close_codes == {}
            rtts = {each.url: each.rtt for each in client.endpoints}
            assert rtts[far.ws()] is not None and rtts[far.ws()] > 0.15


async def test_lost_endpoint_is_left_for_another_at_the_first_try() -> None:
    async def dies(visit: Visit) -> None:
        await visit.welcome()
        visit.ws.transport.abort()

    async with serving(dies) as peer, serving(echoing) as other:
        urls = [peer.url, other.url]
        async with connect(urls, backoff=FAST, random=lowest, probe=None) as client:
            await eventually(lambda: client.endpoint == other.url)
            assert (len(peer.dials), len(other.dials)) == (1, 1)
            assert await client.send(1) == 1


async def test_round_trip_is_known_soon_after_the_welcome() -> None:
    async with serving(echoing) as peer, connect(peer.url) as client:
        rtt = await eventually(lambda: client.rtt)
        assert rtt is not None and 0 < rtt < 1


# --- the circuit breaker -----------------------------------------------------------------------


def one_client(peer: Peer, breakers: dict[str, Breaker]) -> GracefulClient:
    backoff = Backoff(base_delay=0.01, max_delay=0.01, parked_delay=0.02, min_uptime=0.2)
    return connect(peer.url, backoff=backoff, random=lowest, breakers=breakers)


def breaker_state(client: GracefulClient) -> BreakerState:
    return client.endpoints[0].breaker


async def test_endpoint_that_fails_ten_times_is_left_alone_for_a_while() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 10
        breakers = {peer.url: Breaker(open_for=0.5)}
        async with one_client(peer, breakers) as client:
            assert len(peer.dials) == 11
            assert peer.dials[10] - peer.dials[9] >= 0.5
            # Twenty probes on the one connection: the welcome, and nineteen pongs.
            await eventually(lambda: breaker_state(client) is BreakerState.CLOSED)


async def test_one_failure_of_a_half_open_endpoint_opens_the_breaker_again() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        if visit.number > 1:
            return await echoing(visit)
        for _ in range(10):
            ping = await visit.read("ping")
            await visit.say("pong", sent_at=ping["sent_at"])
        visit.ws.transport.abort()
        return None

    async with serving(script) as peer:
        peer.refusing = 10
        breakers = {peer.url: Breaker(open_for=0.5)}
        async with one_client(peer, breakers) as client:
            await eventually(lambda: len(peer.dials) == 12)
            assert peer.dials[11] - peer.dials[10] >= 0.5
            await eventually(lambda: breaker_state(client) is BreakerState.CLOSED)


async def test_clients_may_share_what_they_know_of_an_endpoint() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 10
        breakers = {peer.url: Breaker(open_for=0.5)}
        clients = [one_client(peer, breakers) for _ in range(5)]
        for client in clients:
            client.start()
        await eventually(lambda: breakers[peer.url].retry_after(_now()) > 0)
        assert len(peer.dials) == 10
        assert {client.state for client in clients} <= {"parked", "connecting", "waiting"}
        await asyncio.gather(*(client.connected() for client in clients))
        assert len(peer.dials) == 15
        for client in clients:
            await client.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
