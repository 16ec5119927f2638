"""Who is dead, as seen by one watcher: over the rows, with looks that the test makes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from graceful_ws.conf import settings
from graceful_ws.models import Node, Session
from graceful_ws.node.reaper import Reaper
from graceful_ws.store import nodes
from tests.store.kit import attached

pytestmark = pytest.mark.usefixtures("database")


class Services:
    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)


class Watcher:
    """A node as its reaper sees it."""

    def __init__(self) -> None:
        self.id = register("watcher")
        self.services = Services()
        self.drain = None

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(coroutine)


def register(name: str) -> uuid.UUID:
    return nodes.register(nodes.Identity(name, "host", 1, "test", "0"))


class Clock:
    """The loop's time, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = asyncio.get_running_loop().time()
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


async def looks(reaper: Reaper, clock: Clock, count: int, beating: uuid.UUID | None = None) -> None:
    for _ in range(count):
        clock.now += settings.beat_interval
        if beating is not None:
            nodes.beat(beating, 0)
        await reaper._look()


@pytest.fixture(autouse=True)
def _queries_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


async def test_a_beat_that_stands_still_is_a_dead_node_and_another_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper, clock = Reaper(Watcher()), Clock(monkeypatch)  # type: ignore[arg-type]
    dead, alive = register("dead"), register("alive")
    await looks(reaper, clock, 4, alive)
    assert Node.objects.get(pk=dead).state == "up"
    await looks(reaper, clock, 1, alive)
    assert Node.objects.get(pk=dead).state == "dead"
    assert Node.objects.get(pk=alive).state == "up"


async def test_a_look_that_hung_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, clock = Reaper(Watcher()), Clock(monkeypatch)  # type: ignore[arg-type]
    other = register("other")
    await looks(reaper, clock, 2)
    clock.now += 60  # the database stood still, for everybody
    await looks(reaper, clock, 2)
    assert Node.objects.get(pk=other).state == "up"


async def test_a_node_declared_dead_has_time_to_come_back_before_its_sessions_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper, clock = Reaper(Watcher()), Clock(monkeypatch)  # type: ignore[arg-type]
    dead = register("dead")
    session = attached().session
    Session.objects.filter(pk=session).update(node=dead)
    await looks(reaper, clock, 5)
    assert Node.objects.get(pk=dead).state == "dead"
    assert Session.objects.get(pk=session).state == "attached"
    await looks(reaper, clock, 2)
    row = Session.objects.get(pk=session)
    assert (row.state, row.node, row.generation) == ("detached", None, 2)


async def test_a_stopped_node_has_its_sessions_detached_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper, clock = Reaper(Watcher()), Clock(monkeypatch)  # type: ignore[arg-type]
    stopped = register("stopped")
    session = attached().session
    Session.objects.filter(pk=session).update(node=stopped)
    nodes.report(stopped, "stopped")
    await looks(reaper, clock, 1)
    assert Session.objects.get(pk=session).state == "detached"
