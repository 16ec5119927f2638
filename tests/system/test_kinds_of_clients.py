"""What reaches plain clients, clients without resume, and those to whom a gap could not be told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.raw import Raw, again
from tests.support.redis import RedisServer
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import SETTINGS, MakeSite

ROUNDS = 2.5 * SETTINGS["round_interval"]  # seconds in which every node has compared twice


def send_to(site: Site, session_id: str, data: str) -> None:
    call = f"send_to_session({session_id!r}, {data!r})"
    site.django("shell", "-c", f"from graceful_ws.publishing import send_to_session; {call}")


async def test_a_plain_client_gets_what_was_left_for_its_session_once(make_site: MakeSite) -> None:
    site = make_site()
    async with Raw(site.ws("/echo/"), plain=True) as client:
        await client.send_text('"x"')
        await eventually(lambda: client.messages == ["x"])
        sessions = "SELECT uuid FROM graceful_ws_session"
        await eventually(lambda: site.sql(sessions) != [])
        [(session_id,)] = site.sql(sessions)
        await asyncio.to_thread(send_to, site, str(session_id), "left")
        await eventually(lambda: client.messages == ["x", "left"])
        await asyncio.sleep(ROUNDS)
        assert client.messages == ["x", "left"]


async def test_a_client_without_resume_stays_and_gets_all_in_order(make_site: MakeSite) -> None:
    site = make_site()
    async with Raw(site.ws("/light/")) as client:
        await client.hello()
        await client.message({"send": 3, "echo": False})
        await eventually(lambda: client.numbers == [1, 2, 3])
        await asyncio.sleep(ROUNDS)
        await asyncio.to_thread(send_to, site, client.session_id, "left")
        await eventually(lambda: client.numbers == [1, 2, 3, 4])
        assert client.messages[-1] == "left"
        await client.message("after")
        await eventually(lambda: client.messages[-1] == "after")
        await asyncio.sleep(ROUNDS)
        assert client.is_open
        assert client.numbers == [1, 2, 3, 4, 5]


async def test_a_gap_that_did_not_arrive_is_told_again(make_site: MakeSite) -> None:
    """It is no acknowledgement: the rows stay, and the next connection tells it from the start."""
    site = make_site(settings={"replay_rows": 5})
    async with Raw(site.ws("/echo/")) as client:
        await client.hello()
        await client.message({"send": 3, "echo": False})
        await eventually(lambda: client.numbers == [1, 2, 3])
        await client.ack(3)
        await client.ask({"send": 20, "echo": False})
        client.cut()
    async with again(client) as second:
        second.stop_reading()
        await second.hello(later=True, last_seq_id=3)
        attached = "SELECT state, resumes FROM graceful_ws_session"
        await eventually(lambda: site.sql(attached) == [("attached", 1)])
        await asyncio.sleep(0.5)  # the gap is in its socket, and is never read
        second.cut()
    await eventually(lambda: site.sql(attached) == [("detached", 1)])
    async with again(second) as third:
        await third.hello(last_seq_id=3)
        gap = await third.expect("gap")
        assert (gap["reason"], gap["from"], gap["head"]) == ("too_far", 4, 23)
        await third.message({"send": 1, "echo": False})
        await third.expect("message", seq=24)


async def test_a_stream_of_the_class_that_is_denied_at_a_resume_stays_denied(
    make_site: MakeSite, tmp_path: Path
) -> None:
    site = make_site(env={"GRACEFUL_TEST_LEDGER": str(tmp_path)})
    async with Raw(site.ws("/present/")) as client:
        await client.hello()
        await eventually(lambda: len(client.all("subscribed")) == 2)
        client.cut()
    (tmp_path / "denied").write_text("lobby")
    async with again(client) as back:
        welcome = await back.hello()
        assert welcome["streams"]["lobby"] == {"state": "denied"}
        assert welcome["streams"]["news"]["state"] == "new"
        assert await back.ask({}) == ["news"]
        assert not back.all("subscribed")


async def test_a_connection_is_taken_while_redis_is_down_and_joins_its_groups_later(
    make_site: MakeSite, redis_server: RedisServer
) -> None:
    site = make_site(redis_url=redis_server.url, env={"GRACEFUL_TEST_LAYER": "pubsub"})
    redis_server.kill()
    async with Raw(site.ws("/room/?stream=room")) as client:
        await client.hello()
        await client.expect("subscribed", stream="room")
        await client.message({"publish": "room", "data": "x"})
        await client.expect("message", data="x")


@pytest.mark.parametrize("path", ["/room/", "/light-room/"])
async def test_a_stream_reaches_each_kind_of_client_once(make_site: MakeSite, path: str) -> None:
    site = make_site(nodes=2)
    async with (
        Raw(site.nodes[0].ws(f"{path}?stream=room"), plain=path == "/room/") as one,
        Raw(site.nodes[1].ws("/room/?stream=room")) as other,
    ):
        if not one.plain:
            await one.hello()
        await other.hello()
        await other.expect("subscribed", stream="room")
        followers = "SELECT count(*) FROM graceful_ws_subscription"
        await eventually(lambda: site.sql(followers) == [(2,)])
        for n in range(20):
            await other.message({"publish": "room", "data": n})
        await eventually(lambda: len(one.messages) == 20, 15)
        await asyncio.sleep(ROUNDS)
        assert one.messages == list(range(20))
