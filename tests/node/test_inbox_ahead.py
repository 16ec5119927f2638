"""The next handler runs while the outcome of the one before is written, and no further one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import Session
from graceful_ws.node.live import LiveConnection
from graceful_ws.node.node import Node
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Complete
from tests.node.kit import soon, store, writer_held
from tests.node.kit_peer import Peer, running_node
from tests.store.kit import WITHIN
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


class Handler(GracefulConsumer):
    """Notes what is started; ``gates`` hold a handler up, ``errors`` are what it raises then."""

    started: ClassVar[list[int]] = []
    gates: ClassVar[dict[int, asyncio.Event]] = {}
    errors: ClassVar[dict[int, Exception]] = {}

    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        self.started.append(content)
        if content in self.gates:
            await self.gates[content].wait()
        if content in self.errors:
            raise self.errors.pop(content)


class Echo(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        await self.send_json(content)


@pytest.fixture(autouse=True)
def nothing_happened() -> Iterator[None]:
    yield
    for noted in (Handler.started, Handler.gates, Handler.errors):
        noted.clear()  # type: ignore[attr-defined]


@pytest.fixture
async def node(database: Database) -> AsyncIterator[Node]:
    async with running_node() as node:
        yield node


@pytest.fixture
async def peer(node: Node) -> AsyncIterator[Peer]:
    peer = Peer(Handler)
    await peer.connect()
    yield peer
    await peer.cut()


def say(peer: Peer, *numbers: int) -> None:
    for number in numbers:
        peer.say({"type": "message", "seq": number, "data": number})


def the_only(node: Node) -> LiveConnection:
    (live,) = node.connections
    return live


def answers(peer: Peer) -> list[tuple[str, int]]:
    return [(frame["type"], frame["seq"]) for frame in peer.frames if frame["type"].endswith("ack")]


async def started(*numbers: int) -> None:
    """These and no others, once and in this order; and those that may come have had the time."""
    await eventually(lambda: Handler.started[len(numbers) - 1 :], WITHIN, "a handler starts")
    for _ in range(20):
        await asyncio.sleep(0)
    assert Handler.started == list(numbers)


async def done(peer: Peer, number: int) -> None:
    await eventually(lambda: ("ack", number) in answers(peer), WITHIN, f"ack of {number}")


# --- how far ----------------------------------------------------------------------------------


async def test_one_handler_starts_before_the_outcome_of_the_one_before_is_kept(
    node: Node, peer: Peer
) -> None:
    async with writer_held(node.journal):
        say(peer, 1, 2, 3, 4)
        await started(1, 2)
        assert answers(peer) == []
    await done(peer, 4)
    assert Handler.started == [1, 2, 3, 4]


async def test_it_is_one_also_when_messages_come_one_by_one(node: Node, peer: Peer) -> None:
    async with writer_held(node.journal):
        for number in (1, 2, 3):
            say(peer, number)
            await started(*range(1, min(number, 2) + 1))
    await done(peer, 3)


async def test_a_handler_runs_alone_whatever_is_on_its_way(node: Node, peer: Peer) -> None:
    Handler.gates[2] = asyncio.Event()
    say(peer, 1, 2, 3)
    await done(peer, 1)
    await started(1, 2)
    Handler.gates[2].set()
    await done(peer, 3)
    assert Handler.started == [1, 2, 3]


async def test_an_outcome_is_kept_with_what_the_next_handler_sends(node: Node) -> None:
    peer = Peer(Echo)
    await peer.connect()
    rounds = node.journal.rounds
    count = 12
    say(peer, *range(1, count + 1))
    await done(peer, count)
    messages = [frame["data"] for frame in peer.frames if frame["type"] == "message"]
    assert messages == list(range(1, count + 1))
    assert node.journal.rounds - rounds <= count + 3  # and not two for each
    await peer.cut()


# --- what is still going on -------------------------------------------------------------------


async def test_it_is_busy_until_the_last_outcome_is_kept(node: Node, peer: Peer) -> None:
    inbox = the_only(node).inbox
    async with writer_held(node.journal):
        say(peer, 1)
        await started(1)
        inbox.stop_taking()
        finished = asyncio.ensure_future(inbox.finished())
        for _ in range(20):
            await asyncio.sleep(0)
        assert inbox.busy
        assert not finished.done()
    await soon(finished)
    assert not inbox.busy
    await done(peer, 1)


async def test_a_connection_that_ends_detaches_behind_its_last_outcomes(
    node: Node, peer: Peer
) -> None:
    async with writer_held(node.journal):
        say(peer, 1, 2)
        await started(1, 2)
        cut = asyncio.ensure_future(peer.cut())
    await soon(cut)
    row = await store(Session.objects.get)
    assert (row.last_client_seq, row.state) == (2, Session.State.DETACHED)


async def test_nothing_starts_when_the_writer_has_ended(node: Node, peer: Peer) -> None:
    async with writer_held(node.journal):
        say(peer, 1, 2, 3)
        await started(1, 2)
        stopping = asyncio.ensure_future(node.journal.stop())
        await started(1, 2)
        assert not the_only(node).inbox.busy
    await soon(stopping)
    await started(1, 2)


# --- when it goes wrong -----------------------------------------------------------------------


async def test_the_nack_of_a_handler_comes_behind_the_outcome_before_it(
    node: Node, peer: Peer
) -> None:
    Handler.errors[2] = RuntimeError("a defect")
    async with writer_held(node.journal):
        say(peer, 1, 2, 3)
        await started(1, 2)
        assert answers(peer) == []
    await done(peer, 3)
    assert [number for kind, number in answers(peer) if kind == "nack"] == [2]
    assert Handler.started == [1, 2, 3]


async def test_a_handler_that_was_interrupted_runs_again_behind_the_outcome_before_it(
    node: Node, peer: Peer
) -> None:
    Handler.errors[2] = JournalUnavailable("the database does not answer")
    async with writer_held(node.journal):
        say(peer, 1, 2, 3)
        await started(1, 2)
        assert answers(peer) == []
    await eventually(lambda: ("nack", 2) in answers(peer), WITHIN, "the nack")
    assert ("ack", 1) in answers(peer)
    await started(1, 2)
    say(peer, 2, 3)
    await done(peer, 3)
    assert Handler.started == [1, 2, 2, 3]


@pytest.mark.parametrize(
    "error", [None, RuntimeError("a defect"), JournalUnavailable("the database does not answer")]
)
async def test_nothing_more_starts_when_the_session_was_taken_over(
    node: Node, peer: Peer, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    Handler.gates[2] = asyncio.Event()
    if error is not None:
        Handler.errors[2] = error
    async with writer_held(node.journal):
        say(peer, 1, 2, 3)
        await started(1, 2)
        await store(lambda: Session.objects.update(generation=99, instance="another"))
        Handler.gates[2].set()
        await started(1, 2)
    await eventually(lambda: peer.closed is not None, WITHIN, "the connection is closed")
    assert peer.closed is not None
    assert peer.closed["code"] == CloseCode.SUPERSEDED
    await started(1, 2)
    assert answers(peer) == []
    assert "the inbox failed" not in caplog.text


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers whose outcome the database refuses."""
    numbers: set[int] = set()
    apply = Complete.apply

    def refusing(self: Complete, *args: Any) -> bool:
        if self.client_seq in numbers:
            raise ValueError(f"{self.client_seq} is refused")
        return apply(self, *args)

    monkeypatch.setattr(Complete, "apply", refusing)
    return numbers


