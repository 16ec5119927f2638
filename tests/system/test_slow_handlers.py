"""Handlers that take long, run out of time, or die inside their transaction."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw, again
from tests.support.robot import robots
from tests.support.servers import SERVERS, Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

VENDORS = ["sqlite", "postgres"]
EFFECTS = "SELECT actor FROM graceful_ws_auditentry WHERE event = 'effect' ORDER BY id"
QUICK_HEARTBEAT = {"heartbeat_interval": 0.5, "heartbeat_timeout": 0.5, "max_missed": 2}


def effects(site: Site) -> list[str]:
    return [name for (name,) in site.sql(EFFECTS)]


@pytest.mark.parametrize("vendor", VENDORS)
async def test_handler_that_times_out_in_its_transaction_is_acked_with_its_effect_or_has_none(
    make_site: MakeSite, book: LedgerBook, vendor: str
) -> None:
    site = make_site(database=vendor, env=book.env)
    outcomes: dict[str, str] = {}
    async with Raw(site.ws("/impatient-transaction/")) as raw:
        await raw.hello()
        for sleep in (0.0, 0.48, 0.5, 0.52, 0.8):
            name = f"slept-{sleep}"
            seq = await raw.message({"name": name, "sleep": sleep, "finished": "finished"})
            await eventually(lambda n=seq: last_outcome(raw, n), 15)
            outcomes[name] = last_outcome(raw, seq)
        await raw.message({"name": "after all"})
        await raw.expect("ack", seq=6)
        await eventually(lambda: finished(book) == 5, 15)
        await raw.bye()
    site.node.terminate()
    assert await site.node.await_exit() == 0  # with it every late thread has ended
    acked = [name for name, outcome in outcomes.items() if outcome == "ack"]
    assert effects(site) == [*acked, "after all"]
    replied = [data["name"] for data in raw.messages]
    assert replied == [*acked, "after all"]
    assert "slept-0.0" in acked
    if vendor == "postgres":  # on SQLite the handler holds the only write lock: it always wins
        assert outcomes["slept-0.8"] == "timeout"


def finished(book: LedgerBook) -> int:
    path = book.directory / "finished"
    return len(path.read_text().split()) if path.exists() else 0


def last_outcome(raw: Raw, seq: int) -> str:
    for frame in raw.frames:
        if frame["type"] == "nack" and frame["seq"] == seq:
            return str(frame["code"])
        if frame["type"] == "ack" and frame["seq"] >= seq:
            return "ack"
    return ""


@pytest.mark.parametrize("server", SERVERS)
async def test_slow_handler_with_a_full_window_does_not_cost_the_heartbeat(
    make_site: MakeSite, server: str
) -> None:
    site = make_site(server=server, settings=QUICK_HEARTBEAT)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"sleep": 2.5, "n": 0})
        for n in range(1, raw.welcomed["limits"]["unacked"]):
            await raw.message({"n": n})
        await raw.expect("ack", seq=64)
        assert raw.is_open
        assert len(raw.all("ping")) >= 3
        assert [data["n"] for data in raw.messages] == list(range(64))
        await raw.bye()


async def test_one_message_past_the_window_is_4201_and_the_session_resumes(
    make_site: MakeSite,
) -> None:
    site = make_site()
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        for n in range(65):
            await raw.message({"sleep": 0.5 if n == 0 else 0, "n": n})
        assert (await raw.closed())[0] == 4201
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=0, pending_from=1)
        assert welcome["resumed"]
        for n in range(welcome["last_client_seq"], 65):
            await later.message({"n": n})
            await later.expect("ack", seq=n + 1)
        await later.got(65)
        assert [data["n"] for data in later.messages] == list(range(65))
        await later.bye()


async def test_ten_second_transaction_on_sqlite_closes_no_socket_and_loses_nothing(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = make_site(env=book.env, settings=QUICK_HEARTBEAT | {"dead_after": 30.0})
    urls = [site.ws("/ledger/")]
    async with robots(3, urls) as found, Raw(site.ws("/transaction/")) as slow:
        await slow.hello()
        await slow.message({"name": "slow", "sleep": 10.0, "started": "started", "result": "done"})
        await eventually(lambda: (book.directory / "started").exists(), 10)
        for robot in found:
            for _ in range(30):
                robot.send({"n": robot.next_seq})
        assert (await slow.expect("ack", 20, seq=1))["results"] == {"1": "done"}
        assert slow.messages[0]["name"] == "slow"
        book.stop_ticking()
        for robot in found:
            await book.complete(robot)
            book.verify(robot)
            assert robot.closes == {}
            assert robot.resumed == 0
            await robot.bye()
        await slow.bye()
    assert effects(site) == ["slow"]


@pytest.mark.parametrize("vendor", VENDORS)
async def test_transaction_killed_in_the_middle_takes_effect_exactly_once_after_the_resume(
    make_site: MakeSite, book: LedgerBook, vendor: str
) -> None:
    site = make_site(database=vendor, env=book.env)
    order: dict[str, Any] = {"name": "effect", "started": "started", "result": "done"}
    order["kill"] = str(Path(book.directory) / "killed")
    async with Raw(site.ws("/transaction/")) as raw:
        await raw.hello()
        await raw.message(order)
        assert await raw.closed() == (1006, "")
    assert await site.node.await_exit() == -signal.SIGKILL
    await site.node.arestart()
    assert effects(site) == []
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=0, pending_from=1))["last_client_seq"] == 0
        await later.message(order)
        assert (await later.expect("ack", seq=1))["results"] == {"1": "done"}
        await later.got(1)
        assert later.messages == [order]
        later.cut()
    async with again(later) as last:  # a resend does nothing any more
        assert (await last.hello(last_seq_id=1, pending_from=1))["last_client_seq"] == 1
        assert (await last.expect("ack", seq=1))["results"] == {"1": "done"}
        await last.send({"type": "message", "seq": 1, "data": order})
        await last.ask({"name": "second"})
        await last.bye()
    assert effects(site) == ["effect", "second"]
    assert len((book.directory / "started").read_text().split()) == 2


async def test_transaction_that_fails_leaves_no_effect_and_no_reply(make_site: MakeSite) -> None:
    site = make_site()
    async with Raw(site.ws("/transaction/")) as raw:
        await raw.hello()
        await raw.message({"name": "none", "fail": "on purpose"})
        await raw.expect("nack", seq=1, code="error")
        await raw.ask({"name": "one"})
        assert [data["name"] for data in raw.messages] == ["one"]
        await raw.bye()
    assert effects(site) == ["one"]


async def test_handler_past_its_time_is_nacked_and_the_next_one_runs(make_site: MakeSite) -> None:
    site = make_site()
    async with Raw(site.ws("/impatient/")) as raw:
        await raw.hello()
        await raw.message({"sleep": 60})
        assert (await raw.expect("nack", seq=1))["code"] == "timeout"
        assert await raw.ask({"result": "next"}) == "next"
        await raw.bye()


async def test_handler_that_outlives_a_short_disconnect_is_not_started_again(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = make_site(env=book.env)
    book.stop_ticking()
    async with Raw(site.ws("/ledger/")) as raw:
        await raw.hello()
        await raw.message({"n": 1, "sleep": 1.0})
        await eventually(lambda: book.lines(raw.session_id, "started") == ["1"])
        raw.cut()
    async with again(raw) as later:
        welcome = await later.hello(last_seq_id=0, pending_from=1)
        assert welcome["last_client_seq"] == 1
        assert (await later.expect("ack", seq=1))["results"] == {"1": {"handled": 1}}
        await later.bye()
    assert book.lines(raw.session_id, "started") == ["1"]
