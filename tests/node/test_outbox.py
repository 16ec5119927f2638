"""The sending half of a connection over a sequence in memory: replay, spill, seams, gaps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from graceful_ws.core.frames import Gap, message_frame
from graceful_ws.node.flusher import Flusher
from graceful_ws.node.outbox import Feed, Outbox
from graceful_ws.node.stats import Stats
from tests.support.waiting import eventually


class Memory:
    """A source whose reads can be held up."""

    name: str | None = None
    epoch: str | None = None

    def __init__(self, head: int, size: int = 1) -> None:
        self.head = head
        self.rows = dict.fromkeys(range(1, head + 1), '"' + "x" * size + '"')
        self.reads = 0
        self.open = asyncio.Event()
        self.open.set()

    def frame(self, seq: int, data: str) -> str:
        return message_frame(seq, data)

    async def read(self, after: int, rows: int) -> list[tuple[int, str]]:
        self.reads += 1
        found = sorted((seq, data) for seq, data in self.rows.items() if seq > after)[:rows]
        await self.open.wait()
        return found


class Peer:
    """What the client got; it acknowledges when told to."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.gaps: list[Gap] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.outbox = Outbox(
            self._transmit,
            lambda event: None,
            self.gaps.append,
            self._spawn,
            Flusher(),
            Stats(),
            replay_rows=5000,
        )

    async def _transmit(self, data: str | bytes) -> bool:
        await self.reading.wait()
        value = json.loads(data)
        self.frames.extend(value if isinstance(value, list) else [value])
        return True

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def commit(self, feed: Feed, seq: int) -> None:
        source = feed.source
        assert isinstance(source, Memory)
        source.rows[seq] = '"live"'
        source.head = max(source.head, seq)
        self.outbox.offer(feed, seq, message_frame(seq, '"live"'))

    @property
    def seqs(self) -> list[int]:
        return [frame["seq"] for frame in self.frames if frame["type"] == "message"]


async def test_live_messages_between_and_after_the_pages_of_a_replay_come_once_in_order() -> None:
    peer, source = Peer(), Memory(150)
    source.open.clear()
    feed = peer.outbox.add(source, 0)
    await eventually(lambda: source.reads == 1, within=5.0)
    for seq in (151, 152):
        peer.commit(feed, seq)
    source.open.set()
    await eventually(lambda: len(peer.seqs) == 152, within=5.0)
    peer.commit(feed, 153)
    await eventually(lambda: len(peer.seqs) == 153, within=5.0)
    assert peer.seqs == list(range(1, 154))
    assert peer.gaps == []


async def test_messages_that_commit_out_of_order_leave_in_order() -> None:
    peer, source = Peer(), Memory(0)
    feed = peer.outbox.add(source, 0)
    source.rows[1] = '"first"'
    peer.commit(feed, 2)  # its callback came before that of 1
    peer.outbox.offer(feed, 1, message_frame(1, '"first"'))
    await eventually(lambda: len(peer.seqs) == 2, within=5.0)
    assert peer.seqs == [1, 2]


async def test_a_full_window_spills_and_goes_on_with_the_ack() -> None:
    peer, source = Peer(), Memory(0)
    feed = peer.outbox.add(source, 0)
    window = peer.outbox.window.max_messages
    for seq in range(1, window + 51):
        peer.commit(feed, seq)
    await eventually(lambda: len(peer.seqs) == window, within=5.0)
    assert peer.outbox.blocked
    peer.outbox.client_acked(None, window)
    await eventually(lambda: len(peer.seqs) == window + 50, within=5.0)
    assert peer.seqs == list(range(1, window + 51))
    assert not peer.outbox.blocked


