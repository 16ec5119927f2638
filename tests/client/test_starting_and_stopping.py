"""start(), suspend() and close() at the worst moment: what is over starts nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise

import pytest

from graceful_ws.client import (
    Backoff,
    Disconnected,
    Draining,
    Event,
    RetryScheduled,
    SessionLost,
    StateChanged,
    Welcomed,
    connect,
    dialer,
)
from graceful_ws.core.breaker import Breaker
from tests.support.waiting import eventually

from .peers import Visit, client_of, echoing, lowest, serving


def states(events: list[Event]) -> list[str]:
    return [event.new for event in events if isinstance(event, StateChanged)]


async def under_way(task: asyncio.Task[None]) -> None:
    """It has done what it can, and waits for the server."""
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done


def ours() -> list[str]:
    """The tasks of clients, by name."""
    names = ("graceful client", "probe endpoints", "move to another connection")
    tasks = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in tasks if name in names or name.startswith("dial ")]


class Unhurried:
    """A server that does not answer a close before it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()

    async def leave(self, visit: Visit, kind: str = "", **fields: object) -> None:
        """Reads no more, says something as soon as it may, and then sees the close."""
        visit.ws.transport.pause_reading()
        await self.may_answer.wait()
        if kind == "welcome":
            await visit.welcome()
        elif kind:
            await visit.say(kind, **fields)
        visit.ws.transport.resume_reading()
        await visit.gone()


# --- stopping ----------------------------------------------------------------------------------


async def test_start_while_the_client_suspends_waits_and_goes_on_with_the_session() -> None:
    server = Unhurried()
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        await visit.welcome()
        if visit.number == 1:
            await server.leave(visit)
        else:
            await visit.read("bye")

    async with serving(script) as peer:
        client = client_of(peer, events)
        client.start()
        await client.connected()
        suspending = asyncio.create_task(client.suspend())
        await under_way(suspending)
        client.start()
        assert len(peer.dials) == 1
        server.may_answer.set()
        await suspending
        await eventually(lambda: client.resumes == 1)
        assert client.close_codes == {4000: 1}
        await client.close()
        assert len(peer.dials) == 2
    assert states(events) == [
        "connecting",
        "connected",
        "disconnected",
        "connecting",
        "connected",
        "closed",
    ]


async def test_drain_notice_that_crosses_the_close_starts_no_move() -> None:
    server = Unhurried()
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await server.leave(visit, "drain", reconnect_in=0, close_in=5000)

    async with serving(script) as peer:
        client = client_of(peer, events)
        client.start()
        await client.connected()
        suspending = asyncio.create_task(client.suspend())
        await under_way(suspending)
        server.may_answer.set()
        await suspending
        assert (client.state, ours()) == ("disconnected", [])
        assert not [event for event in events if isinstance(event, Draining)]
        assert len(peer.dials) == 1
        await client.close()


async def test_welcome_that_crosses_the_close_connects_nothing() -> None:
    server = Unhurried()
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        await visit.read_hello()
        await server.leave(visit, "welcome")

    async with serving(script) as peer:
        # Two endpoints, which a connected client would measure now and then.
        client = connect([peer.url, f"{peer.url}other"], random=lowest, on_event=events.append)
        client.start()
        await eventually(lambda: peer.visits and peer.visits[0].hello)
        closing = asyncio.create_task(client.close())
        await under_way(closing)
        server.may_answer.set()
        await closing
        assert (client.state, ours()) == ("closed", [])
        assert not [event for event in events if isinstance(event, Welcomed)]
        assert client.endpoint is None


async def test_drain_notice_that_crosses_the_bye_starts_no_move() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("bye")
        await visit.say("drain", reconnect_in=0, close_in=60_000)
        # A client that moves now would be here again; this one waits for the close.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await visit.gone()

    async with serving(script) as peer:
        async with client_of(peer) as client:
            pass
        assert len(peer.dials) == 1
        assert client.close_codes == {1000: 1}
        assert peer.visits[0].ws.close_code == 1000


