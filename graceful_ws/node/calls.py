"""Calls of what the application wrote, whose ways to end are many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .threads import Busy, Threads

Result = TypeVar("Result")


class HandlerCancelled(Exception):
    """A handler let out a CancelledError that was meant for a task of its own."""


async def called(awaitable: Awaitable[Result]) -> Result:
    """What ``awaitable`` returns. A CancelledError comes through only if the running task is being
    cancelled: ``task.cancel(); await task`` in a handler is a mistake of the handler, and must not
    end the task that called it. Raises HandlerCancelled instead."""
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise HandlerCancelled from error


async def in_thread(
    threads: Threads, limit: asyncio.Timeout, function: Callable[..., Result], *args: object
) -> Result:
    """Runs it in one of the threads. Raises Busy if none had begun it when ``limit`` came: then
    none will."""
    claim = threading.Lock()

    def begun() -> Result:
        if not claim.acquire(blocking=False):
            raise Busy  # nobody hears it
        return function(*args)

    try:
        return await threads.run(begun)
    except asyncio.CancelledError:
        if limit.expired() and claim.acquire(blocking=False):
            raise Busy("no handler thread is free") from None
        raise
