"""Who left is told to those who stay: once, with the cause, and nobody for a short disconnect."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.postgres import PostgresServer
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

GRACE = 2.0
SETTINGS = {"beat_interval": 0.3, "dead_after": 1.5, "exit_grace": GRACE}
ROOM = "/room/?stream=room&presence=1"
LIGHT = "/light-room/?stream=room&presence=1"


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site(nodes=2, settings=SETTINGS)


@pytest.fixture(params=SERVERS)
def each_site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    """For what depends on how a server reports an end."""
    return make_site(server=request.param, nodes=2, settings=SETTINGS)


@asynccontextmanager
async def member(site: Site, node: int = 0, path: str = ROOM) -> AsyncIterator[Raw]:
    async with Raw(site.nodes[node].ws(path)) as raw:
        await raw.hello()
        await raw.expect("subscribed", stream="room")
        yield raw


def told(watcher: Raw, *kinds: str) -> list[dict[str, Any]]:
    """What the room was told of others, in order."""
    return [
        data
        for data in watcher.messages
        if isinstance(data, dict)
        and data.get("type") in (kinds or ("client_join", "client_exit"))
        and data["client_id"] != watcher.session_id
    ]


async def exit_of(watcher: Raw, who: Raw, within: float = 20.0) -> dict[str, Any]:
    """The one exit of a member, after a while in which a second one would have come."""
    await eventually(lambda: exits(watcher, who) != [], within)
    await asyncio.sleep(1.0)  # two more looks of every node
    [found] = exits(watcher, who)
    return found


def exits(watcher: Raw, who: Raw) -> list[dict[str, Any]]:
    return [one for one in told(watcher, "client_exit") if one["client_id"] == who.session_id]


def joins(watcher: Raw, who: Raw) -> int:
    return [one["client_id"] for one in told(watcher, "client_join")].count(who.session_id)


async def settled(site: Site, watcher: Raw) -> None:
    """Nodes that have just started call nobody absent; this one has seen somebody called so."""
    async with member(site, 1) as early:
        early.cut()
        await exit_of(watcher, early)


async def test_who_says_bye_has_left_at_once(each_site: Site) -> None:
    async with member(each_site) as watcher, member(each_site, 1) as guest:
        await eventually(lambda: joins(watcher, guest) == 1)
        await guest.bye()
        found = await exit_of(watcher, guest, within=5.0)
        assert (found["cause"], found["code"]) == ("bye", 1000)
        assert await watcher.ask({"online": "room"}) == [watcher.session_id]


async def test_whom_the_application_or_an_operator_closes_has_left_at_once(site: Site) -> None:
    async with member(site) as watcher, member(site, 1) as one, member(site, 1) as other:
        await one.message({"close": 4507})
        assert (await exit_of(watcher, one, within=5.0))["cause"] == "closed"
        assert await watcher.ask({"online": "room"}) == [watcher.session_id, other.session_id]
        ended = (
            "import uuid; from graceful_ws.store.nodes import end_session;"
            f" assert end_session(uuid.UUID('{other.session_id}'), 4506, 'out', actor='me')"
        )
        site.django("shell", "-c", ended)
        found = await exit_of(watcher, other)
        assert (found["cause"], found["code"]) == ("closed", 4506)


async def test_a_short_disconnect_is_told_to_nobody_and_a_long_one_once(site: Site) -> None:
    async with member(site) as watcher, member(site, 1) as guest:
        await settled(site, watcher)
        guest.cut()
        await asyncio.sleep(GRACE / 2)
        async with again(guest, site.nodes[0].ws(ROOM)) as resumed:
            assert (await resumed.hello())["resumed"]
            await asyncio.sleep(GRACE * 2)
            assert exits(watcher, guest) == []
            assert joins(watcher, guest) == 1
            resumed.cut()
            found = await exit_of(watcher, guest)
            assert found["cause"] == "timeout"
            async with again(resumed, site.nodes[1].ws(ROOM)) as back:
                assert (await back.hello())["resumed"]
                await eventually(lambda: joins(watcher, guest) == 2)
                assert len(exits(watcher, guest)) == 1
                online = await watcher.ask({"online": "room"})
                assert guest.session_id in online


async def test_the_clients_of_a_killed_node_have_left_once(make_site: MakeSite) -> None:
    site = make_site(nodes=3, settings=SETTINGS)
    async with (
        member(site) as watcher,
        member(site, 1) as other,
        member(site, 2) as one,
        member(site, 2) as two,
    ):
        await settled(site, watcher)
        site.nodes[2].kill()
        for guest in (one, two):
            found = await exit_of(watcher, guest)
            assert found["cause"] == "node_lost"
            assert len(exits(other, guest)) == 1


async def test_a_node_that_stood_still_keeps_what_is_its_own_and_drops_the_rest(
    make_site: MakeSite,
) -> None:
    """One of its clients waits for it, another went to the next node meanwhile."""
    # On PostgreSQL: SQLite's one lock would be held for as long as its holder stands still.
    site = make_site(database="postgres", nodes=2, settings={**SETTINGS, "exit_grace": 60.0})
    node = site.nodes[1]
    async with member(site) as watcher, member(site, 1) as stays, member(site, 1) as goes:
        node.signal(signal.SIGSTOP)
        async with resumed_at(site, goes) as moved:
            dead = "SELECT name FROM graceful_ws_node WHERE state = 'dead'"
            await eventually(lambda: site.sql(dead) != [], 20)
            node.signal(signal.SIGCONT)
            # Detached or adopted: its client goes on in either case, on this connection or another.
            assert (await goes.closed())[0] in (4104, 4501)
            await moved.message({"publish": "room", "data": "to all"})
            await watcher.expect("message", data="to all")
            try:
                await stays.expect("message", data="to all")
            except AssertionError:
                assert (await stays.closed())[0] == 4104
                async with again(stays, node.ws(ROOM)) as back:
                    assert (await back.hello())["resumed"]
                    await back.expect("message", data="to all")
        assert told(watcher, "client_exit") == []


@asynccontextmanager
async def resumed_at(site: Site, who: Raw) -> AsyncIterator[Raw]:
    """Resumes at the first node, as often as it takes: what stood still may hold the database."""
    for _ in range(20):
        async with again(who, site.nodes[0].ws(ROOM)) as raw:
            await raw.hello(later=True)
            await eventually(lambda raw=raw: raw.all("welcome") or not raw.is_open, 15)
            if raw.all("welcome"):
                assert (await raw.welcome())["resumed"]
                yield raw
                return
            who = raw
        await asyncio.sleep(1.0)
    raise AssertionError("never welcomed")


async def test_a_deploy_announces_nobody(each_site: Site) -> None:
    """Rolling: each node is stopped and started, and its clients come back in time."""
    site = each_site
    async with member(site) as watcher, member(site, 1) as guest:
        await settled(site, watcher)
        before = len(told(watcher))
        site.nodes[1].terminate()
        await guest.expect("drain")
        assert (await guest.closed())[0] == 1012
        async with again(guest, site.nodes[0].ws(ROOM)) as resumed:
            assert (await resumed.hello())["resumed"]
            await site.nodes[1].await_exit()
            await site.nodes[1].arestart()
            await asyncio.sleep(GRACE * 2)
            assert len(told(watcher)) == before


async def test_a_site_that_was_away_announces_nobody_who_comes_back_at_once(
    make_site: MakeSite,
) -> None:
    """A single node, away for longer than the grace: nobody could have come back sooner."""
    site = make_site(settings=SETTINGS)
    async with member(site) as watcher, member(site) as guest:
        site.node.terminate()
        await site.node.await_exit()
        await asyncio.sleep(GRACE * 1.5)
        site.node.start()
        async with again(watcher, site.ws(ROOM)) as sees, again(guest, site.ws(ROOM)) as resumed:
            assert (await sees.hello())["resumed"]
            assert (await resumed.hello())["resumed"]
            await asyncio.sleep(GRACE * 2.5)
            assert told(sees, "client_exit") == []


async def test_a_database_that_was_away_for_long_buries_no_node_and_announces_nobody(
    make_site: MakeSite, postgres_server: PostgresServer
) -> None:
    site = make_site(database="postgres", nodes=2, settings=SETTINGS)
    async with member(site) as watcher, member(site, 1) as guest, member(site, 1) as gone:
        await settled(site, watcher)
        before = len(told(watcher))
        await asyncio.to_thread(postgres_server.kill)
        gone.cut()
        await asyncio.sleep(SETTINGS["dead_after"] + GRACE)
        await asyncio.to_thread(postgres_server.restart)
        await guest.message({"publish": "room", "data": "again"})
        await watcher.expect("message", data="again")
        async with again(gone, site.nodes[0].ws(ROOM)) as back:
            assert (await back.hello())["resumed"]
            await asyncio.sleep(SETTINGS["dead_after"] + 2 * GRACE)
            assert len(told(watcher)) == before
        assert watcher.is_open
        assert guest.is_open
    states = site.sql("SELECT state, count(*) FROM graceful_ws_node GROUP BY state")
    assert states == [("up", 2)]


async def test_a_stream_that_is_left_is_told_of_it(site: Site) -> None:
    async with member(site) as watcher, member(site, 1) as guest:
        await guest.ask({"unsubscribe": "room"})
        assert (await exit_of(watcher, guest, within=5.0))["cause"] == "unsubscribed"
        await guest.bye()
        await asyncio.sleep(1.0)
        assert len(exits(watcher, guest)) == 1


async def test_an_audience_of_its_own_is_told_in_place_of_the_streams(site: Site) -> None:
    async with (
        member(site) as lobby,
        Raw(site.nodes[0].ws("/room/?stream=watchers&stream=lobby")) as watcher,
        Raw(site.nodes[1].ws("/watched/")) as guest,
    ):
        await watcher.hello()
        await watcher.expect("subscribed", stream="lobby")
        await guest.hello()
        await eventually(lambda: joins(watcher, guest) == 1)
        await guest.bye()
        await exit_of(watcher, guest, within=5.0)
        streams = {frame["stream"] for frame in watcher.all("message")}
        assert streams == {"watchers"}
        assert told(lobby) == []


@pytest.mark.parametrize("path", [ROOM, LIGHT])
async def test_a_client_without_resume_has_left_when_its_connection_has(
    each_site: Site, path: str
) -> None:
    site = each_site
    async with (
        member(site) as watcher,
        Raw(site.nodes[1].ws(path), plain=path == ROOM) as guest,
    ):
        if path == LIGHT:
            await guest.hello()
        await eventually(lambda: len(told(watcher, "client_join")) == 1)
        if path == ROOM:
            await guest.close()
        else:
            guest.cut()
        await eventually(lambda: told(watcher, "client_exit") != [], 5.0)
        [joined], [left] = told(watcher, "client_join"), told(watcher, "client_exit")
        assert left["client_id"] == joined["client_id"]
        assert left["cause"] == ("bye" if path == ROOM else "timeout")
