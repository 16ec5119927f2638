"""The one timer of a node: nobody's deadline waits for somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from graceful_ws.node import timers as timers_module
from graceful_ws.node.live import LiveConnection
from graceful_ws.node.timers import TICK, Timers

WITHIN = 5.0  # seconds for a whole test
FAR = 60.0


class Live:
    """A connection that only has deadlines: one after ``first`` seconds, then each ``then``."""

    def __init__(self, first: float, then: float = FAR) -> None:
        self.machine = SimpleNamespace(state="connected", scheduled=_now() + first)
        self.deadline: float | None = None
        self.then = then
        self.due = self.machine.scheduled
        self.late: list[float] = []  # seconds behind the deadline, each time
        self.reached = asyncio.Event()
        self.fails = False

    def deadline_reached(self, now: float) -> None:
        self.late.append(now - self.due)
        self.due = self.machine.scheduled = now + self.then
        self.reached.set()
        if self.fails:
            raise RuntimeError("a defect")

    def extra(self) -> dict[str, str]:
        return {}


def _now() -> float:
    return asyncio.get_running_loop().time()


def schedule(timers: Timers, *lives: Live) -> None:
    for live in lives:
        timers.schedule(cast(LiveConnection, live))


async def reached(*lives: Live) -> None:
    async with asyncio.timeout(WITHIN):
        for live in lives:
            await live.reached.wait()


@pytest.fixture(autouse=True)
def no_looks_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at everybody each few seconds would hide what is late."""
    monkeypatch.setattr(timers_module, "PROGRESS", FAR)


async def test_deadline_does_not_wait_for_that_of_a_connection_just_served() -> None:
    timers = Timers()
    first, second = Live(0.02), Live(0.2)
    schedule(timers, first, second)
    await reached(first, second)
    assert max(second.late) < 0.5
    timers.stop()


async def test_connection_that_is_served_often_does_not_delay_the_others() -> None:
    timers = Timers()
    busy, others = Live(0.01, then=0.06), [Live(0.1 * n) for n in range(1, 5)]
    schedule(timers, busy, *others)
    await reached(*others)
    assert max(other.late[0] for other in others) < 0.5
    assert len(busy.late) >= 3
    timers.stop()


async def test_deadlines_within_a_tick_are_served_together_and_none_early() -> None:
    timers = Timers()
    lives = [Live(0.1 + TICK * part) for part in (0.0, 0.3, 0.6)]
    schedule(timers, *lives)
    await reached(*lives)
    assert all(late >= 0 for live in lives for late in live.late)
    timers.stop()


async def test_later_connection_with_an_earlier_deadline_is_served_first() -> None:
    timers = Timers()
    far, near = Live(FAR), Live(0.05)
    schedule(timers, far, near)
    await reached(near)
    assert not far.late
    timers.stop()


async def test_defect_of_one_connection_does_not_stop_the_clocks_of_the_others() -> None:
    timers = Timers()
    bad, good = Live(0.02), Live(0.2)
    bad.fails = True
    schedule(timers, bad, good)
    await reached(bad, good)
    assert max(good.late) < 0.5
    timers.stop()


async def test_connection_that_is_over_is_not_called() -> None:
    timers = Timers()
    over, other = Live(0.02), Live(0.1)
    schedule(timers, over, other)
    timers.forget(cast(LiveConnection, over))
    assert len(timers) == 1
    await reached(other)
    assert not over.late
    timers.stop()


class PlainLoop:
    """The running loop, whose timers say as little as the specification wants."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        return SimpleNamespace(cancel=self._loop.call_at(when, callback).cancel)


async def earlier_and_later() -> None:
    """A timer is armed, armed anew for an earlier deadline, and again after each."""
    timers = Timers()
    far, near, nearer = Live(FAR), Live(0.2), Live(0.05)
    schedule(timers, far, near, nearer)
    await reached(nearer, near)
    assert max(near.late[0], nearer.late[0]) < 0.5
    assert not far.late
    timers.stop()


async def test_timers_of_a_loop_need_not_say_when(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = PlainLoop()
    with monkeypatch.context() as patch:
        patch.setattr(timers_module.asyncio, "get_running_loop", lambda: loop)
        timers = Timers()
    near, later = Live(0.05), Live(0.2)
    schedule(timers, later, near)
    await reached(near, later)
    timers.stop()


def test_deadlines_are_served_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(earlier_and_later())
