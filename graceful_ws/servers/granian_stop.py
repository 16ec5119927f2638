"""The signals of granian's workers: a drain, and then granian's own stop."""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .signals import SIGNALS, Stop

EXIT_AFTER = 0.2  # seconds that granian gets to stop by itself, when it is in a hurry
# A signal to the process group reaches the worker too; one that is gone before its parent has heard
# of the stop counts as crashed, and the parent's exit status is 1 (seconds).
PARENT_HEARS = 0.3


def drain_first(set_signals: Any, stop: Stop, all_dropped: Callable[[], Awaitable[None]]) -> Any:
    """In place of granian's ``set_loop_signals``, which a worker calls before its loop runs."""

    @functools.wraps(set_signals)
    def set_loop_signals(loop: asyncio.AbstractEventLoop) -> Any:
        # Until now the worker has the signal handlers of its parent, of which it is a fork: they
        # set a flag at which nobody looks here, and the parent waits for the worker for ever.
        parent = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        worker = set_signals(loop)
        early: list[int] = []
        draining: list[asyncio.Task[None]] = []
        hurried = threading.Event()
        told_again = asyncio.Event()

        def begin() -> None:
            # Once: granian's signal takes two, and a third would block the event loop.
            if draining:
                told_again.set()
            else:
                draining.append(loop.create_task(drain_and_stop()))

        async def drain_and_stop() -> None:
            parent_has_heard = loop.time() + PARENT_HEARS
            try:
                await stop.drained(hurry)
                await all_dropped()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(parent_has_heard):
                        await told_again.wait()
            finally:
                worker.set()
                if hurried.is_set():
                    exit_soon()

        def hurry() -> None:
            hurried.set()
            if not stop.draining:
                loop.call_soon_threadsafe(exit_soon)

        def exit_soon() -> None:
            # Else granian waits for unfinished HTTP requests, without limit.
            loop.call_later(EXIT_AFTER, sys.exit, 0)

        def take_signals() -> None:
            for number in SIGNALS:
                try:
                    loop.add_signal_handler(number, begin)
                except NotImplementedError:  # Windows
                    signal.signal(number, lambda *_: loop.call_soon_threadsafe(begin))

        def loop_runs() -> None:
            take_signals()
            if (early or getattr(parent, "interrupt_signal", False)) and not draining:
                begin()

        take_signals()
        for number in SIGNALS:  # uvloop forgets those that come before it runs
            signal.signal(number, lambda number, _: early.append(number))
        loop.call_soon(loop_runs)
        return worker

    return set_loop_signals
