"""A client that was written from docs/protocol.md alone loses nothing on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.proxy import Proxy
from tests.support.servers import Site
from tests.support.waiting import eventually

from .stranger import Stranger

QUICK = 0.05  # of the delays that the document asks for

Heard = list[tuple[str | None, int, Any]]


async def talk(stranger: Stranger, numbers: range, pause: float = 0.0) -> list[Any]:
    """Send numbered messages; their results."""
    futures = []
    for n in numbers:
        futures.append(stranger.send({"n": n, "result": f"done {n}"}))
        await asyncio.sleep(pause)
    return [await future for future in futures]


def results(numbers: range) -> list[str]:
    return [f"done {n}" for n in numbers]


async def heard_exactly(heard: Heard, count: int) -> None:
    """Messages 1 to ``count`` came back once each, in order, under the numbers 1 to ``count``."""
    await eventually(lambda: len(heard) >= count)
    assert [(stream, seq, data["n"]) for stream, seq, data in heard] == [
        (None, n, n) for n in range(1, count + 1)
    ]


async def test_abrupt_cuts_lose_and_repeat_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    heard: Heard = []
    async with (
        asyncio.timeout(30),
        Proxy(site.port) as proxy,
        Stranger([proxy.ws("/echo/")], lambda *message: heard.append(message), QUICK) as stranger,
    ):
        talking = asyncio.create_task(talk(stranger, range(1, 201), 0.002))
        for count in (30, 80, 140):
            await eventually(lambda count=count: len(heard) >= count, within=15)
            proxy.cut_after_bytes(50, "to_client")
            await eventually(lambda: proxy.connections == 0)
        assert await talking == results(range(1, 201))
        await heard_exactly(heard, 200)
        assert stranger.codes == [1006, 1006, 1006] and not stranger.gaps
        await stranger.bye()
    ended = "SELECT state, cause FROM graceful_ws_session"
    await eventually(lambda: site.sql(ended) == [("ended", "bye")])


async def test_kill_of_the_server_loses_and_repeats_nothing(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False)
    await site.astart()
    heard: Heard = []
    async with (
        asyncio.timeout(60),
        Stranger(
            [site.ws("/transaction/")], lambda *message: heard.append(message), QUICK
        ) as stranger,
    ):
        talking = asyncio.create_task(talk(stranger, range(1, 101), 0.005))
        await eventually(lambda: len(heard) >= 20, within=15)
        await site.node.arestart()
        assert await talking == results(range(1, 101))
        await heard_exactly(heard, 100)
        assert len(stranger.welcomes) == 2 and not stranger.gaps
        await stranger.bye()


async def test_drain_moves_the_stranger_before_its_connection_breaks(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False, nodes=2, settings={"drain_window": 2, "drain_deadline": 10})
    await site.astart()
    first = site.node
    urls = [node.ws("/echo/") for node in site.nodes]
    heard: Heard = []
    async with (
        asyncio.timeout(60),
        Stranger(urls, lambda *message: heard.append(message), QUICK) as stranger,
    ):
        assert await talk(stranger, range(1, 4)) == results(range(1, 4))
        first.terminate()
        n = 3
        while len(stranger.welcomes) == 1:
            n += 1
            assert await stranger.send({"n": n, "result": f"done {n}"}) == f"done {n}"
        assert stranger.welcomes == urls
        assert await talk(stranger, range(n + 1, n + 21)) == results(range(n + 1, n + 21))
        await heard_exactly(heard, n + 20)
        assert stranger.codes == [] and not stranger.gaps  # it never was without a connection
        assert stranger.sendings == list(range(1, n + 21))  # nothing was sent twice
        assert await first.await_exit(20) == 0
        await stranger.bye()


async def test_messages_of_a_stream_that_came_while_it_was_away(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False)
    await site.astart()
    heard: Heard = []
    other_heard: Heard = []
    async with (
        asyncio.timeout(60),
        Proxy(site.port) as proxy,
        Stranger(
            [proxy.ws("/room/?stream=news")], lambda *message: heard.append(message), QUICK
        ) as stranger,
        Stranger(
            [site.ws("/room/?stream=news")], lambda *message: other_heard.append(message), QUICK
        ) as publisher,
    ):
        assert await stranger.send({"publish": "news", "data": 1}) == ["news"]
        await eventually(lambda: len(heard) == 1)
        await eventually(lambda: "news" in publisher.streams)
        proxy.refuse()
        await proxy.cut()
        for n in range(2, 40):
            await publisher.send({"publish": "news", "data": n})
        assert len(heard) == 1
        proxy.resume()
        for n in range(40, 61):
            await publisher.send({"publish": "news", "data": n})
        await eventually(lambda: len(heard) >= 60, within=15)
        first = heard[0][1]
        assert heard == [("news", first + n, n + 1) for n in range(60)]
        assert not stranger.gaps
        await asyncio.gather(stranger.bye(), publisher.bye())


async def test_what_comes_over_both_connections_of_a_drain_is_heard_once(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False, nodes=2, settings={"drain_window": 6, "drain_deadline": 12})
    await site.astart()
    first, second = site.nodes
    path = "/room/?stream=news"
    heard: Heard = []
    async with (
        asyncio.timeout(60),
        Proxy(second.port) as slow,
        Stranger(
            [first.ws(path), slow.ws(path)], lambda *message: heard.append(message), QUICK
        ) as stranger,
        Stranger([second.ws(path)], lambda *message: None, QUICK) as publisher,
    ):
        await eventually(lambda: "news" in stranger.streams)
        slow.delay(0.6)  # the hello and its welcome take their time
        first.terminate()
        published = 0
        while len(stranger.welcomes) < 2 or published < 10:
            published += 1
            await publisher.send({"publish": "news", "data": published})
            await asyncio.sleep(0.01)
        await eventually(lambda: len(heard) >= published, within=15)
        assert [(stream, data) for stream, _, data in heard] == [
            ("news", n) for n in range(1, published + 1)
        ]
        assert stranger.codes == [] and not stranger.gaps
        slow.resume()
        await asyncio.gather(stranger.bye(), publisher.bye())
