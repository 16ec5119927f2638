"""Hello, heartbeat, idle: what a connection has time for."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.proxy import Proxy
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

SETTINGS = {
    "connecting_timeout": 0.8,
    "heartbeat_interval": 0.4,
    "heartbeat_timeout": 0.4,
    "max_missed": 3,
    "idle_timeout": 0.5,
}


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(server=request.param, settings=SETTINGS)


@pytest.fixture
def daphne(shared_site: MakeSite) -> Site:
    return shared_site(server="daphne", settings=SETTINGS)


def last_session(site: Site) -> tuple[object, ...]:
    query = "SELECT state, close_code, cause FROM graceful_ws_session ORDER BY id DESC LIMIT 1"
    return next(iter(site.sql(query)), ("none",))


async def test_hello_that_never_comes_is_4400_after_the_connecting_limit(site: Site) -> None:
    sessions = site.sql("SELECT count(*) FROM graceful_ws_session")
    begun = asyncio.get_running_loop().time()
    async with Raw(site.ws("/echo/")) as raw:
        assert (await raw.closed())[0] == 4400
        assert 0.7 < asyncio.get_running_loop().time() - begun < 5
    assert site.sql("SELECT count(*) FROM graceful_ws_session") == sessions


async def test_heartbeat_lost_is_4102_and_the_session_is_detached_and_resumable(
    daphne: Site,
) -> None:
    async with Proxy(daphne.port) as proxy, Raw(proxy.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("one")
        proxy.swallow()
        await eventually(lambda: last_session(daphne) == ("detached", 4102, "timeout"), 12)
        await proxy.cut()
    async with again(raw, daphne.ws("/echo/")) as later:
        assert (await later.hello(last_seq_id=0))["resumed"]
        await later.expect("message", seq=1)
        await later.bye()


async def test_client_that_answers_no_ping_hears_4102(site: Site) -> None:
    async with Raw(site.ws("/echo/"), pongs=False) as raw:
        await raw.hello()
        assert (await raw.closed())[0] == 4102
        assert len(raw.all("ping")) == 3


async def test_any_traffic_counts_as_a_heartbeat(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/"), pongs=False) as raw:
        await raw.hello()
        for n in range(9):
            await asyncio.sleep(0.25)
            await raw.ask(n)
        assert raw.is_open
        await raw.bye()


async def test_idle_connection_stays_open(daphne: Site) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await asyncio.sleep(1.2)
        assert await raw.ask({"result": "awake"}) == "awake"
        assert len(raw.all("ping")) >= 2
        await raw.bye()


async def test_close_when_idle_is_4105_and_the_session_resumes(daphne: Site) -> None:
    async with Raw(daphne.ws("/dozing/")) as raw:
        await raw.hello()
        for n in range(4):
            await asyncio.sleep(0.3)
            await raw.ask(n)
        assert (await raw.closed())[0] == 4105
        assert raw.messages == [0, 1, 2, 3]
    await eventually(lambda: last_session(daphne) == ("detached", 4105, "idle"))
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=4))["resumed"]
        await later.bye()


async def test_peer_that_never_answers_the_close_is_dropped_after_the_closing_limit(
    site: Site,
) -> None:
    async with Proxy(site.port) as proxy, Raw(proxy.ws("/echo/")) as raw:
        await raw.hello()
        proxy.swallow("to_client")
        await raw.message({"close": 4600})
        await eventually(lambda: last_session(site)[0] == "ended", 3.0 + 8)
        await proxy.cut()


@pytest.mark.parametrize(("path", "status"), [("/denying/", 403), ("/broken/", 500)])
async def test_handshake_that_connect_denies_or_fails_is_refused_and_leaves_nothing(
    site: Site, path: str, status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with Raw(site.ws(path)):
            pass
    assert refused.value.response.status_code == status