async def test_cancelled_close_leaves_nobody_waiting() -> None:
    said_bye = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("bye")
        said_bye.set()
        await visit.gone()

    async with serving(script) as peer:
        client = client_of(peer)
        client.start()
        await client.connected()
        sending = asyncio.create_task(client.send("x"))
        reading = asyncio.create_task(client.receive())
        closing = asyncio.create_task(client.close())
        await said_bye.wait()
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        async with asyncio.timeout(8):  # long before the silence of the server says something
            for waiting in (sending, reading):
                with pytest.raises(SessionLost):
                    await waiting
        assert (client.state, ours()) == ("closed", [])


async def test_two_that_close_at_once_wait_for_the_same_end() -> None:
    async with serving(echoing) as peer:
        client = client_of(peer)
        client.start()
        await client.connected()
        await asyncio.gather(client.close(), client.close(), client.suspend())
        assert (client.state, ours()) == ("closed", [])
        assert client.close_codes.total() == 1


async def test_client_whose_session_the_server_ended_measures_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialer, "PROBE_EVERY", 0.05)

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await eventually(lambda: other.probes >= 3)
        await visit.ws.close(4501, "another client")

    async with serving(echoing) as other, serving(script) as peer:
        client = connect([peer.url, other.url], random=lowest)
        other.refusing = 100
        client.start()
        await eventually(lambda: client.state == "closed")
        await eventually(lambda: not ours())


# --- starting ----------------------------------------------------------------------------------


async def test_start_of_a_connected_client_does_not_cut_the_next_back_off_short() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.ws.close(1012)

    def start_again(event: Event) -> None:
        if isinstance(event, Welcomed):
            client.start()

    async with serving(script) as peer:
        backoff = Backoff(base_delay=0.2)
        client = client_of(peer, backoff=backoff, on_event=start_again)
        client.start()
        await eventually(lambda: len(peer.dials) >= 3)
        assert min(later - sooner for sooner, later in pairwise(peer.dials)) > 0.19
        await client.close()


@pytest.mark.parametrize("is_open", [True, False], ids=["breaker open", "refused"])
async def test_start_whenever_a_try_is_put_off_does_not_freeze_the_loop(is_open: bool) -> None:
    turns = 0
    turns_at: list[int] = []

    def start_again(event: Event) -> None:
        if isinstance(event, RetryScheduled) and len(turns_at) < 1000:  # or it never ended
            turns_at.append(turns)
            client.start()

    async with serving(echoing) as peer:
        peer.refusing = 5
        breaker = Breaker(failures=1 if is_open else 10, open_for=30)
        if is_open:
            breaker.failed(asyncio.get_running_loop().time())
        client = client_of(peer, on_event=start_again, breakers={peer.url: breaker})
        client.start()
        for _ in range(1000):
            await asyncio.sleep(0)
            turns += 1
        if is_open:
            assert client.state == "parked"
        else:
            await eventually(lambda: client.state == "connected")
        assert turns_at and len(set(turns_at)) == len(turns_at)  # a turn for each, at least
        await client.close()


async def test_request_waits_for_the_trial_that_is_under_way() -> None:
    welcome = asyncio.Event()

    async def script(visit: Visit) -> None:
        await welcome.wait()
        await echoing(visit)

    async with serving(script) as peer:
        breaker = Breaker(failures=1, open_for=30)
        breaker.failed(asyncio.get_running_loop().time() - 31)
        async with asyncio.timeout(5):
            client = client_of(peer, breakers={peer.url: breaker})
            client.start()
            await eventually(lambda: peer.visits)
            assert breaker.retry_after(asyncio.get_running_loop().time()) > 0
            asking = asyncio.create_task(client.request("x"))
            done, _ = await asyncio.wait([asking], timeout=0.05)
            assert not done
            welcome.set()
            assert await asking == "x"
            await client.close()


async def test_suspending_twice_tells_of_one_loss() -> None:
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.gone()

    async with serving(script) as peer:
        async with client_of(peer, events) as client:
            await client.suspend()
            await client.suspend()
        assert [event.code for event in events if isinstance(event, Disconnected)] == [4000]
