"""Clients that take their messages late, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.support.leftovers import debug
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

NO_HEARTBEAT = {"heartbeat_interval": 60.0}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def session(site: Site) -> tuple[object, ...]:
    query = (
        "SELECT state, close_code, cause FROM graceful_ws_session WHERE last_seq > 0"
        " ORDER BY id DESC LIMIT 1"
    )
    return next(iter(site.sql(query)), ())


async def stands_still(value: Callable[[], int], within: float = 20.0) -> None:
    """Until a number has not changed for most of a second."""
    last, since = value(), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.8

    await eventually(still, within)


async def ask_quickly(other: Raw, times: int = 10) -> float:
    """The longest of some round trips of another connection, in seconds."""
    longest = 0.0
    for n in range(times):
        begun = time.monotonic()
        await other.ask(n)
        longest = max(longest, time.monotonic() - begun)
    return longest


async def test_reader_that_does_not_acknowledge_gets_one_window_and_then_the_rest_once(
    make_site: MakeSite, server: str
) -> None:
    site = make_site(server=server)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"send": 1000, "echo": False, "result": "all kept"})
        assert (await raw.expect("ack", 30))["results"] == {"1": "all kept"}
        await raw.got(256)
        await raw.ws.ping()
        assert len(raw.messages) == 256
        while len(raw.messages) < 1000:
            had = len(raw.messages)
            await raw.ack(had)
            await eventually(lambda n=had: len(raw.messages) > n, 10)
        assert raw.numbers == list(range(1, 1001))
        assert [data["n"] for data in raw.messages] == list(range(1000))
        await raw.bye()


async def test_window_is_counted_in_bytes_too_and_one_large_message_may_always_go(
    make_site: MakeSite,
) -> None:
    site = make_site(settings={"send_window_bytes": 50_000})
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask({"send": 4, "pad": 400_000, "echo": False})
        for n in range(1, 5):
            await raw.got(n)
            await raw.ws.ping()
            assert raw.numbers == list(range(1, n + 1))
            await raw.ack(n)
        await raw.bye()


async def test_client_that_stops_reading_costs_bounded_memory_and_delays_nobody(
    make_site: MakeSite,
) -> None:
    site = make_site(settings=NO_HEARTBEAT)
    async with Raw(site.ws("/echo/"), max_queue=1) as stuck, Raw(site.ws("/echo/")) as other:
        await stuck.hello()
        await other.hello()
        await ask_quickly(other)
        stuck.stop_reading()
        before = debug(site.node)["peak_kib"]
        await stuck.message({"send": 1200, "pad": 16_000, "echo": False})
        kept = "SELECT max(last_seq) FROM graceful_ws_session"
        longest = 0.0
        async with asyncio.timeout(60):
            while site.sql(kept)[0][0] < 1200:
                longest = max(longest, await ask_quickly(other))
        assert debug(site.node)["peak_kib"] - before < 10 * 1024  # of 19 MB
        assert longest < 1.0
        stuck.read_on()
        while len(stuck.messages) < 1200:
            had = len(stuck.messages)
            await stuck.ack(had)
            await eventually(lambda n=had: len(stuck.messages) > n, 10)
        assert stuck.numbers == list(range(1, 1201))
        await stuck.bye()
        await other.bye()


async def test_reader_that_answers_pings_and_takes_nothing_is_closed_4103_and_resumes(
    make_site: MakeSite, server: str
) -> None:
    settings = {"progress_timeout": 1.5, "heartbeat_interval": 0.5, "send_window": 10}
    site = make_site(server=server, settings=settings)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"send": 50, "echo": False})
        assert (await raw.closed(12))[0] == 4103
    await eventually(lambda: session(site) == ("detached", 4103, "lost"))
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=raw.numbers[-1]))["resumed"]
        while not later.numbers or later.numbers[-1] < 50:
            await later.expect("message")
            await later.ack(later.numbers[-1])
        assert raw.numbers + later.numbers == list(range(1, 51))
        await later.bye()


async def test_reader_that_makes_a_little_progress_is_never_closed_for_being_slow(
    make_site: MakeSite,
) -> None:
    settings = {"progress_timeout": 1.5, "heartbeat_interval": 0.5, "send_window": 2}
    site = make_site(settings=settings)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"send": 20, "echo": False})
        for n in range(1, 8):
            await raw.got(n)
            await asyncio.sleep(0.6)
            await raw.ack(n)
        assert raw.is_open
        await raw.bye()


async def test_client_whose_tcp_connection_is_full_is_closed_4103_in_time_and_resumes(
    make_site: MakeSite, server: str
) -> None:
    settings = NO_HEARTBEAT | {"progress_timeout": 1.5, "closing_timeout": 1.0}
    site = make_site(server=server, settings={**settings, "send_window_bytes": 8 * 1024 * 1024})
    async with Raw(site.ws("/echo/"), max_queue=1) as stuck:
        await stuck.hello()
        stuck.stop_reading()
        await stuck.message({"send": 500, "pad": 16_000, "echo": False})
        await eventually(lambda: session(site) == ("detached", 4103, "lost"), 15)
        await stuck.closed()
    async with again(stuck) as later:
        had = stuck.numbers[-1] if stuck.numbers else 0
        assert (await later.hello(last_seq_id=had))["resumed"]
        while had + len(later.messages) < 500:
            await later.expect("message")
            await later.ack(later.numbers[-1])
        assert stuck.numbers + later.numbers == list(range(1, 501))
        await later.bye()


@pytest.mark.parametrize("path", ["/echo/", "/light/"])
async def test_volatile_messages_to_a_stuck_client_are_dropped_not_piled_up(
    shared_site: MakeSite, server: str, path: str
) -> None:
    site = shared_site(server=server, settings=NO_HEARTBEAT)
    async with Raw(site.ws(path), max_queue=1) as stuck:
        await stuck.hello()
        before = debug(site.node)["peak_kib"]
        stuck.stop_reading()
        await stuck.message({"send": 4000, "pad": 16_000, "echo": False, "volatile": True})
        handled = "SELECT max(last_client_seq) FROM graceful_ws_session"
        if path == "/echo/":
            await eventually(lambda: site.sql(handled)[0][0], 20)
        await stands_still(lambda: debug(site.node)["peak_kib"])
        grown = debug(site.node)["peak_kib"] - before
        stuck.cut()
    assert grown < 24 * 1024, "of 64 MB"


async def test_messages_of_a_consumer_without_journal_wait_for_the_window(
    make_site: MakeSite,
) -> None:
    site = make_site(settings=NO_HEARTBEAT | {"send_window_bytes": 20 * 1018 - 10})
    async with Raw(site.ws("/light/")) as raw:
        assert (await raw.hello())["session_token"] is None
        await raw.message({"send": 200, "pad": 964, "echo": False, "result": "all"})
        while len(raw.messages) < 200:
            await raw.expect("message")
            await raw.ack(raw.numbers[-1])
        await raw.expect("ack", seq=1)
        assert raw.all("gap") == []
        assert raw.numbers == list(range(1, 201))
        await raw.bye()


@pytest.mark.parametrize(("count", "size"), [(4000, 16_000), (128, 500_000)])
async def test_plain_client_that_does_not_read_makes_its_handler_wait(
    shared_site: MakeSite, server: str, count: int, size: int
) -> None:
    site = shared_site(server=server, settings=NO_HEARTBEAT)
    async with Raw(site.ws("/echo/"), plain=True, max_queue=1) as stuck:
        before = debug(site.node)["peak_kib"]
        stuck.stop_reading()
        await stuck.send({"send": count, "pad": size, "echo": False})
        await stands_still(lambda: debug(site.node)["peak_kib"])
        grown = debug(site.node)["peak_kib"] - before
        stuck.cut()
    assert grown < 24 * 1024, "of 64 MB"