async def test_a_message_that_finds_no_room_is_not_read_again_and_again() -> None:
    peer = Peer()
    source = Memory(5, size=peer.outbox.window.max_bytes // 4)
    peer.outbox.add(source, 0)
    await eventually(lambda: len(peer.seqs) == 3, within=5.0)
    reads = source.reads
    for _ in range(50):
        await asyncio.sleep(0)
    assert source.reads == reads
    assert peer.outbox.blocked  # so that a client that takes nothing is closed in the end
    peer.outbox.client_acked(None, 3)
    await eventually(lambda: len(peer.seqs) == 5, within=5.0)


async def test_a_page_that_the_client_already_has_is_no_gap() -> None:
    peer, source = Peer(), Memory(200)
    source.open.clear()
    peer.outbox.add(source, 0)
    await eventually(lambda: source.reads == 1, within=5.0)
    # Over the connection before the client got further than it said in its hello.
    peer.outbox.client_acked(None, 150)
    source.open.set()
    await eventually(lambda: peer.seqs == list(range(151, 201)), within=5.0)
    assert peer.gaps == []


async def test_a_hole_is_told_and_never_replayed_in_part() -> None:
    peer, source = Peer(), Memory(10)
    del source.rows[4]
    peer.outbox.add(source, 0)
    await eventually(lambda: bool(peer.gaps), within=5.0)
    [gap] = peer.gaps
    assert (gap.reason, gap.from_, gap.head) == ("trimmed", 1, 10)
    assert peer.seqs == []


async def test_who_is_too_far_behind_hears_so_before_anything_is_replayed() -> None:
    peer, source = Peer(), Memory(5001)
    peer.outbox.add(source, 0)
    await eventually(lambda: bool(peer.gaps), within=5.0)
    assert peer.gaps[0].reason == "too_far"
    assert source.reads == 0


async def test_a_position_ahead_of_the_head_is_a_gap() -> None:
    peer, source = Peer(), Memory(3)
    peer.outbox.add(source, 7)
    assert [gap.reason for gap in peer.gaps] == ["ahead"]
    await eventually(lambda: len(peer.frames) == 1, within=5.0)
    assert peer.frames[0]["head"] == 3


async def test_a_sender_cancelled_before_it_began_is_replaced() -> None:
    peer, source = Peer(), Memory(0)
    feed = peer.outbox.add(source, 0)
    peer.commit(feed, 1)
    peer.outbox.flush()
    [sender] = peer.tasks
    sender.cancel()
    await eventually(lambda: peer.seqs == [1], within=5.0)


async def test_after_the_close_nothing_is_sent_and_no_task_is_left() -> None:
    peer, source = Peer(), Memory(100)
    source.open.clear()
    feed = peer.outbox.add(source, 0)
    peer.reading.clear()
    peer.outbox.control('{"type":"ping","sent_at":1}')
    await eventually(lambda: source.reads == 1, within=5.0)
    peer.outbox.close()
    peer.commit(feed, 101)
    await eventually(lambda: not peer.tasks, within=5.0)
    assert peer.frames == []


async def test_a_nack_leaves_before_the_ack_that_covers_it() -> None:
    peer, source = Peer(), Memory(0)
    peer.outbox.add(source, 0)
    for n in range(150):
        peer.outbox.plain(json.dumps({"type": "volatile", "data": n}))
    for seq in range(1, 101):
        frame = json.dumps({"type": "nack", "seq": seq, "code": "error"})
        peer.outbox.acknowledge(seq, nack=frame)
    await eventually(lambda: len(peer.frames) >= 251, within=5.0)
    kinds = [frame["type"] for frame in peer.frames]
    assert [frame["seq"] for frame in peer.frames if frame["type"] == "nack"] == [*range(1, 101)]
    assert kinds.index("ack") > max(i for i, kind in enumerate(kinds) if kind == "nack")
    assert kinds.count("volatile") == 150


async def test_an_acknowledgement_from_before_a_new_epoch_skips_nothing() -> None:
    """It was on its way when the gap was told, and the new numbers are announced already."""
    peer, source = Peer(), Memory(10)
    source.epoch = "one"
    feed = peer.outbox.add(source, 0)
    await eventually(lambda: len(peer.seqs) == 10, within=5.0)
    source.epoch, source.head = "two", 3
    peer.outbox.gap(feed, "epoch")
    source.open.clear()
    source.head = 10
    peer.outbox.moved(feed)
    await eventually(lambda: source.reads == 2, within=5.0)
    peer.outbox.client_acked(None, 10)
    source.open.set()
    await eventually(lambda: len(peer.seqs) == 17, within=5.0)
    assert peer.seqs == [*range(1, 11), *range(4, 11)]
    assert feed.acked_epoch == "one", "nothing of the new epoch was acknowledged"
    peer.outbox.client_acked(None, 5)
    assert (feed.acked_epoch, feed.cursor.acked) == ("two", 5)
