"""``graceful_ws.echo.EchoConsumer`` gives back what it gets, whoever asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from websockets.asyncio.client import connect as plain_connect
from websockets.exceptions import ConnectionClosed

from graceful_ws.client import Event, VolatileReceived, connect
from tests.support.servers import Site
from tests.support.waiting import eventually

DATA = [{"a": [1, None, "é 😀"]}, "text", 0, [], None]


async def test_graceful_client_gets_message_and_result(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    events: list[Event] = []
    async with asyncio.timeout(20), connect(site.ws("/soak/"), on_event=events.append) as client:
        assert [await client.send(data) for data in DATA] == DATA
        assert [(await client.receive()).data for _ in DATA] == DATA
        assert client.volatile("fleeting")
        await eventually(lambda: VolatileReceived("fleeting") in events)
    rows = "SELECT state, last_seq, last_client_seq FROM graceful_ws_session"
    await eventually(lambda: site.sql(rows) == [("ended", len(DATA), len(DATA))])


async def test_kill_between_two_messages_makes_no_second_echo(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False, settings={"reconnect_window": 0.2})
    await site.astart()
    async with asyncio.timeout(40), connect(site.ws("/soak/")) as client:
        for number in range(40):
            await client.send(number, wait=False)
        await eventually(lambda: client.last_seq > 0)
        await site.node.arestart()
        assert await client.send("last") == "last"
        got = [(await client.receive()).data for _ in range(41)]
        assert got == [*range(40), "last"]


async def test_plain_client_gets_back_anything(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    sent = ["hello", json.dumps(DATA), "{", b"\x00\xff", "x" * 60_000]
    async with asyncio.timeout(20), plain_connect(site.ws("/soak/")) as ws:
        for message in sent:
            await ws.send(message)
        assert [await ws.recv() for _ in sent] == sent


async def test_bytes_are_bounded_as_text_is(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    for message in ("x" * 70_000, b"x" * 70_000):
        async with asyncio.timeout(20), plain_connect(site.ws("/soak/")) as ws:
            await ws.send(message)
            try:
                await ws.recv()
            except ConnectionClosed as error:
                assert error.rcvd is not None and error.rcvd.code == 1009
            else:
                raise AssertionError("it was taken")
