"""Two ways to the socket, whole frames at once and ``send``: one order, and nothing lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import message_frame, wire
from graceful_ws.core.transitions import FRAME_SENT, MESSAGE_SENT, CloseRequested
from graceful_ws.node import flusher as flusher_module
from graceful_ws.node.flusher import Flusher
from graceful_ws.node.outbox import Outbox
from graceful_ws.node.stats import Stats
from tests.node.test_outbox import Memory
from tests.support.waiting import eventually

WITHIN = 5.0
LONG_AGO = 1000.0  # seconds


class Peer:
    """Takes frames at once while it has ``room``, and those that are sent while it ``reads``."""

    def __init__(self, *, raw: bool = False, writes: bool = True) -> None:
        self.got: list[tuple[str, str]] = []  # (way, text)
        self.events: list[Any] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.spawned = 0
        self.room = True
        self.reads = asyncio.Event()
        self.reads.set()
        self.error: Exception | None = None
        self.tries = 0
        self.outbox = Outbox(
            self._transmit,
            self.events.append,
            lambda gap: None,
            self._spawn,
            Flusher(),
            Stats(),
            replay_rows=5000,
            raw=raw,
            write=self._write if writes else None,
        )

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        self.spawned += 1
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _write(self, frame: bytes) -> bool:
        if not self.room:
            return False
        self._try()
        text = frame[2 if frame[1] < 126 else 4 :].decode()
        assert frame == wire(text)
        self.got.append(("written", text))
        return True

    async def _transmit(self, data: str | bytes) -> bool:
        self._try()
        await self.reads.wait()
        assert isinstance(data, str)
        self.got.append(("sent", data))
        return True

    def _try(self) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.got]

    def quiet_since(self, seconds: float) -> None:
        self.outbox.progress_at -= seconds

    @property
    def stalled(self) -> bool:
        """Whether it would be closed as a slow consumer now."""
        silence = asyncio.get_running_loop().time() - self.outbox.progress_at
        return self.outbox.blocked and silence > LONG_AGO / 2


def fill(peer: Peer, count: int) -> None:
    """Messages that commit together."""
    source = Memory(0)
    feed = peer.outbox.add(source, 0)
    source.head = count
    for seq in range(1, count + 1):
        source.rows[seq] = '"x"'
        peer.outbox.offer(feed, seq, '"x"' if peer.outbox.raw else message_frame(seq, '"x"'))


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


# --- two ways ---------------------------------------------------------------------------------


async def test_what_the_socket_takes_at_once_needs_no_task() -> None:
    peer = Peer()
    peer.outbox.plain('"volatile"')
    peer.outbox.control('"control"')
    await turns()
    peer.outbox.control('"control"')
    await turns()
    assert peer.got == [("written", '["volatile","control"]'), ("written", '"control"')]
    assert peer.events == [MESSAGE_SENT, FRAME_SENT]
    assert peer.spawned == 0


async def test_what_it_does_not_take_is_sent_and_all_else_behind_it() -> None:
    peer = Peer(raw=True)
    peer.outbox.plain("1")
    await turns()
    peer.room = False
    peer.reads.clear()
    peer.outbox.plain("2")
    await turns()
    peer.room = True
    for text in "345":
        peer.outbox.plain(text)  # could be written, and would overtake
        await turns()
    assert peer.texts == ["1"]
    peer.reads.set()
    await eventually(lambda: len(peer.got) == 5, WITHIN)
    await eventually(lambda: not peer.tasks, WITHIN)
    peer.outbox.plain("6")
    await turns()
    assert peer.texts == list("123456")
    assert [way for way, _ in peer.got] == ["written", *["sent"] * 4, "written"]


async def test_flushed_means_that_all_has_left_by_either_way() -> None:
    peer = Peer(raw=True)
    peer.outbox.plain("1")
    await peer.outbox.flushed()
    assert peer.texts == ["1"]
    peer.room = False
    peer.reads.clear()
    peer.outbox.plain("2")
    flushed = asyncio.ensure_future(peer.outbox.flushed())
    await turns()
    assert not flushed.done()
    peer.outbox.plain("3")
    peer.reads.set()
    async with asyncio.timeout(WITHIN):
        await flushed
    assert peer.texts == ["1", "2", "3"]


async def test_flushed_does_not_rely_on_the_turn_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher_module, "AT_ONCE", 0)  # very many stand before this one
    peer = Peer(raw=True)
    peer.room = False
    peer.reads.clear()
    peer.outbox.plain("1")
    peer.outbox.flush()
    await turns()
    peer.room = True
    peer.reads.set()
    # The task has ended, and the outbox has not heard of it yet.
    asyncio.get_running_loop().call_soon(peer.outbox.plain, "2")
    async with asyncio.timeout(WITHIN):
        await asyncio.ensure_future(peer.outbox.flushed())
    assert peer.texts == ["1", "2"]
    peer.outbox.close()
    monkeypatch.undo()
    await turns()


@pytest.mark.parametrize("room", [True, False])
async def test_nothing_leaves_when_the_connection_was_closed_in_the_same_turn(room: bool) -> None:
    peer = Peer(raw=True)
    peer.room = room
    peer.outbox.plain("1")
    peer.outbox.close()
    peer.outbox.plain("2")
    await peer.outbox.flushed()
    await turns()
    assert peer.got == []
    assert peer.events == []


# --- slow, or only quiet ----------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("writes", [True, False])
async def test_a_burst_after_a_long_silence_is_no_stall(raw: bool, writes: bool) -> None:
    peer = Peer(raw=raw, writes=writes)
    peer.reads.clear()
    peer.quiet_since(LONG_AGO)
    fill(peer, peer.outbox.window.max_messages + 50)
    assert not peer.stalled  # as the node's timer may look before anything was sent
    await turns()
    assert not peer.stalled
    peer.outbox.close()


@pytest.mark.parametrize("writes", [True, False])
async def test_pings_that_leave_are_no_progress_of_a_client_that_acknowledges_nothing(
    writes: bool,
) -> None:
    peer = Peer(writes=writes)
    fill(peer, peer.outbox.window.max_messages + 50)
    await turns()
    peer.quiet_since(LONG_AGO)
    assert peer.stalled
    peer.outbox.control('{"type":"ping"}')
    await turns()
    assert "ping" in peer.texts[-1]
    assert peer.stalled
    peer.outbox.close()


async def test_a_socket_that_takes_nothing_is_a_stall() -> None:
    peer = Peer()
    peer.room = False
    peer.reads.clear()
    peer.outbox.control('{"type":"ping"}')
    await turns()
    assert peer.outbox.blocked
    assert not peer.stalled
    peer.quiet_since(LONG_AGO)
    for _ in range(3):
        peer.outbox.control('{"type":"ping"}')
        await turns()
    assert peer.stalled
    peer.outbox.close()


# --- what cannot be sent ----------------------------------------------------------------------


@pytest.mark.parametrize("writes", [True, False])
async def test_a_message_that_cannot_be_sent_ends_the_connection_and_is_not_tried_for_ever(
    writes: bool,
) -> None:
    peer = Peer(writes=writes)
    peer.error = LookupError("a middleware does not like it")
    peer.outbox.plain('"poison"')
    await turns()
    assert peer.tries == 1
    assert peer.events == [CloseRequested(CloseCode.INTERNAL_ERROR, "cannot send")]
    peer.error = None
    peer.outbox.plain('"behind it"')
    async with asyncio.timeout(WITHIN):
        await peer.outbox.flushed()  # so that the close can follow
    await turns()
    assert peer.got == []
    assert not peer.tasks


async def test_a_text_that_is_none_ends_its_own_connection_alone() -> None:
    peer, other = Peer(raw=True), Peer(raw=True)
    other.outbox._flusher = peer.outbox._flusher
    for outbox in (peer.outbox, other.outbox):
        outbox.plain("before")
    peer.outbox.plain("\ud800")
    for outbox in (peer.outbox, other.outbox):
        outbox.plain("after")
    await turns()
    assert peer.texts == ["before"]
    assert other.texts == ["before", "after"]
    assert peer.events[-1] == CloseRequested(CloseCode.INTERNAL_ERROR, "cannot send")
    assert other.events == [MESSAGE_SENT] * 2
