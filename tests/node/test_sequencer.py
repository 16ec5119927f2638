"""The sequencer: whose row somebody holds, or who is refused, stops nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from graceful_ws.models import StreamMessage
from graceful_ws.node import sequencer as module
from graceful_ws.node.sequencer import Sequencer
from graceful_ws.node.threads import Threads
from graceful_ws.store import streams
from tests.node.kit import store
from tests.support.databases import Database
from tests.support.waiting import eventually

WITHIN = 10.0


class Site:
    """What a sequencer needs of its node."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.services = Threads("service", 2, 256)
        self.journal = SimpleNamespace(threads=Threads("writer", 1, 64))
        self.sessions: dict[int, Any] = {}
        self.heard: list[tuple[str, int, int]] = []
        self.said: list[str] = []
        self.hub = SimpleNamespace(hear=self._hear, look_at_all=lambda: None)
        self.backplane = SimpleNamespace(send=lambda group, envelope: self.said.append(group))
        self.sequencer = Sequencer(self)  # type: ignore[arg-type]

    def _hear(self, name: str, epoch: str, first: int, head: int, data: list[str]) -> None:
        self.heard.append((name, first, head))

    def heads(self) -> dict[str, int]:
        return {name: head for name, _, head in self.heard}


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    site = Site()
    running = asyncio.create_task(site.sequencer.run())
    try:
        yield site
        assert not running.done(), "the sequencer ended by itself"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await eventually(lambda: not site.sequencer._work, WITHIN, "nothing is left in work")
        for threads in (site.services, site.journal.threads):
            await threads.stop()
        await site.sequencer.stop(1.0)


async def test_what_nobody_asked_for_is_found(site: Site) -> None:
    await store(streams.leave, "a", "1")
    await eventually(lambda: site.heads() == {"a": 1}, WITHIN)


async def test_more_than_one_transaction_takes_is_numbered_to_the_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BATCH", 10)
    for n in range(35):
        await store(streams.leave, "a", str(n))
    site.sequencer.ask(["a"])
    await eventually(lambda: site.heads() == {"a": 35}, WITHIN)
    firsts = [first for _, first, _ in site.heard]
    assert firsts == sorted(firsts)


@pytest.mark.postgres_only
async def test_a_stream_whose_row_somebody_holds_stops_no_other(
    site: Site, database: Database
) -> None:
    await store(streams.create, ["held"])
    with psycopg.connect(database.url) as other:
        other.execute("SELECT * FROM graceful_ws_stream WHERE name = 'held' FOR UPDATE")
        await store(streams.leave, "held", "1")
        site.sequencer.ask(["held"])
        for n in range(5):
            await store(streams.leave, f"free {n}", "1")  # nobody asks: the sweep goes on too
        await eventually(lambda: len(site.heads()) == 5, WITHIN)
        assert "held" not in site.heads()
        other.rollback()
    await eventually(lambda: site.heads().get("held") == 1, WITHIN)


async def test_a_stream_that_is_refused_stops_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = streams.number

    def refuse(name: str) -> Any:
        if name == "broken":
            raise ZeroDivisionError(name)
        return number(name)

    monkeypatch.setattr(streams, "number", refuse)
    monkeypatch.setattr(module, "AGAIN", 0.05)
    for name in ("broken", "a", "b", "c"):
        await store(streams.leave, name, "1")
    site.sequencer.ask(["broken", "a", "b", "c"])
    await eventually(lambda: site.heads() == {"a": 1, "b": 1, "c": 1}, WITHIN)
    monkeypatch.setattr(streams, "number", number)
    await eventually(lambda: site.heads().get("broken") == 1, WITHIN, "tried again by the sweep")


async def test_a_stream_that_was_cleared_away_goes_on_behind_what_is_there(site: Site) -> None:
    await store(streams.leave, "a", "1")
    await eventually(lambda: site.heads() == {"a": 1}, WITHIN)

    def clear_away() -> None:
        from graceful_ws.models import Stream

        Stream.objects.all().delete()

    await store(clear_away)
    await store(streams.leave, "a", "2")
    site.sequencer.ask(["a"])
    await eventually(lambda: site.heads() == {"a": 2}, WITHIN)
    numbers = StreamMessage.objects.order_by("seq").values_list("seq", "data")
    assert await store(lambda: list(numbers)) == [(1, "1"), (2, "2")]
