"""Helpers for tests of what runs on the event loop over a real database."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from graceful_ws.core.frames import Gap
from graceful_ws.core.window import SendWindow
from graceful_ws.node import hub
from graceful_ws.node.journal import Journal
from graceful_ws.node.outbox import Outbox
from graceful_ws.store import streams
from graceful_ws.store.streams import Numbered, Tip
from tests.store.kit import WITHIN
from tests.support.waiting import eventually

T = TypeVar("T")

WRITER = "graceful-writer-1"  # the name of the writer's thread


async def store(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Runs a function of the store, or of the tests, in a thread with a connection of its own."""

    def run() -> T:
        try:
            return function(*args, **kwargs)
        finally:
            connections.close_all()  # the test may kill the server before the next

    return await sync_to_async(run)()


async def soon(awaitable: Awaitable[T]) -> T:
    """Waits with a deadline."""
    async with asyncio.timeout(WITHIN):
        return await awaitable


@contextlib.asynccontextmanager
async def writer_held(journal: Journal) -> AsyncIterator[None]:
    """Inside the block the writer's thread is occupied: what it has taken is not written yet."""
    gate, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert gate.wait(WITHIN)

    holding = asyncio.create_task(journal.threads.run(hold))
    await eventually(held.is_set, WITHIN)
    try:
        yield
    finally:
        gate.set()
        await soon(holding)


async def taken(journal: Journal) -> None:
    """Returns when the writer has taken all that waited."""
    await eventually(lambda: len(journal) == 0, WITHIN, "the writer takes what waits")


# --- streams in memory ------------------------------------------------------------------------


class StoredStreams:
    """The store's side of streams, in memory: ``use`` puts it in the place of the functions."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, str]] = {}
        self.tips: dict[str, Tip] = {}
        self.pages = 0  # that were read
        self.looks = 0
        self.epochs = itertools.count(1)
        self.open = asyncio.Event()  # cleared: pages stay on their way
        self.open.set()
        self.away: Exception | None = None

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "page", self.page)
        monkeypatch.setattr(streams, "tips", self.find)
        monkeypatch.setattr(streams, "create", self.create)
        monkeypatch.setattr(streams, "rotate_if_behind", self.rotate_if_behind)
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
        data = [f'"{name} {seq}"' for seq in range(tip.head + 1, tip.head + 1 + count)]
        rows.update(enumerate(data, tip.head + 1))
        self.tips[name] = Tip(tip.epoch, tip.head + count)
        return Numbered(name, tip.epoch, tip.head + 1, data)

    def create(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.tips:
                self.tips[name] = Tip(f"epoch-{next(self.epochs)}", 0)
                self.rows.setdefault(name, {})

    def restore(self, name: str, head: int) -> None:
        """An older state of the database."""
        self.tips[name] = Tip(self.tips[name].epoch, head)
        self.rows[name] = {seq: data for seq, data in self.rows[name].items() if seq <= head}

    def rotate(self, name: str) -> None:
        self.tips[name] = Tip(f"epoch-{next(self.epochs)}", self.tips[name].head)

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
            self._transmit, self.gaps.append, tasks.spawn, replay_rows=5000, raw=raw
        )
        self.outbox.window = SendWindow(window, 1024 * 1024)

    async def _transmit(self, data: str | bytes, application: bool) -> None:
        await self.reading.wait()
        if self.outbox.raw:
            self.frames.append({"type": "message", "data": json.loads(data)})
            return
        value = json.loads(data)
        self.frames.extend(value if isinstance(value, list) else [value])

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
