"""What can go wrong with a move to another connection, and with breakers that clients share."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise

import pytest
from websockets.exceptions import ConnectionClosed

from graceful_ws.client import (
    Backoff,
    ClientSession,
    Disconnected,
    Event,
    GracefulClient,
    MessageNacked,
    RequestTimeout,
    SessionLost,
    StateChanged,
    connect,
)
from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.endpoints import Endpoints
from tests.support.waiting import eventually

from .kit import T0, joined, message, sent, take
from .peers import FAST, Visit, client_of, echoing, lowest, serving

NOW = {"reconnect_in": 0, "close_in": 60_000}


async def staying(visit: Visit) -> None:
    """Says drain, and goes on working for as long as the client stays."""
    await visit.welcome()
    await visit.say("drain", **NOW)
    with contextlib.suppress(ConnectionClosed):
        while (frame := await visit.read())["type"] != "bye":
            if frame["type"] == "message":
                seq = frame["seq"]
                await visit.say("ack", seq=seq, results={str(seq): f"visit {visit.number}"})


def gaps(dials: list[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(dials)]


def losses(events: list[Event]) -> list[tuple[int, bool]]:
    return [(event.code, event.final) for event in events if isinstance(event, Disconnected)]


# --- how fast ----------------------------------------------------------------------------------


async def test_servers_that_drain_at_every_welcome_are_dialled_as_the_back_off_says() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **NOW)
        await visit.read("bye")

    async with serving(script) as peer:
        client = client_of(peer, backoff=Backoff(base_delay=0.2))
        client.start()
        await eventually(lambda: len(peer.dials) >= 4)
        first, second, third = gaps(peer.dials)[:3]
        assert first < 0.2  # a node that was about to drain is left at once
        assert second > 0.19 and third > 0.39
        await client.close()


async def test_refusal_of_a_successor_that_says_when_to_come_back_is_obeyed() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 1:
            peer.refusing, peer.retry_after = 1, "1"
            await staying(visit)
        else:
            await echoing(visit)

    async with serving(script) as peer, client_of(peer) as client:
        await eventually(lambda: len(peer.dials) == 2)
        assert await client.send("x") == "visit 1"
        await eventually(lambda: len(peer.dials) == 3)
        assert gaps(peer.dials)[1] > 0.99


async def test_overloaded_successor_is_asked_again_later_than_one_that_is_away() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await staying(visit)
        elif visit.number == 2:
            await visit.read_hello()
            await visit.ws.close(CloseCode.TRY_AGAIN_LATER)
        else:
            await echoing(visit)

    async with serving(script) as peer, client_of(peer, backoff=Backoff(base_delay=0.1)) as client:
        await eventually(lambda: len(peer.dials) == 3)
        assert gaps(peer.dials)[1] > 0.39  # not 0.1
        assert client.close_codes[1013] == 1


# --- what fails --------------------------------------------------------------------------------


async def test_credentials_that_cannot_be_had_for_a_moment_do_not_end_moves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    def headers() -> dict[str, str]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("no credentials just now")
        return {}

    async def script(visit: Visit) -> None:
        await (staying(visit) if visit.number == 1 else echoing(visit))

    async with serving(script) as peer, client_of(peer, headers=headers) as client:
        await eventually(lambda: client.node == "visit 2")
        assert await client.send("x") == "x"
        assert (client.state, calls) == ("connected", 3)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_old_connection_that_is_lost_while_the_successor_waits_is_told_as_lost() -> None:
    welcome = asyncio.Event()
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome()
            await visit.say("drain", **NOW)
            await eventually(lambda: len(peer.visits) == 2 and peer.visits[1].hello)
            visit.ws.transport.abort()
        else:
            await visit.read_hello()
            await welcome.wait()
            await echoing(visit)

    async with serving(script) as peer, client_of(peer, events) as client:
        await eventually(lambda: losses(events) == [(1006, False)])
        assert (client.state, client.endpoint) == ("connecting", None)
        assert client.volatile("nobody is there") is False
        sending = asyncio.create_task(client.send("x"))
        welcome.set()
        assert await sending == "x"
        assert client.state == "connected"
        assert client.close_codes == {1006: 1}
        assert len(peer.dials) == 2
    states = [event.new for event in events if isinstance(event, StateChanged)]
    assert states == ["connecting", "connected", "draining", "connecting", "connected", "closed"]


async def test_adopted_successor_that_is_lost_too_is_followed_by_the_back_off() -> None:
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome()
            await visit.say("drain", **NOW)
            await eventually(lambda: len(peer.visits) == 2 and peer.visits[1].hello)
            visit.ws.transport.abort()
        elif visit.number == 2:
            await visit.read_hello()
            await eventually(lambda: losses(events))
            visit.ws.transport.abort()
        else:
            await echoing(visit)

    async with serving(script) as peer, client_of(peer, events) as client:
        await eventually(lambda: client.node == "visit 3")
        assert losses(events) == [(1006, False), (1006, False)]
        assert gaps(peer.dials)[1] > 0.04


async def test_session_that_is_ended_on_the_old_connection_has_no_successor() -> None:
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome()
            await visit.say("drain", **NOW)
            await eventually(lambda: len(peer.visits) == 2 and peer.visits[1].hello)
            await visit.ws.close(4506, "ended by an operator")
        else:
            await visit.read_hello()
            await visit.gone()

    async with serving(script) as peer:
        with pytest.raises(SessionLost, match="by an operator") as caught:
            async with client_of(peer, events) as client:
                await client.receive()
        assert caught.value.code == 4506
        assert (client.state, len(peer.dials)) == ("closed", 2)
        assert losses(events) == [(4506, True)]


# --- a successor that is somebody else's -------------------------------------------------------


def test_session_that_is_lost_on_a_successor_is_lost_on_the_old_connection() -> None:
    session = ClientSession()
    old = joined(session)
    session.send("mine")
    new = session.connect()
    new.hello()
    failed = new.closed(4403, T0)
    assert [event.code for event in failed if isinstance(event, MessageNacked)] == [
        "other_identity"
    ]
    assert old.receive(message(1, "late"), T0) == []
    session.send("another's")
    assert sent(old) == []
    assert old.closed(4000, T0) == []
    third = joined(session, session_token="another")
    assert [(frame["seq"], frame["data"]) for frame in sent(third)] == [(1, "another's")]
    assert take(session, third.receive(message(1, "first"), T0)) == ["first"]


async def test_client_of_another_identity_leaves_the_old_connection_and_starts_anew() -> None:
    codes: list[int] = []

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await staying(visit)
            codes.append((await visit.gone())[0])
        elif visit.number == 2:
            await visit.read_hello()
            await visit.ws.close(CloseCode.OTHER_IDENTITY)
        else:
            assert "session_token" not in await visit.read_hello()
            await visit.welcome(session_id="another", session_token="another")
            frame = await visit.read("message")
            await visit.say("ack", seq=1, results={"1": [frame["seq"], frame["data"]]})
            await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        await eventually(lambda: codes == [4000])
        assert await client.send("x") == [1, "x"]
        assert client.session_id == "another"
        assert client.close_codes == {4403: 1, 4000: 1}
    assert not peer.errors


# --- breakers that clients share ---------------------------------------------------------------

URL = "ws://127.0.0.1/"


def tried_by_another() -> tuple[Breaker, Endpoints, Endpoints]:
    """A half-open breaker, one who tries, and a bystander."""
    breakers = {URL: Breaker(failures=1, open_for=30)}
    breakers[URL].failed(T0)
    trying, bystander = (Endpoints([URL], lowest, breakers) for _ in range(2))
    assert trying.choose(T0 + 31) == URL
    assert bystander.choose(T0 + 31) is None
    return breakers[URL], trying, bystander


@pytest.mark.parametrize("code", [1000, 1012, 4000])
def test_end_of_a_bystander_frees_nobody_elses_trial(code: int) -> None:
    _, trying, bystander = tried_by_another()
    bystander.ended(URL, code, True, T0 + 32)
    assert bystander.choose(T0 + 32) is None
    trying.ended(URL, code, True, T0 + 33)
    assert bystander.choose(T0 + 33) == URL


def test_trial_that_passed_long_ago_is_not_the_one_that_another_makes_now() -> None:
    breaker, first, second = tried_by_another()
    first.welcomed(URL, T0 + 31)
    while first.proved(URL, T0 + 31):
        pass
    assert breaker.state(T0 + 31) is BreakerState.CLOSED
    breaker.failed(T0 + 40)
    assert second.choose(T0 + 71) == URL
    first.ended(URL, 1012, True, T0 + 72)
    assert first.choose(T0 + 72) is None


async def test_others_come_soon_after_the_trial_of_one_has_passed() -> None:
    loop = asyncio.get_running_loop()
    welcome = asyncio.Event()

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await welcome.wait()
        await echoing(visit)

    async with serving(script) as peer:
        breakers = {peer.url: Breaker(failures=1, open_for=30)}
        breakers[peer.url].failed(loop.time() - 29.9)
        clients = [client_of(peer, breakers=breakers, random=lambda n=n: n / 4) for n in range(4)]
        for client in clients:
            client.start()
        await eventually(lambda: peer.visits)
        done, _ = await asyncio.wait([asyncio.create_task(_all(clients))], timeout=0.1)
        assert not done and len(peer.dials) == 1
        welcome.set()
        async with asyncio.timeout(10):
            await _all(clients)
        assert max(gaps(peer.dials[1:])) > 0.1  # not all at once
        for client in clients:
            await client.close()


async def _all(clients: list[GracefulClient]) -> None:
    for client in clients:
        await client.connected()


async def test_request_that_times_out_after_a_move_blames_nobody() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await visit.say("drain", reconnect_in=0, close_in=4000)
        await visit.gone()

    async def new(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("bye")

    async with serving(old) as first, serving(new) as second:
        urls = [first.url, second.url]
        breakers = {url: Breaker(failures=1) for url in urls}
        async with connect(
            urls, probe=None, random=lowest, backoff=FAST, breakers=breakers
        ) as client:
            asking = asyncio.create_task(client.request("x", timeout=0.5))
            await eventually(lambda: client.endpoint == second.url)
            with pytest.raises(RequestTimeout) as caught:
                await asking
            assert caught.value.sent
            assert [each.breaker for each in client.endpoints] == ["closed", "closed"]
