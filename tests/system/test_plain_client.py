"""Clients that know nothing of the subprotocol: served as Channels would."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.support.raw import Raw
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

SETTINGS = {
    "connecting_timeout": 0.5,
    "heartbeat_interval": 0.4,
    "heartbeat_timeout": 0.4,
    "message_bytes": 1000,
}


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(server=request.param, settings=SETTINGS)


def last_session(site: Site) -> tuple[object, ...]:
    query = "SELECT state, close_code FROM graceful_ws_session ORDER BY id DESC LIMIT 1"
    return next(iter(site.sql(query)), ("none",))


async def test_plain_client_speaks_raw_json_both_ways_and_is_listed(site: Site) -> None:
    async with Raw(site.ws("/echo/"), plain=True) as raw:
        for data in ({"a": [1, None, "é"]}, "text", 1.5, None, [1, 2]):
            await raw.send(data)
        await eventually(lambda: len(raw.messages) == 5)
        assert raw.messages == [{"a": [1, None, "é"]}, "text", 1.5, None, [1, 2]]
        assert raw.ws.subprotocol is None
        await eventually(lambda: last_session(site)[0] == "attached")
        await raw.close(1000)
    await eventually(lambda: last_session(site) == ("ended", 1000))


async def test_plain_client_needs_no_hello_and_gets_no_pings(site: Site) -> None:
    async with Raw(site.ws("/echo/"), plain=True) as raw:
        await asyncio.sleep(1.5)
        await raw.send("still here")
        await eventually(lambda: raw.messages == ["still here"])
        await raw.close()


async def test_messages_of_connect_reach_a_plain_client(site: Site) -> None:
    async with Raw(site.ws("/hooks/?greet"), plain=True) as raw:
        await eventually(lambda: raw.messages == ["welcome, from connect()"])
        await raw.close()


async def test_client_with_another_subprotocol_is_a_plain_one(site: Site) -> None:
    options = {"compression": None, "proxy": None, "subprotocols": ["chat"]}
    async with connect(site.ws("/echo/"), **options) as other:  # type: ignore[arg-type]
        assert other.subprotocol is None
        await other.send('"hello"')
        assert json.loads(await other.recv()) == "hello"


async def test_plain_client_is_handled_in_order_however_slow_the_handler(site: Site) -> None:
    async with Raw(site.ws("/echo/"), plain=True) as raw:
        await raw.send({"sleep": 0.5, "n": 0})
        for n in range(1, 400):
            await raw.send({"n": n})
        await eventually(lambda: len(raw.messages) == 400, 15)
        assert [data["n"] for data in raw.messages] == list(range(400))
        await raw.close()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ('{"fail": "on purpose"}', 1011),
        ('{"close": 1000}', 1000),
        ('{"close": 4600, "reason": "mine"}', 4600),
        ('{"close": 4501}', 4501),
        ('{"close": 4507}', 4507),
        ("not JSON", 1007),
        ('"\\ud83d"', 1007),
        ("NaN", 1007),
        ("[" * 65 + "]" * 65, 1007),
        ('"' + "x" * 999 + '"', 1009),
        (b"binary", 1003),
    ],
)
async def test_plain_client_gets_standard_codes_and_the_applications_own(
    site: Site, data: str | bytes, code: int
) -> None:
    async with Raw(site.ws("/echo/"), plain=True) as raw:
        if isinstance(data, bytes):
            await raw.send_bytes(data, text=False)
        else:
            await raw.send_text(data)
        assert (await raw.closed())[0] == code
        assert raw.messages == []


async def test_transaction_of_a_plain_client_commits_before_its_reply(site: Site) -> None:
    async with Raw(site.ws("/transaction/"), plain=True) as raw:
        name = f"plain on {site.node.server}"
        await raw.send({"name": name})
        await eventually(lambda: len(raw.messages) == 1)
        query = "SELECT count(*) FROM graceful_ws_auditentry WHERE actor = %s"
        assert site.sql(query, name) == [(1,)]
        await raw.send({"name": "rolled back", "fail": "on purpose"})
        assert (await raw.closed())[0] == 1011
        assert site.sql(query, "rolled back") == [(0,)]


async def test_plain_client_is_closed_1012_with_a_reason_on_drain(site: Site) -> None:
    async with Raw(site.ws("/echo/"), plain=True) as raw:
        await raw.send({"sleep": 0.3, "n": 1})
        await eventually(lambda: last_session(site)[0] == "attached")
        site.node.terminate()
        assert await raw.closed() == (1012, "the server restarts")
        assert raw.messages == [{"sleep": 0.3, "n": 1}]
    assert await site.node.await_exit() == 0
    assert last_session(site) == ("ended", 1012)
