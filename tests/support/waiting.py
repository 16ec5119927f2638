"""Polling with a deadline, for what announces itself to nobody."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

STEP = 0.01  # seconds between two looks


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], within: float = 5.0, message: str = ""
) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], within: float = 5.0, message: str = "") -> T: ...


async def eventually(
    predicate: Callable[[], object], within: float = 5.0, message: str = ""
) -> object:
    """Call ``predicate`` every 10 ms until what it returns is true, and return that.

    ``predicate`` may be a coroutine function; one call of it is bounded by the deadline too.
    Raises AssertionError with ``message`` and the last value after ``within`` seconds.
    """
    value: object = "none, the first look did not end"
    try:
        async with asyncio.timeout(within) as deadline:
            while True:
                outcome = predicate()
                value = await outcome if inspect.isawaitable(outcome) else outcome
                if value:
                    return value
                await asyncio.sleep(STEP)
    except TimeoutError:
        if not deadline.expired():
            raise  # the predicate's own
        raise AssertionError(_complaint(predicate, within, message, value)) from None


def eventually_sync(predicate: Callable[[], T], within: float = 5.0, message: str = "") -> T:
    """The same for code outside an event loop."""
    deadline = time.monotonic() + within
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(predicate, within, message, value))
        time.sleep(STEP)


def _complaint(predicate: object, within: float, message: str, value: object) -> str:
    what = message or getattr(predicate, "__qualname__", repr(predicate))
    return f"not within {within:g} s: {what}; last value: {value!r}"
