"""Make before break: a client that is told to move loses nothing and starts nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from graceful_ws.client import Backoff, Event, GracefulClient, StateChanged, connect
from tests.support.waiting import eventually

from .peers import FAST, Peer, Visit, lowest, serving

DRAIN = {"reconnect_in": 100, "close_in": 60_000, "reason": "deploy"}


@contextlib.asynccontextmanager
async def two_nodes(old: Any, new: Any) -> AsyncIterator[tuple[Peer, Peer]]:
    async with serving(old) as first, serving(new) as second:
        yield first, second
        assert not first.errors and not second.errors


def client_of(*peers: Peer, events: list[Event] | None = None) -> GracefulClient:
    return connect(
        [peer.url for peer in peers],
        backoff=FAST,
        probe=None,
        random=lowest,
        on_event=None if events is None else events.append,
    )


async def staying(visit: Visit) -> None:
    """The node that a client moves to."""
    await visit.welcome(session_token=None)
    while (frame := await visit.read())["type"] != "bye":
        if frame["type"] == "message":
            await visit.say("ack", seq=frame["seq"], results={str(frame["seq"]): "new"})


async def test_client_moves_at_its_slot_and_leaves_the_old_connection_with_4000() -> None:
    codes: list[int] = []
    events: list[Event] = []

    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **DRAIN)
        codes.append((await visit.gone())[0])

    async with two_nodes(old, staying) as (first, second):
        async with client_of(first, second, events=events) as client:
            await eventually(lambda: client.endpoint == second.url)
            assert client.state == "connected"
            assert await client.send("x") == "new"
            await eventually(lambda: codes == [4000])
        assert client.close_codes == {1000: 1}
        assert (len(first.dials), len(second.dials)) == (1, 1)
        assert second.visits[0].hello["attempt"] == 2
    states = [event.new for event in events if isinstance(event, StateChanged)]
    assert states == ["connecting", "connected", "draining", "connected", "closed"]


async def test_client_waits_until_nothing_is_unacknowledged_and_sends_nothing_new() -> None:
    quiet = asyncio.Event()

    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **DRAIN)
        assert (await visit.read("message"))["data"] == "before"
        await asyncio.sleep(0.4)  # a handler that takes its time
        quiet.set()
        await visit.say("ack", seq=1, results={"1": "old"})
        await visit.gone()

    async def new(visit: Visit) -> None:
        assert quiet.is_set()
        await visit.welcome(session_token=None, last_client_seq=1)
        frame = await visit.read("message")
        assert (frame["seq"], frame["data"]) == (2, "during")
        await visit.say("ack", seq=2, results={"2": "new"})
        await visit.read("bye")

    async with two_nodes(old, new) as (first, second), client_of(first, second) as client:
        before = asyncio.create_task(client.send("before"))
        await asyncio.sleep(0.2)
        during = asyncio.create_task(client.send("during"))
        assert await before == "old"
        assert await during == "new"
        assert client.resent == 0


async def test_client_leaves_unacknowledged_messages_behind_before_the_server_closes() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", reconnect_in=0, close_in=4200)
        await visit.read("message")
        await visit.gone()

    async with two_nodes(old, staying) as (first, second), client_of(first, second) as client:
        async with asyncio.timeout(4):  # long before the heartbeat would say something
            assert await client.send("x") == "new"
        assert client.resent == 1


async def test_messages_flow_on_the_old_connection_until_the_welcome_of_the_new_one() -> None:
    hello = asyncio.Event()

    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **DRAIN)
        await hello.wait()
        await visit.say("message", seq=1, data="from the old one")
        await visit.gone()

    async def new(visit: Visit) -> None:
        assert (await visit.read_hello())["last_seq_id"] == 0
        hello.set()
        await asyncio.sleep(0.2)
        await visit.welcome(session_token=None, head=1)
        await visit.say("message", seq=1, data="a copy")
        await visit.say("message", seq=2, data="from the new one")
        await visit.say("ping", sent_at=1)
        assert (await visit.read("pong"))["seq"] == 2
        await visit.read("bye")

    async with two_nodes(old, new) as (first, second), client_of(first, second) as client:
        got = [(await client.receive()).data for _ in range(2)]
        assert got == ["from the old one", "from the new one"]
        await eventually(lambda: client.endpoint == second.url)
        await asyncio.sleep(0.05)


async def test_client_that_is_refused_stays_and_tries_again() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **DRAIN)
        await visit.read("message")
        await visit.say("ack", seq=1, results={"1": "old"})
        await visit.gone()

    async with serving(old) as first, serving(staying) as second:
        second.refusing = 1
        slowly = Backoff(base_delay=0.5)
        async with connect(
            [first.url, second.url], backoff=slowly, random=lowest, probe=None
        ) as client:
            first.refusing = 100
            await eventually(lambda: client.refused == 1)
            assert (client.state, client.endpoint) == ("draining", first.url)
            assert await client.send("x") == "old"
            await eventually(lambda: client.endpoint == second.url)
            assert await client.send("y") == "new"
            assert client.close_codes == {}


async def test_old_connection_that_ends_while_the_new_one_is_dialled_costs_no_back_off() -> None:
    leave = asyncio.Event()

    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", reconnect_in=0, close_in=60_000)
        await leave.wait()
        await visit.ws.close(1012)

    async def new(visit: Visit) -> None:
        leave.set()
        await asyncio.sleep(0.3)
        await staying(visit)

    async with two_nodes(old, new) as (first, second), client_of(first, second) as client:
        await eventually(lambda: client.endpoint == second.url)
        assert await client.send("x") == "new"
        assert (len(first.dials), len(second.dials)) == (1, 1)


async def test_server_that_closes_before_the_slot_is_resumed_as_after_any_close() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", reconnect_in=60_000, close_in=60_000)
        await visit.ws.close(1012)

    async with two_nodes(old, staying) as (first, second), client_of(first, second) as client:
        await eventually(lambda: client.resumes)
        assert client.close_codes == {1012: 1}
        assert await client.send("x") == "new"


async def test_node_that_drains_as_soon_as_it_welcomes_is_left_too() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", **DRAIN)
        await visit.gone()

    async def drains_too(visit: Visit) -> None:
        await visit.welcome(session_token=None)
        if visit.number == 1:
            await visit.say("drain", **DRAIN)
            await visit.gone()
        else:
            await visit.read("bye")

    async with two_nodes(old, drains_too) as (first, second), client_of(first, second) as client:
        first.refusing = 10
        await eventually(lambda: len(second.visits) == 2)
        await eventually(lambda: client.state == "connected")


async def test_client_can_be_closed_while_it_moves() -> None:
    async def old(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("drain", reconnect_in=0, close_in=60_000)
        await visit.read("bye")

    async def never(visit: Visit) -> None:
        await visit.gone()

    async with serving(old) as first, serving(never) as second:
        async with client_of(first, second) as client:
            await eventually(lambda: second.visits)
        assert client.close_codes == {1000: 1}
