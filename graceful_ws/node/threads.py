"""Threads of our own for the store: each keeps its database connection and closes it at its end.

asgiref runs everything thread-sensitive on one global thread, where one slow query would stall
every consumer of the process (django/channels#2132).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import DatabaseError, InterfaceError, connections, reset_queries

from graceful_ws.conf import settings
from graceful_ws.store.base import close_connections, forget_connection, is_outage

Result = TypeVar("Result")
Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
Jobs: TypeAlias = "queue.SimpleQueue[Job | None]"


class Busy(Exception):
    """The queue of the threads is full."""


OUTAGES = (DatabaseError, InterfaceError, Busy)  # InterfaceError is no DatabaseError


class Threads:
    """A fixed number of threads behind a bounded queue.

    After use you must call ``stop``: it lets what runs finish, closes the database connections
    and ends the threads.
    """

    def __init__(self, name: str, count: int, waiting: int) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._name = name
        self._count = count
        self._bound = waiting
        self._threads: list[threading.Thread] = []
        self._busy = 0  # calls that were given and are not done
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Runs ``function(*args)`` in one of the threads, in a copy of the context. Cancelling the
        caller does not stop it. Raises Busy when too many calls wait already."""
        if settings.store_in_django_thread:
            return await sync_to_async(function, thread_sensitive=True)(*args)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        context = copy_context()
        with self._lock:
            if self._jobs.qsize() >= self._bound:
                raise Busy(f"{self._name}: {self._bound} calls wait already")
            self._jobs.put((lambda: context.run(function, *args), loop, future))
            self._busy += 1
            if len(self._threads) < min(self._busy, self._count):
                self._start_thread()
        return await future

    def _start_thread(self) -> None:
        number = len(self._threads) + 1
        thread = threading.Thread(
            target=self._work,
            args=(self._jobs,),
            name=f"graceful-{self._name}-{number}",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _work(self, jobs: Jobs) -> None:
        try:
            while True:
                job = jobs.get()
                if job is None:
                    return
                function, loop, future = job
                try:
                    # A call that nobody waits for any longer is not begun.
                    outcome, error = None if future.cancelled() else function(), None
                except BaseException as raised:
                    outcome, error = None, raised
                    if isinstance(raised, StopIteration):  # a future refuses it
                        error = RuntimeError("a function raised StopIteration")
                        error.__cause__ = raised
                    if isinstance(raised, DatabaseError | InterfaceError):
                        _forget_broken()
                    if is_outage(raised):
                        forget_connection()  # the next call opens a new one
                if django_settings.DEBUG:
                    reset_queries()  # as each request does: the log has the texts of all messages
                with self._lock:
                    self._busy -= 1
                with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                    loop.call_soon_threadsafe(_settle, future, outcome, error)
                del job, function, future, outcome, error
        finally:
            close_connections()

    async def stop(self, within: float = 5.0) -> None:
        """Ends the threads after what they have begun; waits at most ``within`` seconds."""
        threads = self.end()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while any(thread.is_alive() for thread in threads) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def end(self) -> list[threading.Thread]:
        """Asks the threads to end, without waiting for them."""
        with self._lock:
            threads, self._threads = self._threads, []
            jobs, self._jobs = self._jobs, queue.SimpleQueue()
        for _ in threads:
            jobs.put(None)
        return threads

    def abandon(self) -> list[threading.Thread]:
        """The same, and ``run`` raises Busy from now on."""
        self._bound = 0
        return self.end()


def abandon(pools: Iterable[Threads], within: float) -> None:
    """The event loop ends, or has ended: nothing more is begun. Waits, at most ``within`` seconds,
    until the database connections are closed."""
    until = monotonic() + within
    for thread in [thread for pool in pools for thread in pool.abandon()]:
        thread.join(max(0.0, until - monotonic()))


def _forget_broken() -> None:
    """After an error: connections that are broken are closed, of whatever database."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block and not connection.is_usable():
            connection.close()


def _settle(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)
