"""hypercorn: drain before it ends connections, and let nobody cut the drain of a worker short.

``raise_shutdown`` is what hypercorn's asyncio and uvloop workers wait in until they are told to
stop: by a signal (``-w 0``), by their parent's event (``-w 1``, the default, and more) or because
``--max-requests`` is reached. The application is loaded before the name is looked up. A worker of
the trio class has no asyncio loop, and so no consumers of Channels.

After the drain hypercorn waits ``graceful_timeout`` for requests that still run. Before that it
waits for the sockets that it listened on to be closed, which from Python 3.12 on means that all
connections are: for ever, for the client of a request that does not end (python/cpython#79033).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import multiprocessing
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from hypercorn.asyncio import run

from .signals import SIGNALS, Stop

streams: Any
try:
    from . import hypercorn_stream as streams
except (ImportError, AttributeError):  # another hypercorn: a drain is worth more than close codes
    streams = None

Trigger = Callable[[], Awaitable[Any]]
TERMINATES = 0.1  # seconds until hypercorn has told its connections that it stops
_open: set[Any] = set()  # hypercorn's TCPServer: one for each connection


def set_close_timeout(seconds: float) -> None:
    if streams is not None:
        streams.set_close_timeout(seconds)


def install(stop: Stop) -> dict[str, str]:
    """Wrap what workers wait in, and replace the class of WebSockets; return what could not be."""
    missing = {}
    raise_shutdown = getattr(run, "raise_shutdown", None)
    if inspect.iscoroutinefunction(raise_shutdown):
        run.raise_shutdown = _drain_first(raise_shutdown, stop)  # type: ignore[attr-defined]
    else:
        missing["hypercorn.asyncio.run.raise_shutdown"] = "hypercorn stops without a drain"
    if not hasattr(run, "check_multiprocess_shutdown_event"):
        missing["hypercorn.asyncio.run.check_multiprocess_shutdown_event"] = (
            "a worker that ends kills the others while they drain"
        )
    connection = getattr(run, "TCPServer", None)
    if inspect.iscoroutinefunction(getattr(connection, "run", None)):
        run.TCPServer = _registered(connection)  # type: ignore[attr-defined]
    else:
        missing["hypercorn.asyncio.run.TCPServer"] = "requests that do not end hold up a stop"
    if streams is None or not streams.install():
        missing["hypercorn.protocol.ws_stream.WSStream"] = (
            "close codes of clients read 1006, and connections may not be dropped"
        )
    return missing


def _drain_first(raise_shutdown: Any, stop: Stop) -> Any:
    signals: Sequence[signal.Signals] = SIGNALS

    @functools.wraps(raise_shutdown)
    async def drain_and_raise_shutdown(trigger: Trigger) -> None:
        nonlocal signals
        with contextlib.ExitStack() as stack:
            if _is_of_a_worker(trigger) and _in_main_thread():
                trigger = functools.partial(_first_of, trigger, stack.enter_context(_told()))
                # hypercorn's parent sends SIGTERM to all workers as soon as one of them has ended.
                signals = (signal.SIGINT,)
            try:
                await raise_shutdown(trigger)
            except Exception:  # its way to say that the trigger has returned
                await _drained(stop, signals)
                raise

    return drain_and_raise_shutdown


async def _drained(stop: Stop, signals: Sequence[signal.Signals]) -> None:
    loop = asyncio.get_running_loop()

    def hurry() -> None:
        for connection in list(_open):
            connection.config.graceful_timeout = 0
        if not stop.draining:
            loop.call_soon_threadsafe(_cut)

    await stop.drained(hurry, signals)
    timeouts = (connection.config.graceful_timeout for connection in _open)
    loop.call_later(max(timeouts, default=0) + TERMINATES, _cut)


def _cut() -> None:
    """Ends the connections that are left; hypercorn waits for nobody then."""
    for connection in list(_open):
        if connection.context.terminated.is_set():  # of this server: there may be others
            connection.config.graceful_timeout = 0
            connection.writer.transport.abort()


def _registered(base: Any) -> Any:
    class TCPServer(base):  # type: ignore[misc]
        async def run(self) -> None:
            _open.add(self)
            try:
                await super().run()
            finally:
                _open.discard(self)

    return TCPServer


def _is_of_a_worker(trigger: Trigger) -> bool:
    """Whether a parent process sets the event that ``trigger`` waits for."""
    by_parent = getattr(run, "check_multiprocess_shutdown_event", None)
    return by_parent is not None and getattr(trigger, "func", None) is by_parent


def _in_main_thread() -> bool:
    """Where alone signal handlers can be set."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _told() -> Iterator[asyncio.Event]:
    """An event that is set by SIGTERM, by SIGINT, and by the end of the parent process.

    A worker of hypercorn dies of SIGTERM and ignores SIGINT, whoever sends it: its parent, a
    service manager that signals the whole group. And it outlives its parent, with nobody left to
    stop it. The handlers stay when the loop is gone, until the interpreter is.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the end is near
            loop.call_soon_threadsafe(told.set)

    for number in SIGNALS:
        signal.signal(number, on_signal)
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform == "win32":
        yield told
        return

    def parent_ended() -> None:
        loop.remove_reader(parent.sentinel)
        told.set()

    loop.add_reader(parent.sentinel, parent_ended)
    try:
        yield told
    finally:
        loop.remove_reader(parent.sentinel)


async def _first_of(trigger: Trigger, told: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(trigger()), asyncio.ensure_future(told.wait())]
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()
    finally:
        for future in waiting:
            future.cancel()
