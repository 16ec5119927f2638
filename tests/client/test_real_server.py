"""The client against the real thing: Daphne, with the tests' consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from graceful_ws.client import (
    Event,
    GracefulClient,
    MessageAcknowledged,
    Nacked,
    RoundTrip,
    connect,
)
from tests.support.servers import Site
from tests.support.waiting import eventually

from .peers import FAST


def client_of(site: Site, path: str = "/echo/", **options: object) -> GracefulClient:
    urls = [node.ws(path) for node in site.nodes]
    return connect(urls, **{"backoff": FAST, "reconnect_window": 0.2, **options})


async def test_messages_survive_cuts_in_both_directions(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    async with asyncio.timeout(30), client_of(site) as client:
        got = []
        for n in range(60):
            await client.send({"n": n, "result": n}, wait=False)
            if n % 20 == 10:
                client.abort()
            if n % 20 == 19:
                got += [await client.receive() for _ in range(20)]
        assert [(message.seq, message.data["n"]) for message in got] == [
            (n + 1, n) for n in range(60)
        ]
        assert client.resumes == 3
        assert client.close_codes == {1006: 3}
        assert await client.send({"result": "last"}) == "last"
    assert client.close_codes == {1006: 3, 1000: 1}
    rows = "SELECT state, cause FROM graceful_ws_session"
    await eventually(lambda: site.sql(rows) == [("ended", "bye")])


async def test_results_and_nacks_come_back(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    events: list[Event] = []
    async with asyncio.timeout(30), client_of(site, on_event=events.append) as client:
        assert await client.send({"result": {"x": "é 😀"}}) == {"x": "é 😀"}
        with pytest.raises(Nacked) as raised:
            await client.send({"fail": "on purpose", "echo": False})
        assert raised.value.code == "error"
        assert await client.send({"echo": False}) is None
    assert len([e for e in events if isinstance(e, MessageAcknowledged)]) == 2


async def test_kill_of_the_server_loses_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False)
    await site.astart()
    async with asyncio.timeout(60), client_of(site, "/transaction/") as client:
        before = [await client.send({"n": n, "result": n}) for n in range(5)]
        waiting = asyncio.create_task(client.send({"n": 5, "result": 5}))
        await site.node.arestart()
        assert [*before, await waiting] == [0, 1, 2, 3, 4, 5]
        assert await client.send({"n": 6, "result": 6}) == 6
        assert [(await client.receive()).data["n"] for _ in range(7)] == [0, 1, 2, 3, 4, 5, 6]
        assert client.resumes == 1


async def test_drain_moves_the_client_to_the_other_node(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False, nodes=2, settings={"drain_window": 3, "drain_deadline": 10})
    await site.astart()
    first, second = site.nodes
    async with asyncio.timeout(60), client_of(site, random=lambda: 0.0) as client:
        assert client.endpoint == first.ws("/echo/")
        assert await client.send({"n": 1, "result": 1}) == 1
        first.terminate()
        n = 1
        while client.endpoint != second.ws("/echo/"):
            n += 1
            assert await client.send({"n": n, "result": n}) == n
        assert [(await client.receive()).data["n"] for _ in range(n)] == list(range(1, n + 1))
        assert client.close_codes == {}
        assert client.resent == 0
        assert await first.await_exit(15) == 0
        assert await client.send({"echo": False, "result": "still here"}) == "still here"


async def test_client_that_hangs_is_closed_by_the_server_and_resumes(
    make_site: Callable[..., Site],
) -> None:
    heartbeat = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.2, "closing_timeout": 0.5}
    site = make_site(start=False, settings=heartbeat)
    await site.astart()
    async with asyncio.timeout(30), client_of(site) as client:
        await client.send({"n": 1})
        client.pause_reading()
        rows = "SELECT state, cause FROM graceful_ws_session"
        await eventually(lambda: site.sql(rows) == [("detached", "timeout")], within=10)
        client.resume_reading()
        await eventually(lambda: client.resumes == 1, within=10)
        assert await client.send({"n": 2, "result": "back"}) == "back"
        assert [(await client.receive()).data["n"] for _ in range(2)] == [1, 2]


async def test_rtt_is_known_at_once_and_by_heartbeats(
    make_site: Callable[..., Site],
) -> None:
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 1, "rtt_interval": 0.2}
    site = make_site(start=False, settings=settings)
    await site.astart()
    events: list[Event] = []
    async with asyncio.timeout(30), client_of(site, on_event=events.append) as client:
        measured = await eventually(lambda: [e for e in events if isinstance(e, RoundTrip)], 10)
        assert measured[0].own and client.rtt == measured[0].seconds
        await eventually(lambda: any(isinstance(e, RoundTrip) and not e.own for e in events), 10)
        assert client.rtt is not None and 0 < client.rtt < 1
