"""What cannot be delivered is told: cut away by retention, or lost with an older database."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.database_url import database_settings
from tests.support.outside import outside
from tests.support.raw import Raw, again
from tests.support.servers import Site
from tests.system.conftest import MakeSite

ROOM = "room"
PURGE = (
    "from graceful_ws.store import retention\n"
    "while retention.purge() + retention.trim_streams(): pass"
)


def gaps(raw: Raw) -> list[tuple[Any, ...]]:
    """Stream (None: the session's own), reason and head of each gap."""
    return [(one.get("stream"), one["reason"], one["head"]) for one in raw.all("gap")]


def database_file(site: Site) -> Path:
    return Path(database_settings(site.database.url)["NAME"])


def back_up(site: Site, copy: Path) -> None:
    source, target = sqlite3.connect(database_file(site)), sqlite3.connect(copy)
    with target:
        source.backup(target)
    source.close()
    target.close()


def restore(site: Site, copy: Path) -> None:
    """To be called while the nodes are stopped."""
    for suffix in ("-wal", "-shm"):
        Path(f"{database_file(site)}{suffix}").unlink(missing_ok=True)
    database_file(site).write_bytes(copy.read_bytes())


async def stop(site: Site) -> None:
    for node in site.nodes:
        node.terminate()
    for node in site.nodes:
        await node.await_exit()


# --- retention --------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
async def test_who_comes_back_behind_what_retention_left_is_told_and_goes_on(
    make_site: MakeSite, vendor: str
) -> None:
    site = make_site(database=vendor, nodes=2, settings={"journal_rows": 10})
    async with outside(site.env) as process:
        async with Raw(site.nodes[0].ws("/room/")) as raw:
            await raw.hello()
            epoch, _ = await raw.follow(ROOM)
            await process.run(f"publish({ROOM!r}, 1)")
            await raw.has(ROOM, 1)
            await raw.ask({"send": "own"})
            raw.cut()
        await process.run(f"for n in range(2, 31): publish({ROOM!r}, n)")
        await process.run(PURGE)
        async with again(raw, site.nodes[1].ws("/room/")) as later:
            await later.hello(last_seq_id=1, positions={ROOM: [epoch, 1]})
            gap = await later.expect("gap", stream=ROOM)
            assert (gap["reason"], gap["from"], gap["oldest"]) == ("trimmed", 2, 21)
            assert (gap["head"], gap["epoch"]) == (30, epoch)
            await process.run(f"publish({ROOM!r}, 31)")
            assert await later.has(ROOM, 31) == [(31, 31)]
            assert len(gaps(later)) == 1
            later.cut()
        # Who is as far as what is left misses nothing.
        async with again(later, site.nodes[0].ws("/room/")) as third:
            await third.hello(last_seq_id=1, positions={ROOM: [epoch, 25]})
            assert await third.has(ROOM, 31) == [(n, n) for n in range(26, 32)]
            assert gaps(third) == []
            await third.bye()


async def test_retention_that_cuts_under_a_slow_client_is_told_and_quick_ones_miss_nothing(
    make_site: MakeSite,
) -> None:
    limits = {"journal_bytes": 300_000, "send_bytes": 100_000, "send_window": 8}
    site = make_site(settings=limits)
    count, size = 40, 60_000  # more than a node keeps at hand
    async with (
        Raw(site.ws("/room/")) as slow,
        Raw(site.ws("/room/")) as quick,
        outside(site.env) as process,
    ):
        for raw in (slow, quick):
            await raw.hello()
            await raw.follow(ROOM)
        code = f"for n in range({count}): publish({ROOM!r}, 'x' * {size}); time.sleep(0.005)"
        await process.start(code)
        for n in range(1, count + 1):
            await quick.has(ROOM, n)
            await quick.send({"type": "ack", "seq": 0, "streams": {ROOM: n}})
        await process.done()
        assert [seq for seq, _ in slow.stream(ROOM)] == list(range(1, 9))
        await process.run(PURGE)
        await slow.send({"type": "ack", "seq": 0, "streams": {ROOM: 8}})
        gap = await slow.expect("gap", stream=ROOM)
        assert (gap["reason"], gap["from"], gap["head"]) == ("trimmed", 9, count)
        await process.run(f"publish({ROOM!r}, 'after')")
        for raw in (slow, quick):
            assert (await raw.has(ROOM, count + 1))[-1] == (count + 1, "after")
        assert [seq for seq, _ in slow.stream(ROOM)] == [*range(1, 9), count + 1]
        assert [seq for seq, _ in quick.stream(ROOM)] == list(range(1, count + 2))
        assert gaps(quick) == []
        for raw in (slow, quick):
            await raw.bye()


# --- an older database ------------------------------------------------------------------------


@pytest.mark.parametrize("rotated", [True, False], ids=["rotate_epochs", "forgotten"])
async def test_database_restored_while_the_nodes_are_stopped_is_told(
    make_site: MakeSite, tmp_path: Path, rotated: bool
) -> None:
    site = make_site(nodes=2)
    async with Raw(site.nodes[0].ws("/room/")) as raw:
        await raw.hello()
        epoch, _ = await raw.follow(ROOM)
        for n in (1, 2):
            await raw.ask({"publish": ROOM, "data": n})
            await raw.ask({"send": n})
        await raw.has(ROOM, 2)
        await asyncio.to_thread(back_up, site, tmp_path / "backup")
        for n in (3, 4, 5):
            await raw.ask({"publish": ROOM, "data": n})
            await raw.ask({"send": n})
        await raw.has(ROOM, 5)
        raw.cut()
    await stop(site)
    restore(site, tmp_path / "backup")
    if rotated:
        await site.adjango("rotate_epochs")
    await site.astart()
    async with again(raw, site.nodes[1].ws("/room/")) as later:
        welcome = await later.hello(last_seq_id=5, positions={ROOM: [epoch, 5]})
        assert welcome["resumed"]
        assert welcome["streams"][ROOM]["state"] == "gap"
        assert (welcome["streams"][ROOM]["epoch"] != epoch) == rotated
        await later.expect("gap", stream=ROOM)
        reason = "epoch" if rotated else "ahead"
        assert sorted(gaps(later), key=str) == [(ROOM, reason, 2), (None, "ahead", 2)]
        await later.ask({"publish": ROOM, "data": "after"})
        await later.ask({"send": "after"})
        assert await later.has(ROOM, 3) == [(3, "after")]
        assert later.own == [(3, "after")]
        await later.bye()


async def test_database_that_went_back_under_running_nodes_is_noticed_within_seconds(
    make_site: MakeSite,
) -> None:
    site = make_site(database="postgres", nodes=2)
    async with (
        Raw(site.nodes[0].ws("/room/")) as one,
        Raw(site.nodes[1].ws("/room/")) as two,
        outside(site.env) as process,
    ):
        for raw in (one, two):
            await raw.hello()
            epoch, _ = await raw.follow(ROOM)
        await process.run(f"for n in range(1, 6): publish({ROOM!r}, n)")
        for raw in (one, two):
            await raw.has(ROOM, 5)
        go_back = (
            "from graceful_ws.models import Stream, StreamMessage\n"
            "with transaction.atomic():\n"
            "    Stream.objects.update(head=2)\n"
            "    StreamMessage.objects.filter(seq__gt=2).delete()\n"
        )
        await process.run(go_back)
        told = []
        for raw in (one, two):
            gap = await raw.expect("gap", within=5, stream=ROOM)
            assert (gap["reason"], gap["head"]) == ("epoch", 2)
            told.append(gap["epoch"])
        assert told[0] == told[1] != epoch
        await process.run(f"publish({ROOM!r}, 'after')")
        for raw in (one, two):
            await raw.expect("message", stream=ROOM, seq=3, data="after")
            assert raw.stream(ROOM) == [*((n, n) for n in range(1, 6)), (3, "after")]
            await raw.bye()


async def test_rotation_is_told_to_who_is_there(make_site: MakeSite) -> None:
    site = make_site()
    async with Raw(site.ws("/room/")) as raw:
        await raw.hello()
        epoch, _ = await raw.follow(ROOM)
        await raw.ask({"publish": ROOM, "data": 1})
        await raw.has(ROOM, 1)
        await site.adjango("rotate_epochs")
        gap = await raw.expect("gap", within=5, stream=ROOM)
        assert (gap["reason"], gap["head"]) == ("epoch", 1)
        assert gap["epoch"] != epoch
        await raw.ask({"publish": ROOM, "data": 2})
        assert await raw.has(ROOM, 2) == [(1, 1), (2, 2)]
        await raw.bye()
