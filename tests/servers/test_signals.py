"""The stop of a process, with real signals to this process and a clock of the test's own."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from graceful_ws.servers.signals import SIGNALS, Stop


class Drain:
    """A drain that ends when it is hurried or told to, and counts what happens to it."""

    def __init__(self) -> None:
        self.started = 0
        self.hurried = 0
        self.over = asyncio.Event()

    async def drain(self) -> None:
        self.started += 1
        await self.over.wait()

    def hurry(self) -> None:
        self.hurried += 1
        self.over.set()


@pytest.fixture(autouse=True)
def servers_signals() -> Iterator[list[int]]:
    """Handlers such as a server has them, recording; and the real ones back at the end."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in SIGNALS
    }
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


async def settle() -> None:
    """Let what is ready to run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_two_hooks_wait_for_one_drain() -> None:
    drain = Drain()
    stop = Stop(drain.drain, drain.hurry)
    hooks = [asyncio.create_task(stop.drained()) for _ in range(2)]
    await settle()
    assert stop.draining
    assert not any(hook.done() for hook in hooks)
    drain.over.set()
    await asyncio.wait_for(asyncio.gather(*hooks), 5)
    assert drain.started == 1
    assert not stop.draining


async def test_cancelling_a_hook_leaves_the_drain_running() -> None:
    drain = Drain()
    stop = Stop(drain.drain, drain.hurry)
    impatient = asyncio.create_task(stop.drained())
    patient = asyncio.create_task(stop.drained())
    await settle()
    impatient.cancel()
    await settle()
    assert impatient.cancelled()
    assert stop.draining
    drain.over.set()
    await asyncio.wait_for(patient, 5)


@pytest.mark.parametrize("error", [LookupError("broken"), asyncio.CancelledError()])
async def test_a_drain_that_fails_is_logged_and_lets_the_server_stop(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    with caplog.at_level(logging.WARNING, "graceful_ws.servers"):
        await asyncio.wait_for(Stop(fail).drained(), 5)
    assert "the server stops without it" in caplog.text


async def test_only_signals_a_second_apart_count() -> None:
    drain = Drain()
    now = 100.0
    stop = Stop(drain.drain, drain.hurry, clock=lambda: now)
    hook = asyncio.create_task(stop.drained())
    await settle()
    for number in SIGNALS:
        now = 100.99
        signal.raise_signal(number)
    await settle()
    assert drain.hurried == 0
    now = 101.0
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(hook, 5)
    assert drain.hurried == 1


async def test_what_the_server_waits_for_is_hurried_too_even_when_the_drain_cannot_be() -> None:
    drain = Drain()
    now = 0.0

    def broken() -> None:
        raise LookupError

    stop = Stop(drain.drain, broken, clock=lambda: now)
    hook = asyncio.create_task(stop.drained(drain.hurry))
    await settle()
    now = 1.0
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(hook, 5)
    assert drain.hurried == 1


async def test_a_signal_after_the_drain_is_for_the_server(servers_signals: list[int]) -> None:
    now = 0.0
    stop = Stop(clock=lambda: now)
    await stop.drained()
    signal.raise_signal(signal.SIGINT)
    assert servers_signals == []  # still the Ctrl-C that began it
    now = 1.0
    signal.raise_signal(signal.SIGINT)
    assert servers_signals == [signal.SIGINT]


def test_a_drain_off_the_main_thread_leaves_the_signals_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=lambda: asyncio.run(Stop().drained()))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert [signal.getsignal(number) for number in SIGNALS] == before
