"""A server over its memory limit closes what nobody uses, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid

import pytest

from tests.support.raw import Raw, again
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite
from tests.system.test_send_to_session import outside
from tests.test_metrics import TOKEN, scrape, value

IDLE = 2.0  # seconds
WITHIN = 25.0
COUNT = 24  # more than one batch
MIB = 1024 * 1024
AUDIT = "graceful_ws_auditentry"


@pytest.fixture(params=["daphne", "uvicorn"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def over(shared_site: MakeSite, server: str) -> Site:
    settings = {"memory_limit": 10 * MIB, "reclaim_idle": IDLE}
    return shared_site(server=server, settings=settings)


async def test_idle_connections_are_closed_longest_idle_first_and_lose_nothing(over: Site) -> None:
    async with contextlib.AsyncExitStack() as stack:
        active = await stack.enter_async_context(Raw(over.ws("/echo/")))
        await active.hello()
        raws = [
            await stack.enter_async_context(Raw(over.ws("/echo/"), open_timeout=WITHIN))
            for _ in range(COUNT)
        ]
        speaking = asyncio.create_task(speak(active))
        for raw in raws:
            await raw.hello()
            await asyncio.sleep(0.01)  # uvloop's clock counts milliseconds
        await raws[0].ask("last")  # it came first, and spoke last
        expected = [*raws[1:], raws[0]]
        for raw in raws:
            code, reason = await raw.closed(WITHIN)
            assert code == 4106
            assert re.fullmatch(r"memory \d+ % of 10 MiB, idle \d+ s", reason)
        assert active.is_open
        speaking.cancel()

        entries = f"SELECT session, event, code, reason, node FROM {AUDIT} ORDER BY id"
        await eventually(lambda: len(over.sql(entries)) == COUNT, WITHIN, "audited")
        rows = over.sql(entries)
        assert [str(uuid.UUID(row[0])) for row in rows] == [raw.session_id for raw in expected]
        assert {row[1:3] for row in rows} == {("reclaim", 4106)}
        assert {row[4] for row in rows} == {"node-1"}
        causes = "SELECT state, cause FROM graceful_ws_session WHERE close_code = 4106"
        await eventually(lambda: over.sql(causes) == [("detached", "reclaimed")] * COUNT, WITHIN)

        await outside(over, raws[0].session_id, "send('meanwhile')")
        async with again(raws[0]) as later:
            assert (await later.hello(last_seq_id=1, pending_from=1))["resumed"]
            assert await later.got(2) == "meanwhile"
            assert await later.ask({"result": "goes on"}) == "goes on"
            await later.bye()
        await active.bye()


async def speak(raw: Raw) -> None:
    while True:
        await raw.ask("here")
        await asyncio.sleep(IDLE / 10)


async def test_below_the_limit_nobody_is_closed(shared_site: MakeSite, server: str) -> None:
    settings = {"memory_limit": 10_000 * MIB, "reclaim_idle": 0.1, "metrics_token": TOKEN}
    site = shared_site(server=server, settings=settings)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await asyncio.to_thread(scrape, site.node)

        def share() -> float:
            return value(scrape(site.node), "memory_share")

        async with asyncio.timeout(WITHIN):
            while not 0 < await asyncio.to_thread(share) < 0.5:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert await raw.ask({"result": "open"}) == "open"
        await raw.bye()
    assert site.sql(f"SELECT * FROM {AUDIT}") == []
