"""On the wire, from every server: what a plain client sees of both base classes is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.compat.kit import PAIRS
from tests.support.servers import SERVERS, Site

WITHIN = 15.0  # seconds
SAID: dict[str, list[str | bytes]] = {
    "talks": ["text", b"bytes", "\N{EURO SIGN}" * 3, "close"],
    "chooses": ["close"],
    "denies": [],
    "closes-first": [],
    "fails-first": [],
    "responds": [],
    "ends": ["now"],
}


async def seen(site: Site, base: str, behaviour: str, *said: str | bytes) -> list[Any]:
    url = site.ws(f"/{base}/{behaviour}/")
    options: dict[str, Any] = {"subprotocols": ["one", "two"], "proxy": None, "compression": None}
    lines: list[Any] = []
    async with asyncio.timeout(WITHIN):
        try:
            async with connect(url, **options) as socket:
                assert socket.response is not None
                lines.append((socket.subprotocol, socket.response.headers.get("x-room")))
                for message in said:
                    await socket.send(message)
                try:
                    while True:
                        lines.append(await socket.recv())
                except ConnectionClosed:
                    lines.append((socket.close_code, socket.close_reason))
        except InvalidStatus as error:
            lines.append(error.response.status_code)
        except (InvalidHandshake, OSError, EOFError) as error:
            lines.append(type(error).__name__)
    return lines


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    return make_site(server=request.param, application="tests.compat.wire:application")


async def test_what_a_plain_client_sees_is_the_same(site: Site) -> None:
    here, channels = {}, {}
    for pair in PAIRS:
        for behaviour, said in SAID.items():
            channels[pair, behaviour] = await seen(site, f"{pair}-0", behaviour, *said)
            here[pair, behaviour] = await seen(site, f"{pair}-1", behaviour, *said)
    for pair in PAIRS:
        assert here.pop((pair, "fails-first")) == [500]
        assert channels.pop((pair, "fails-first"))[0] in (403, 500)  # as the server likes
    assert here == channels


@pytest.mark.parametrize("pair", PAIRS)
async def test_exception_after_accept_is_closed_1011_on_every_server(site: Site, pair: str) -> None:
    accepted = (None, None)
    failed = [accepted, "1", (1011, "handler failed")]
    assert await seen(site, f"{pair}-1", "talks", "1", "fail", "2") == failed
    channels = await seen(site, f"{pair}-0", "talks", "1", "fail", "2")
    assert channels[:2] == [accepted, "1"]
    assert channels[2][0] in (1005, 1006, 1011)  # as the server likes
