"""Which connections are closed under memory pressure, how many, and until when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.db import OperationalError

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.models import AuditEntry, Session
from graceful_ws.node import memory, reclaim
from graceful_ws.node.drain import DrainOptions
from graceful_ws.node.node import Node
from graceful_ws.store import audit
from tests.node.kit import store
from tests.node.kit_peer import Peer, running_node
from tests.store.kit import WITHIN
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")
Limits = Callable[..., None]
LIMIT = 1000 * reclaim.EACH


class Quiet(GracefulConsumer):
    handler_timeout = 0.5

    async def receive_json(self, content: Any) -> None:
        if content == "wait":
            await asyncio.sleep(60)


class Light(Quiet):
    resumable = False


class Memory:
    """In place of the real one: so much of LIMIT is used by each connection and all the rest."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.rest = 0
        self.each = 0.0
        self.readable = True

    def __call__(self, limit: int = 0) -> memory.Usage | None:
        used = self.rest + int(self.each * len(self.node.connections))
        return memory.Usage(used, LIMIT, "cgroup") if self.readable else None


@pytest.fixture
async def node(limits: Limits) -> AsyncIterator[Node]:
    limits(reclaim_idle=5.0)
    async with running_node() as node:
        yield node


@pytest.fixture
def used(node: Node, monkeypatch: pytest.MonkeyPatch) -> Memory:
    used = Memory(node)
    monkeypatch.setattr(memory, "usage", used)
    monkeypatch.setattr(memory, "blocks", lambda: 0)
    monkeypatch.setattr(reclaim, "PROGRESS", 0.0)
    monkeypatch.setattr(reclaim, "GONE_WITHIN", 60.0)  # on a busy machine
    monkeypatch.setattr(reclaim, "LEAST", 2)
    monkeypatch.setattr(reclaim, "COLLECTING", 1000.0)  # of a test process is a lot
    return used


@contextlib.asynccontextmanager
async def connected(
    node: Node, count: int, consumer: type[GracefulConsumer] = Quiet, idle: float = 100.0
) -> AsyncIterator[list[Peer]]:
    """Connections on which nothing happened for ``idle`` seconds, and longer for each before."""
    peers = [Peer(consumer) for _ in range(count)]
    answering: list[Any] = []
    for number, peer in enumerate(peers):
        await peer.connect()
        live = live_of(node, peer)
        assert live.machine.welcomed_at is not None
        live.machine.welcomed_at -= idle + count - number
        answering.append(node.spawn(answer(peer)))
    try:
        yield peers
    finally:
        for task in answering:
            task.cancel()
        for peer in peers:
            await peer.cut()


async def answer(peer: Peer) -> None:
    """Returns the close frame, as a client does."""
    await eventually(lambda: peer.closed is not None, 60, "the server closes")
    await peer.cut()


def live_of(node: Node, peer: Peer) -> Any:
    [live] = [
        live
        for live in node.sessions.values()
        if live.attached is not None and str(live.attached.uuid) == peer.welcome["session_id"]
    ]
    return live


def codes(peers: list[Peer]) -> list[int | None]:
    return [None if peer.closed is None else peer.closed["code"] for peer in peers]


async def look(node: Node) -> None:
    await node.reclaimer._look()


async def test_longest_idle_go_first_and_no_more_than_it_takes(node: Node, used: Memory) -> None:
    async with connected(node, 8) as peers:
        used.rest, used.each = int(0.5 * LIMIT), 0.05 * LIMIT  # 90 %
        await look(node)
        assert codes(peers) == [4106] * 2 + [None] * 6  # 80 % is enough
        used.rest += int(0.06 * LIMIT)
        await look(node)
        assert codes(peers) == [4106] * 4 + [None] * 4
        assert node.stats.closes[4106] == 4


