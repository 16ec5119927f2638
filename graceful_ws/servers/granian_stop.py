"""The signals of granian's workers: a drain, and then granian's own stop."""

from __future__ import annotations

import asyncio
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


def drain_first(
    worker_signal: Any, stop: Stop, all_dropped: Callable[[], Awaitable[None]]
) -> Callable[[asyncio.AbstractEventLoop], Any]:
    """In place of granian's ``set_loop_signals``, which a worker calls before its loop runs."""

    def set_loop_signals(loop: asyncio.AbstractEventLoop) -> Any:
        # Until now the worker has the signal handlers of its parent, of which it is a fork: they
        # set a flag at which nobody looks here, and the parent waits for the worker for ever.
        parent = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        worker = worker_signal()
        draining: list[asyncio.Task[None]] = []
        hurried = threading.Event()

        def told(*_: Any) -> None:
            loop.call_soon_threadsafe(begin)

        def begin() -> None:
            # Once: granian's signal takes two, and a third would block the event loop.
            if not draining:
                draining.append(loop.create_task(drain_and_stop()))

        async def drain_and_stop() -> None:
            parent_has_heard = loop.time() + PARENT_HEARS
            try:
                await stop.drained(hurry)
                await all_dropped()
                await asyncio.sleep(parent_has_heard - loop.time())
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
                signal.signal(number, told)

        def loop_runs() -> None:
            # Python's handlers alone would not wake asyncio's loop, and the loop's own alone would
            # miss what comes while uvloop's stands still: before this, and after the lifespan's
            # startup. Whatever comes here wakes both.
            for number in SIGNALS:
                with suppress(NotImplementedError):  # Windows
                    loop.add_signal_handler(number, begin)
            take_signals()

        take_signals()
        loop.call_soon(loop_runs)
        if getattr(parent, "interrupt_signal", False):
            loop.call_soon(begin)
        return worker

    return set_loop_signals