async def test_nothing_more_starts_when_an_outcome_is_refused(
    node: Node, peer: Peer, refused: set[int]
) -> None:
    refused.add(1)
    async with writer_held(node.journal):
        say(peer, 1, 2, 3)
        await started(1, 2)
    await eventually(lambda: peer.closed is not None, WITHIN, "the connection is closed")
    assert peer.closed is not None
    assert peer.closed["code"] == CloseCode.INTERNAL_ERROR
    await started(1, 2)
    assert answers(peer) == []


async def test_what_ran_ahead_of_a_lost_outcome_is_started_twice_at_most(
    node: Node, peer: Peer, refused: set[int]
) -> None:
    messages, acked = range(1, 6), 0
    for life in range(20):
        if life:
            await peer.cut()
            await peer.connect()
            acked = peer.welcome["last_client_seq"]
        if acked == messages[-1]:
            break
        # Two lives end with a lost outcome while the next handler runs; the third goes on.
        refused.clear()
        if life % 3 < 2:
            refused.add(acked + 1)
        async with writer_held(node.journal):
            say(peer, *messages[acked : acked + 3])
            await asyncio.sleep(0.02)
        if refused:
            await eventually(lambda: peer.closed is not None, WITHIN, "the connection is closed")
        else:
            await eventually(lambda: not the_only(node).inbox.busy, WITHIN, "all is handled")
    assert acked == messages[-1]
    starts = Counter(Handler.started)
    assert sorted(starts) == list(messages)
    assert max(starts.values()) == 2
