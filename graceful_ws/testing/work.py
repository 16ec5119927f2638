"""Knows when nothing is under way in this process: so a test waits for that, and never sleeps."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from asgiref.sync import sync_to_async

from .errors import NotReady

SOON = 0.01  # seconds: a timer due within it belongs to what is under way
LOOK = 0.0002  # seconds between looks at threads that work
WITHIN = 10.0  # seconds of real time after which what is under way is called stuck

_work: dict[asyncio.AbstractEventLoop, Work] = {}


class Work:
    """What one event loop has to do: callbacks, calls in threads, and timers.

    It sees the threads of the node, those of ``sync_to_async``, ``asyncio.to_thread`` and
    ``run_in_executor``; not what travels through sockets, to a Redis or another host.
    """

    def __init__(self, loop: asyncio.BaseEventLoop, *, in_django_thread: bool = False) -> None:
        self._loop = loop
        self._in_django_thread = in_django_thread
        self._calls: Counter[str] = Counter()  # in threads
        self.frozen = False  # no time passes: a clock is being advanced, and serves the timers

    # --- what there is to do ------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return bool(self._loop._ready)  # type: ignore[attr-defined]

    def next_timer(self) -> float:
        """When the next timer is due, in the loop's seconds; infinite for none."""
        timers = self._loop._scheduled  # type: ignore[attr-defined]
        return min(
            (timer.when() for timer in timers if not timer.cancelled()), default=float("inf")
        )

    async def settle(self) -> None:
        """Returns when nothing is under way. Raises TimeoutError after 10 s of real time."""
        until = time.monotonic() + WITHIN
        while True:
            await asyncio.sleep(0)
            if self._busy:
                pass
            elif self._calls.total():
                time.sleep(LOOK)  # noqa: ASYNC251  (the threads have the interpreter meanwhile)
            elif self.frozen or self.next_timer() > self._loop.time() + SOON:
                return
            else:
                await asyncio.sleep(max(0.0, self.next_timer() - self._loop.time()))
            if time.monotonic() > until:
                raise TimeoutError(f"after {WITHIN:g} s there is still under way: {self._what()}")

    def _what(self) -> str:
        calls = [name for name, count in self._calls.items() if count]
        ready = [repr(handle) for handle in self._loop._ready]  # type: ignore[attr-defined]
        return ", ".join(calls + ready) or "a timer that comes again at once"

    # --- counting -----------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block calls in threads are counted."""
        from graceful_ws.node.threads import Threads

        run, in_executor, loop = Threads.run, self._loop.run_in_executor, self._loop

        async def counted(threads: Any, function: Any, *args: Any) -> Any:
            if asyncio.get_running_loop() is not loop:
                return await run(threads, function, *args)
            if self._in_django_thread:
                return await sync_to_async(function)(*args)
            self._calls[name := _name(function)] += 1
            try:
                return await run(threads, function, *args)
            finally:
                self._calls[name] -= 1

        def counted_in_executor(executor: Any, function: Any, *args: Any) -> Any:
            future = in_executor(executor, function, *args)
            self._calls[name := _name(function)] += 1
            future.add_done_callback(lambda _: self._calls.subtract([name]))
            return future

        with ExitStack() as stack:
            stack.enter_context(patch.object(Threads, "run", counted))
            stack.enter_context(patch.object(loop, "run_in_executor", counted_in_executor))
            _work[loop] = self
            stack.callback(_work.pop, loop)
            yield


def _name(function: Any) -> str:
    """Of what is called in the end, through the wrappers of asyncio and asgiref."""
    while isinstance(function, partial):
        function = next(filter(callable, function.args), function.func)
    return getattr(function, "__qualname__", None) or repr(function)


def work_here() -> Work:
    """Of the running loop. Raises NotReady when no node runs for the test."""
    work = _work.get(asyncio.get_running_loop())
    if work is None:
        raise NotReady(
            "no node runs in this event loop: use the fixture graceful_node (with the loop_scope of"
            " the test), or `async with running_node():`"
        )
    return work


def new_work(*, in_django_thread: bool = False) -> Work:
    """For the running loop. ``in_django_thread``: the node has no threads of its own. Raises
    NotReady for a loop that cannot be watched."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise NotReady(
            f"{type(loop).__module__} cannot be watched: run tests on asyncio's own event loop"
        )
    if loop in _work:
        raise NotReady("a node runs in this event loop already: use that one")
    return Work(loop, in_django_thread=in_django_thread)


async def settle() -> None:
    """Returns when nothing is under way in this process: every message that could be handled,
    kept, numbered and delivered by now is. What waits for time to pass goes on waiting.

    Raises NotReady without a node, TimeoutError after 10 s.
    """
    await work_here().settle()
