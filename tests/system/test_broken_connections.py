"""Connections that break at the worst place, and clients that come twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.support.ledger import LedgerBook
from tests.support.proxy import Direction, Proxy
from tests.support.raw import Raw, again
from tests.support.robot import robots
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite


@pytest.fixture
def site(shared_site: MakeSite) -> Site:
    return shared_site()


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[Proxy]:
    async with Proxy(site.port) as proxy:
        yield proxy


def generation(site: Site) -> int:
    """Of the session that was made last."""
    query = "SELECT generation FROM graceful_ws_session ORDER BY id DESC LIMIT 1"
    return int(site.sql(query)[0][0])


@pytest.mark.parametrize(
    ("server", "direction"),
    [("daphne", "to_server"), *((server, "to_client") for server in SERVERS)],
)
async def test_cuts_in_the_middle_of_frames_lose_duplicate_and_reorder_nothing(
    make_site: MakeSite, book: LedgerBook, server: str, direction: Direction
) -> None:
    site = make_site(server=server, env=book.env)
    async with Proxy(site.port) as proxy, robots(1, [proxy.ws("/ledger/")]) as [robot]:
        for cut in range(1, 9):
            done, had = len(robot.results), len(robot.received)
            for _ in range(30):
                robot.send({"n": robot.next_seq})
            await eventually(lambda n=done: len(robot.results) > n + 5, 15)
            await eventually(lambda n=had: len(robot.received) > n + 5, 15)
            robot.send({"n": robot.next_seq})
            proxy.cut_after_bytes(7 + 13 * cut, direction)
            robot.send({"n": robot.next_seq})
            await eventually(lambda n=cut: proxy.cuts == n, 15, "a cut")
            await eventually(lambda n=cut: robot.resumed == n and robot.connected, 15)
        book.stop_ticking()
        await book.complete(robot)
        book.verify(robot)
        await robot.bye()
    assert robot.closes == {1006: 8}


async def test_lost_welcome_of_a_resume_is_asked_for_again(site: Site, proxy: Proxy) -> None:
    async with Raw(site.ws("/echo/")) as first:
        await first.hello()
        await first.ask({"send": 5, "echo": False})
    async with again(first, proxy.ws("/echo/")) as second:
        proxy.cut_at(b'"welcome"')
        await second.hello(later=True, last_seq_id=2)
        assert await second.closed() == (1006, "")
    assert proxy.cuts == 1
    async with again(second, site.ws("/echo/")) as third:
        welcome = await third.hello(last_seq_id=2)
        assert (welcome["resumed"], welcome["head"], welcome["last_client_seq"]) == (True, 5, 1)
        await third.ask({"echo": True})
        assert third.numbers == [3, 4, 5, 6]
        await third.bye()


async def test_lost_ack_comes_again_with_the_result_and_the_handler_ran_once(
    shared_site: MakeSite,
) -> None:
    site = shared_site()
    async with Proxy(site.port) as proxy, Raw(proxy.ws("/echo/")) as first:
        await first.hello()
        proxy.cut_at(b'"ack"')
        await first.message({"result": "the answer"})
        assert await first.closed() == (1006, "")
    async with again(first, site.ws("/echo/")) as second:
        welcome = await second.hello(last_seq_id=0, pending_from=1)
        assert welcome["last_client_seq"] == 1
        ack = await second.expect("ack", seq=1)
        assert ack["results"] == {"1": "the answer"}
        # A client that resends what it need not gets an ack, and no second run.
        await second.send({"type": "message", "seq": 1, "data": {"result": "other"}})
        assert (await second.expect("ack", seq=1)).get("results") is None
        await second.ask({"echo": False})
        assert second.messages == [{"result": "the answer"}]
        await second.bye()


async def test_same_resume_twice_refuses_the_second_and_changes_nothing(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as lost:
        await lost.hello()
        await lost.ask("before")
    async with again(lost) as first, again(lost) as second:
        await first.hello(last_seq_id=1)
        before = generation(site)
        await second.hello(later=True, last_seq_id=1)
        assert (await second.closed())[0] == 4104
        assert generation(site) == before
        assert second.all("welcome") == []
        await first.ask("still here")
        assert first.messages == ["still here"]
        await first.bye()


async def test_abandoned_hello_that_attaches_late_does_not_overtake_its_successor(
    site: Site, proxy: Proxy
) -> None:
    async with Raw(site.ws("/echo/")) as lost:
        await lost.hello()
        await lost.ask("before")
    async with again(lost, proxy.ws("/echo/")) as abandoned:
        proxy.delay(0.7)
        await abandoned.hello(later=True, last_seq_id=1)
        async with again(abandoned, site.ws("/echo/")) as successor:
            await successor.hello(last_seq_id=1)
            before = generation(site)
            assert (await abandoned.closed())[0] == 4104
            assert generation(site) == before
            await successor.ask("still here")
            assert successor.messages == ["still here"]
            await successor.bye()


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
async def test_zombie_of_a_duplicated_tab_writes_nothing_after_the_take_over(
    make_site: MakeSite, book: LedgerBook, vendor: str, nodes: int
) -> None:
    site = make_site(nodes=nodes, env=book.env, database=vendor)
    async with Raw(site.nodes[0].ws("/zombie/")) as old:
        await old.hello()
        await eventually(lambda: len(old.messages) > 30)
        mine = old.messages[0]["tick"].split(":")[0]
        async with Raw(site.nodes[-1].ws("/zombie/"), token=old.token) as new:
            welcome = await new.hello(last_seq_id=0)
            assert welcome["resumed"]
            await old.message({"n": 1})  # an order to the former owner
            assert (await old.expect("superseded", 8))["instance"] == new.instance
            assert (await old.closed())[0] == 4501
            assert old.all("ack") == []
            for seen in (*range(200, welcome["head"], 200), welcome["head"]):  # a window is 256
                await new.got(seen)
                await new.ack(seen)
            await new.got(welcome["head"] + 30)
            book.stop_ticking()
            fenced = await eventually(lambda: book.lines(old.session_id, "fenced"), 5)
            accepted = [tick for tick in book.accepted(old.session_id) if tick not in fenced]
            await eventually(
                lambda: set(accepted) <= {data["tick"] for data in new.messages}, 5, str(accepted)
            )
        owners = [data["tick"].split(":")[0] for data in new.messages]
        assert owners[: welcome["head"]] == [mine] * welcome["head"]
        assert mine not in owners[welcome["head"] :]
        assert new.numbers == list(range(1, len(new.messages) + 1))
        assert len([tick for tick in accepted if tick.startswith(mine)]) <= welcome["head"]


async def test_client_that_reconnects_before_its_old_socket_is_noticed_goes_on(
    site: Site, proxy: Proxy
) -> None:
    async with Raw(proxy.ws("/echo/")) as old:
        await old.hello()
        await old.ask("one")
        proxy.swallow()  # the server sees an open connection
        async with again(old, site.ws("/echo/")) as new:
            welcome = await new.hello(last_seq_id=1)
            assert (welcome["resumed"], welcome["last_client_seq"]) == (True, 1)
            await new.ask("two")
            assert new.messages == ["two"]
            proxy.resume()
            await old.expect("superseded", instance=old.instance)
            assert (await old.closed())[0] == 4501
            await new.ask("three")
            await new.bye()


async def test_storm_of_hellos_for_one_session_ends_with_one_owner(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as lost:
        await lost.hello()
        await lost.ask("before")
    attempts = itertools.count(lost.attempt)
    clients = [
        Raw(site.ws("/echo/"), instance=lost.instance, token=lost.token, attempt=next(attempts))
        for _ in range(12)
    ]
    try:
        await asyncio.gather(*(client.__aenter__() for client in clients))
        await asyncio.gather(*(client.hello(later=True, last_seq_id=1) for client in clients))
        last = clients[-1]
        await last.welcome()
        codes = [(await client.closed())[0] for client in clients[:-1]]
        assert set(codes) <= {4104, 4501}
        await last.ask("the last")
        assert last.messages == ["the last"]
        await last.bye()
    finally:
        for client in clients:
            await client.__aexit__()


async def test_take_over_that_came_to_nothing_does_not_leave_the_owner_unheard(
    site: Site,
) -> None:
    async with Raw(site.ws("/echo/")) as owner:
        await owner.hello()
        await owner.message({"sleep": 1.0})
        async with Raw(site.ws("/echo/"), token=owner.token) as other:
            await other.hello(later=True)
            await other.ws.ping()
            other.cut()
        await owner.message("next")
        code, _ = await owner.closed()
        assert code == 4104
    async with again(owner) as later:
        assert (await later.hello(last_seq_id=0, pending_from=1))["resumed"]
        if later.welcomed["last_client_seq"] == 1:
            await later.ask("next")
        await later.bye()


@pytest.mark.parametrize("server", SERVERS)
async def test_clients_that_vanish_at_any_moment_leave_nothing_behind(
    shared_site: MakeSite, server: str
) -> None:
    site = shared_site(server=server)  # whose fixture looks for what is left

    async def vanish(n: int) -> None:
        async with Raw(site.ws("/echo/"), plain=n % 5 == 4) as raw:
            if n % 5 < 4:
                await raw.hello(later=True)
            for word in range(n % 7):
                await raw.message({"send": 3, "n": word})
            await asyncio.sleep(0.002 * (n % 11))
            if n % 3:
                raw.cut()
            else:
                await raw.ws.close(1001)

    await asyncio.gather(*(vanish(n) for n in range(120)))
