"""What a process does from SIGTERM to its end."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def http_status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def node_state(site: Site) -> str:
    return str(site.sql("SELECT state FROM graceful_ws_node ORDER BY started_at DESC")[0][0])


async def test_handler_that_runs_at_the_signal_finishes_and_its_answer_is_delivered(
    make_site: MakeSite, server: str
) -> None:
    site = make_site(server=server, settings={"drain_window": 0.2})
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"sleep": 1.0, "result": "finished", "send": 2})
        await raw.message({"result": "not begun"})
        await asyncio.sleep(0.2)
        site.node.terminate()
        drain = await raw.expect("drain")
        assert drain["reason"] == "the server restarts"
        assert (await raw.expect("ack", seq=1))["results"] == {"1": "finished"}
        assert await raw.closed() == (1012, "the server restarts")
        assert raw.numbers == [1, 2, 3]
    assert await site.node.await_exit() == 0
    assert node_state(site) == "stopped"
    assert site.sql("SELECT state, cause, last_client_seq FROM graceful_ws_session") == [
        ("detached", "drain", 1)
    ]


async def test_stuck_handler_does_not_keep_the_process_past_its_deadline(
    make_site: MakeSite, book: LedgerBook, server: str
) -> None:
    settings = {"drain_window": 0.2, "drain_deadline": 3.2}
    site = make_site(server=server, settings=settings, env=book.env)
    book.stop_ticking()
    async with Raw(site.ws("/ledger/")) as raw, Raw(site.ws("/ledger/")) as other:
        await raw.hello()
        await other.hello()
        await raw.message({"n": 1, "sleep": 60})
        await eventually(lambda: book.lines(raw.session_id, "started") == ["1"])
        begun = time.monotonic()
        site.node.terminate()
        assert (await raw.closed())[0] == 1012
        assert (await other.closed())[0] == 1012
        assert await site.node.await_exit(12) == 0
        assert time.monotonic() - begun < 3.2 + 8.0
    assert raw.all("ack") == []
    assert book.lines(raw.session_id, "handled") == []
    assert node_state(site) == "stopped"
    assert site.sql("SELECT DISTINCT state FROM graceful_ws_session") == [("detached",)]
    await site.node.arestart()
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=0, pending_from=1))["resumed"]
        await later.message({"n": 1})
        assert (await later.expect("ack", seq=1))["results"] == {"1": {"handled": 1}}
        await later.bye()


async def test_client_that_never_reads_does_not_keep_the_process_past_its_deadline(
    make_site: MakeSite,
) -> None:
    site = make_site(settings={"drain_window": 0.2, "drain_deadline": 3.2})
    async with Raw(site.ws("/echo/"), max_queue=1) as stuck:
        await stuck.hello()
        stuck.stop_reading()
        await stuck.message({"send": 200, "pad": 16_000})
        await eventually(
            lambda: site.sql("SELECT last_client_seq FROM graceful_ws_session") == [(1,)], 15
        )
        begun = time.monotonic()
        site.node.terminate()
        assert await site.node.await_exit(12) == 0
        assert time.monotonic() - begun < 3.2 + 8.0
    assert site.sql("SELECT state FROM graceful_ws_session") == [("detached",)]


# hypercorn's parent tells its workers once.
@pytest.mark.parametrize(
    ("server", "arguments", "number"),
    [
        ("daphne", (), signal.SIGTERM),
        ("uvicorn", (), signal.SIGINT),
        ("hypercorn", ("-w", "0"), signal.SIGTERM),
    ],
    ids=["daphne", "uvicorn", "hypercorn"],
)
async def test_second_signal_closes_at_once_and_the_same_one_twice_counts_once(
    make_site: MakeSite, server: str, arguments: Sequence[str], number: signal.Signals
) -> None:
    settings = {"drain_window": 30.0, "drain_deadline": 60.0, "drain_rate": 0.1}
    site = make_site(server=server, arguments=arguments, settings=settings)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        site.node.signal(number)
        await raw.expect("drain")
        site.node.signal(number)  # a Ctrl-C reaches a worker twice
        await asyncio.sleep(1.2)
        assert raw.is_open
        begun = time.monotonic()
        site.node.signal(number)
        assert await raw.closed(5) == (1012, "the server restarts")
        assert await site.node.await_exit(8) == 0
        assert time.monotonic() - begun < 10
    assert site.sql("SELECT state FROM graceful_ws_session") == [("detached",)]


async def test_handshakes_during_the_drain_are_refused_and_readiness_says_so(
    make_site: MakeSite, server: str
) -> None:
    site = make_site(server=server, settings={"drain_window": 1.2})
    assert http_status(site.url("/graceful/ready/")) == 200
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        site.node.terminate()
        await raw.expect("drain")
        with pytest.raises(InvalidStatus) as refused:
            async with Raw(site.ws("/echo/")):
                pass
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        assert http_status(site.url("/graceful/ready/")) == 503
        assert http_status(site.url("/graceful/live/")) == 200
        assert await raw.ask({"result": "still served"}) == "still served"
        assert (await raw.closed())[0] == 1012
    assert await site.node.await_exit() == 0


async def test_node_still_accepts_while_the_load_balancer_has_not_looked_away(
    make_site: MakeSite,
) -> None:
    site = make_site(settings={"drain_observe": 1.2, "drain_window": 0.3})
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        site.node.terminate()
        await eventually(lambda: http_status(site.url("/graceful/ready/")) == 503)
        async with Raw(site.ws("/echo/")) as late:
            await late.hello()
            assert raw.all("drain") == []
            assert await late.ask({"result": 1}) == 1
            for client in (raw, late):
                await client.expect("drain")
                assert (await client.closed())[0] == 1012
    assert await site.node.await_exit() == 0


async def test_notices_spread_the_reconnects_at_the_rate_asked(make_site: MakeSite) -> None:
    site = make_site(settings={"drain_window": 12.0, "drain_rate": 20.0, "drain_deadline": 20.0})
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Raw(site.ws("/echo/"), pongs=False)) for _ in range(40)
        ]
        for client in clients:
            await client.hello()
        site.node.terminate()
        notices = [await client.expect("drain") for client in clients]
        slots = sorted(notice["reconnect_in"] / 1000 for notice in notices)
        assert slots[0] < 0.2
        assert 1.7 < slots[-1] <= 2.0
        gaps = [later - sooner for sooner, later in itertools.pairwise(slots)]
        assert max(gaps) < 0.2
        unsorted = [notice["reconnect_in"] for notice in notices]
        assert unsorted != sorted(unsorted), "everybody in the order of arrival"
        assert all(11_000 < notice["close_in"] <= 12_000 for notice in notices)
        begun = time.monotonic()
        for client in clients:
            client.cut()
        assert await site.node.await_exit() == 0
        assert time.monotonic() - begun < 8, "nobody was left to wait for"


async def test_rate_that_does_not_fit_the_window_is_not_obeyed_past_it(make_site: MakeSite) -> None:
    site = make_site(settings={"drain_window": 1.0, "drain_rate": 1.0})
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.ws("/echo/"))) for _ in range(100)]
        for client in clients:
            await client.hello()
        site.node.terminate()
        notices = [await client.expect("drain") for client in clients]
        assert all(notice["reconnect_in"] <= notice["close_in"] <= 1000 for notice in notices)
        codes = {(await client.closed())[0] for client in clients}
        assert codes == {1012}
    assert await site.node.await_exit() == 0
    query = "SELECT state, cause, count(*) FROM graceful_ws_session GROUP BY state, cause"
    assert site.sql(query) == [("detached", "drain", 100)]


async def test_process_without_connections_ends_at_once(make_site: MakeSite, server: str) -> None:
    site = make_site(server=server, settings={"drain_window": 30.0, "drain_deadline": 60.0})
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.bye()
    begun = time.monotonic()
    site.node.terminate()
    assert await site.node.await_exit() == 0
    assert time.monotonic() - begun < 9
    assert node_state(site) == "stopped"


async def test_process_that_never_had_a_connection_ends_at_once(
    make_site: MakeSite, server: str
) -> None:
    site = make_site(server=server, settings={"drain_window": 30.0, "drain_deadline": 60.0})
    begun = time.monotonic()
    site.node.terminate()
    assert await site.node.await_exit() == 0
    assert time.monotonic() - begun < 9


async def test_connection_without_a_hello_is_closed_by_the_drain_too(make_site: MakeSite) -> None:
    site = make_site(settings={"connecting_timeout": 60.0})
    async with Raw(site.ws("/echo/")) as raw:
        await asyncio.sleep(0.2)
        site.node.terminate()
        assert (await raw.closed())[0] == 1012
    assert await site.node.await_exit() == 0