async def test_as_many_go_at_once_as_the_excess_is_about_and_a_quarter_at_most(
    node: Node, used: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaim, "EACH", LIMIT // 50)
    async with connected(node, 16) as peers:
        used.each = 0.025 * LIMIT
        used.rest = int(0.46 * LIMIT)  # 86 %: two of 2 % are too many
        await look(node)
        assert codes(peers) == [4106] * 2 + [None] * 14
        used.rest, used.each = int(0.5 * LIMIT), 0.04 * LIMIT  # 106 %, then 94 %, 86 %, 78 %
        await look(node)
        assert codes(peers) == [4106] * 9 + [None] * 7


async def test_nothing_goes_below_the_share_and_the_share_is_told(node: Node, used: Memory) -> None:
    async with connected(node, 3) as peers:
        used.rest = int(0.849 * LIMIT)
        await look(node)
        assert codes(peers) == [None] * 3
        assert node.reclaimer.share == pytest.approx(0.849, abs=0.001)


async def test_active_young_busy_and_light_connections_stay(node: Node, used: Memory) -> None:
    used.rest = LIMIT
    async with (
        connected(node, 4) as idle,
        connected(node, 2, Light) as light,
        connected(node, 1, idle=-10) as young,
    ):
        spoke, heard, works, sleeps = idle
        spoke.say({"type": "volatile", "data": 1})
        await live_of(node, heard).send_data('"news"')
        works.say({"type": "message", "seq": 1, "data": "wait"})
        await eventually(lambda: live_of(node, works).inbox.busy)
        live_of(node, works).machine.last_message_at -= 100
        await eventually(lambda: live_of(node, spoke).machine.last_message_at is not None)
        await heard.gets("message")
        await look(node)
        assert codes([spoke, heard, works, sleeps]) == [None, None, None, 4106]
        assert codes(light + young) == [None] * 3


async def test_session_stays_and_is_resumed_with_the_cause_and_an_audit_entry_is_kept(
    node: Node, used: Memory
) -> None:
    used.rest = int(0.87 * LIMIT)
    async with connected(node, 1, idle=411.0) as [peer]:
        session = uuid.UUID(peer.welcome["session_id"])
        await look(node)
        assert peer.closed is not None
        told = "memory 87 % of 29.3 MiB, idle 412 s"
        assert (peer.closed["code"], peer.closed["reason"]) == (4106, told)

        def row() -> tuple[str, str]:
            return Session.objects.values_list("state", "cause").get(uuid=session)

        def entries() -> list[Any]:
            return list(
                AuditEntry.objects.values_list("session", "event", "code", "reason", "node")
            )

        async with asyncio.timeout(WITHIN):
            while not (kept := await store(entries)):  # noqa: ASYNC110  (another thread writes)
                await asyncio.sleep(0.02)
        assert kept == [(session, "reclaim", 4106, told, node.name)]
        await eventually(lambda: not node.connections)
        assert await store(row) == ("detached", "reclaimed")
        used.rest = 0
        assert (await peer.connect())["resumed"]
        assert node.stats.hellos["resumed", "reclaimed"] == 1


async def test_database_that_fails_costs_the_audit_entries_and_nothing_else(
    node: Node, used: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(audit, "reclaimed", fails)
    used.rest = LIMIT
    async with connected(node, 5) as peers:
        await look(node)
        assert codes(peers) == [4106] * 5
        await eventually(lambda: "are not audited: away" in caplog.text)


async def test_node_that_drains_reclaims_nothing(node: Node, used: Memory) -> None:
    used.rest = LIMIT
    async with connected(node, 2) as peers:
        node.start_drain(DrainOptions(60.0, 1.0, 1.0, 90.0))
        await look(node)
        assert codes(peers) == [None, None]
        assert node.drain is not None
        await node.drain.undo()


async def test_each_batch_is_one_line_in_the_log(
    node: Node, used: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    used.rest = LIMIT
    async with connected(node, 5):
        with caplog.at_level(logging.WARNING, "graceful_ws.reclaim"):
            await look(node)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("reclaim")]
    assert lines == [
        f"reclaims {count} of {left} connections: memory 100 % of 29.3 MiB"
        for count, left in [(2, 5), (2, 3), (1, 1)]
    ]


async def test_memory_that_the_process_keeps_unused_counts_for_nothing(
    node: Node, used: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holes are filled again before it grows: closing more would help nobody."""
    each = LIMIT // 10 // memory.BLOCK  # blocks of a connection
    monkeypatch.setattr(memory, "blocks", lambda: each * len(node.connections))
    monkeypatch.setattr(memory, "resident", lambda: LIMIT)
    used.rest = int(0.9 * LIMIT)
    async with connected(node, 6) as peers:
        await look(node)
        await look(node)
        assert codes(peers) == [4106] * 2 + [None] * 4
        assert node.reclaimer.share == pytest.approx(0.9)


async def test_what_cannot_be_measured_is_said_once_and_reclaims_nothing(
    node: Node, used: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    used.readable = False
    async with connected(node, 1) as peers:
        await look(node)
        await look(node)
        assert codes(peers) == [None]
    assert node.reclaimer.share is None
    assert caplog.text.count("cannot be read here") == 1


async def test_zero_switches_it_off_and_the_share_is_told_all_the_same(
    node: Node, used: Memory, limits: Limits
) -> None:
    limits(reclaim_above=0, reclaim_idle=5.0)
    used.rest = LIMIT
    async with connected(node, 1) as peers:
        await look(node)
        assert codes(peers) == [None]
        assert node.reclaimer.share == 1.0


async def test_real_memory_is_looked_at_all_the_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaim, "EVERY", 0.01)
    await eventually(lambda: node.reclaimer.share, WITHIN, "the share is known")
    assert node.reclaimer.share is not None
    assert 0 < node.reclaimer.share < 1.1
