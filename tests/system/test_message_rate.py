"""More messages than ``message_rate``: what has credit waits, what has none is closed 4201."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.system.conftest import MakeSite

# As in tests.consumers.Paced.
RATE, BURST = 20.0, 10
WITHOUT_CREDIT = {
    "volatile": {"type": "volatile", "data": {"echo": False}},
    "ping": {"type": "ping", "sent_at": 7},
    "ack that says nothing new": {"type": "ack", "seq": 0},
    "ack of what it does not follow": {"type": "ack", "streams": {"room": 1}},
    "pong without a ping": {"type": "pong", "sent_at": 1},
}


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(server=request.param, settings={"heartbeat_interval": 0.3})


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_numbered_messages_over_the_rate_wait_for_their_handler_and_none_is_lost(
    site: Site,
) -> None:
    async with Raw(site.ws("/paced/")) as raw:
        await raw.hello()
        begun = now()
        await raw.send([{"type": "message", "seq": n, "data": n} for n in range(1, 41)])
        await raw.expect("ack", seq=40)
        assert now() - begun > (40 - BURST) / RATE - 0.1
        assert raw.messages == list(range(1, 41))
        await raw.bye()


@pytest.mark.parametrize("what", list(WITHOUT_CREDIT))
async def test_what_has_no_credit_is_told_when_to_come_back_and_closed_4201(
    site: Site, what: str
) -> None:
    async with Raw(site.ws("/paced/")) as raw:
        await raw.hello()
        await raw.send([WITHOUT_CREDIT[what]] * BURST)
        await raw.message({"echo": False})
        await raw.expect("ack", seq=1)  # a burst is fine
        await raw.send([WITHOUT_CREDIT[what]] * BURST)
        error = await raw.expect("error", code="rate")
        assert 1000 <= error["retry_after"] <= 1000 * max(1, BURST / RATE) + 100
        assert (await raw.closed())[0] == 4201
    async with again(raw) as later:
        assert (await later.hello())["resumed"]
        await later.bye()


async def test_acknowledgements_of_news_and_answers_to_pings_cost_nothing(site: Site) -> None:
    async with Raw(site.ws("/scarce/")) as raw:
        await raw.hello()
        await raw.message({"send": 20, "echo": False})
        for seq in range(1, 21):
            await raw.got(seq)
            await raw.ack(seq)
        for _ in range(6):
            await raw.expect("ping")
        assert await raw.ask({"result": "open", "echo": False}) == "open"
        await raw.bye()


async def test_as_many_copies_as_a_resume_may_bring_are_free_and_the_rest_is_4201(
    site: Site,
) -> None:
    async with Raw(site.ws("/paced/")) as raw:
        await raw.hello()
        copy: dict[str, Any] = {"type": "message", "seq": 1, "data": {"echo": False}}
        await raw.send(copy)
        await raw.expect("ack", seq=1)
        await raw.send([copy] * 64)
        await raw.message({"echo": False})
        await raw.send({**copy, "seq": 2})
        await raw.expect("ack", seq=2)
        await raw.send([copy] * (BURST + 5))
        assert (await raw.closed())[0] == 4201


async def test_past_the_credit_the_client_is_told_when_to_come_back(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        waiting = {"sleep": 1, "echo": False}
        await raw.send({"type": "message", "seq": 1, "data": waiting})
        await raw.send([{"type": "message", "seq": n, "data": 0} for n in range(2, 65)])
        await raw.send([{"type": "message", "seq": n, "data": 0} for n in range(65, 70)])
        assert (await raw.expect("error", code="rate"))["retry_after"] >= 1000
        assert (await raw.closed())[0] == 4201


async def test_messages_of_a_plain_client_wait_and_all_are_handled(site: Site) -> None:
    async with Raw(site.ws("/paced/"), plain=True) as raw:
        begun = now()
        for n in range(40):
            await raw.send(n)
        while len(raw.messages) < 40:
            assert now() - begun < 15
            assert raw.is_open
            await asyncio.sleep(0.02)
        assert now() - begun > (40 - BURST) / RATE - 0.1
        assert raw.messages == list(range(40))
        await raw.close()
