"""A hub between a store in memory and clients, for the tests of what it makes of the news."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from graceful_ws.core.frames import Gap
from graceful_ws.core.window import SendWindow
from graceful_ws.node import hub
from graceful_ws.node.flusher import Flusher
from graceful_ws.node.outbox import Outbox
from graceful_ws.node.stats import Stats
from graceful_ws.store import streams
from graceful_ws.store.streams import Numbered, Tip
from tests.support.waiting import eventually

T = TypeVar("T")
ROOM = "room"


class StoredStreams:
    """The store's side of streams, in memory: ``use`` puts it in the place of the functions."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, str]] = {}
        self.tips: dict[str, Tip] = {}
        self.pages = 0  # that were read
        self.looks = 0
        self.epochs = itertools.count(1)
        self.restored = 0  # times
        self.open = asyncio.Event()  # cleared: pages stay on their way
        self.open.set()
        self.away: Exception | None = None

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "page", self.page)
        monkeypatch.setattr(streams, "tips", self.find)
        monkeypatch.setattr(streams, "create", self.create)
        monkeypatch.setattr(streams, "rotate_if_behind", self.rotate_if_behind)
        monkeypatch.setattr(streams, "rotate", self.rotate_once)
        monkeypatch.setattr(hub, "WAIT", 0.0)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """As ``Threads.run``; what is read is what there was when it was asked for."""
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away
        found = function(*args)
        await self.open.wait()
        return found

    def number(self, name: str, count: int = 1) -> Numbered:
        """Messages are published and numbered; returns what the sequencer would say of them."""
        self.create([name])
        rows, tip = self.rows[name], self.tips[name]
        marks = "'" * self.restored
        data = [f'"{name} {seq}{marks}"' for seq in range(tip.head + 1, tip.head + 1 + count)]
        rows.update(enumerate(data, tip.head + 1))
        self.tips[name] = Tip(tip.epoch, tip.head + count)
        return Numbered(name, tip.epoch, tip.head + 1, data)

    def create(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.tips:
                self.tips[name] = Tip(f"epoch-{next(self.epochs)}", 0)
                self.rows.setdefault(name, {})

    def restore(self, name: str, head: int) -> None:
        """An older state of the database; what is published from now on is something else."""
        self.restored += 1
        self.tips[name] = Tip(self.tips[name].epoch, head)
        self.rows[name] = {seq: data for seq, data in self.rows[name].items() if seq <= head}

    def rotate(self, name: str) -> None:
        self.tips[name] = Tip(f"epoch-{next(self.epochs)}", self.tips[name].head)

    def rotate_once(self, name: str, epoch: str | None) -> None:
        if self.tips[name].epoch == epoch:
            self.rotate(name)

    def trim(self, name: str, upto: int) -> None:
        for seq in [seq for seq in self.rows[name] if seq <= upto]:
            del self.rows[name][seq]

    def page(self, name: str, after: int, rows: int) -> list[tuple[int, str]]:
        self.pages += 1
        return sorted((seq, data) for seq, data in self.rows[name].items() if seq > after)[:rows]

    def find(self, names: Sequence[str]) -> dict[str, Tip]:
        self.looks += 1
        return {name: self.tips[name] for name in names if name in self.tips}

    def rotate_if_behind(self, name: str, epoch: str, seen: int) -> None:
        if self.tips[name].epoch == epoch and self.tips[name].head < seen:
            self.rotate(name)


class Groups:
    """A backplane that only remembers which groups are wanted."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()

    def join(self, group: str) -> None:
        assert group not in self.wanted, "joined twice"
        self.wanted.add(group)

    def leave(self, group: str) -> None:
        self.wanted.remove(group)


class Tasks:
    """Runs what a node spawns; what fails, fails the test at ``check``."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()
        self.failed: list[BaseException] = []
        self.flusher = Flusher()

    @property
    def busy(self) -> bool:
        return bool(self.running or self.flusher)

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(error)


class Listener:
    """A client at the far end of an outbox, following one stream. It acknowledges when told to."""

    def __init__(self, tasks: Tasks, *, window: int = 256, raw: bool = False) -> None:
        self.frames: list[dict[str, Any]] = []
        self.gaps: list[Gap] = []
        self.reading = asyncio.Event()  # cleared: it takes nothing
        self.reading.set()
        self.outbox = Outbox(
            self._transmit,
            lambda event: None,
            self.gaps.append,
            tasks.spawn,
            tasks.flusher,
            Stats(),
            replay_rows=5000,
            raw=raw,
        )
        self.outbox.window = SendWindow(window, 1024 * 1024)

    async def _transmit(self, data: str | bytes) -> bool:
        await self.reading.wait()
        if self.outbox.raw:
            self.frames.append({"type": "message", "data": json.loads(data)})
            return True
        value = json.loads(data)
        self.frames.extend(value if isinstance(value, list) else [value])
        return True

    @property
    def seqs(self) -> list[int]:
        return [frame["seq"] for frame in self.frames if frame["type"] == "message"]

    @property
    def data(self) -> list[Any]:
        return [frame["data"] for frame in self.frames if frame["type"] == "message"]

    @property
    def told(self) -> list[tuple[str, int, str | None]]:
        """Reason, head and epoch of each gap frame."""
        gaps = [frame for frame in self.frames if frame["type"] == "gap"]
        return [(one["reason"], one["head"], one.get("epoch")) for one in gaps]

    def ack(self, name: str) -> None:
        """It has all that it got."""
        feed = self.outbox.feeds.get(name)
        if feed is not None and self.seqs and self.seqs[-1] <= feed.cursor.position:
            self.outbox.client_acked(name, self.seqs[-1])


class Site:
    """A hub between a store in memory and listeners."""

    def __init__(self) -> None:
        self.stored = StoredStreams()
        self.groups = Groups()
        self.tasks = Tasks()
        self.hub = hub.Hub(self.groups, self.stored, self.stored, self.tasks.spawn)  # type: ignore[arg-type]
        self.listeners: list[Listener] = []
        self.stored.create([ROOM])

    def follow(self, position: int | None = None, **options: Any) -> Listener:
        """A new connection that follows the room, from a position or from its head on."""
        listener = Listener(self.tasks, **options)
        self.listeners.append(listener)
        tip = self.stored.tips[ROOM]
        self.hub.follow(listener.outbox, ROOM, tip, tip.head if position is None else position)
        return listener

    def hear(self, numbered: Numbered, *, data: bool = True) -> None:
        n = numbered
        self.hub.hear(n.stream, n.epoch, n.first, n.head, n.data if data else ())

    def publish(self, count: int = 1) -> None:
        self.hear(self.stored.number(ROOM, count))

    async def quiet(self) -> None:
        """Until nothing runs any more."""
        await eventually(lambda: not self.tasks.busy, 10, "the tasks end")

    def check(self) -> None:
        assert self.tasks.failed == []

    async def close(self) -> None:
        """All followers go, and no task may have failed."""
        for listener in self.listeners:
            self.hub.forget(listener.outbox)
            listener.outbox.close()
        self.stored.open.set()
        await self.quiet()
        self.check()
