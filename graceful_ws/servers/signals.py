"""The stop of a process: one drain, and the signals that arrive after the one that began it."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any

logger = logging.getLogger("graceful_ws.servers")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
COUNT_ONCE = 1.0  # seconds: a Ctrl-C reaches a worker from the terminal and from its parent


async def _no_drain() -> None:
    pass


def _no_hurry() -> None:
    pass


class Stop:
    """What every adapter's hook awaits before its server touches a socket.

    ``drain`` and ``hurry`` may be replaced until the first hook runs. ``clock`` is monotonic, in
    seconds.
    """

    def __init__(
        self,
        drain: Callable[[], Awaitable[None]] = _no_drain,
        hurry: Callable[[], None] = _no_hurry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.drain = drain
        self.hurry = hurry
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._on_hurry: list[Callable[[], None]] = []
        self._counted_at = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def draining(self) -> bool:
        return self._task is not None and not self._task.done()

    async def drained(
        self,
        on_hurry: Callable[[], None] | None = None,
        signals: Sequence[signal.Signals] = SIGNALS,
    ) -> None:
        """Drain, once however many hooks ask, and return when it is over, well or not.

        It sets no deadline: the drain has its own. Cancelling a caller leaves the drain running.
        While it runs the next of ``signals`` calls ``hurry``. ``on_hurry`` is called then or
        later, once or more, for what the server itself would otherwise go on waiting for; it may
        do no more than set a flag, for it may run in a signal handler.
        """
        loop = asyncio.get_running_loop()
        if not self.draining or (self._task is not None and self._task.get_loop() is not loop):
            self._counted_at = self._clock()
            self._on_hurry = []
            self._task = loop.create_task(self._run(), name="graceful_ws drain")
            self._take_signals(signals)
        if on_hurry is not None:
            self._on_hurry.append(on_hurry)
        assert self._task is not None
        # Like shield(), but a drain that was cancelled must not cancel the server's own stop.
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            await self.drain()
        except asyncio.CancelledError:
            logger.warning("The drain was cancelled; the server stops without it.")
            raise
        except Exception:
            logger.exception("The drain failed; the server stops without it.")

    def _take_signals(self, signals: Sequence[signal.Signals]) -> None:
        """Python delivers signals to its main thread only, and lets only that set handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in signals:
            if signal.getsignal(number) != self._on_signal:
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if now - self._counted_at < COUNT_ONCE:
            return
        self._counted_at = now
        task = self._task
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(self._hurry, number)
            return
        # The drain is over: what still waits is the server, whose handler it was before.
        for call in self._on_hurry:
            call()
        previous = self._previous.get(number)
        if previous is not None:
            signal.signal(number, previous)
            signal.raise_signal(number)

    def _hurry(self, number: int) -> None:
        logger.warning("%s again: closing everything now.", signal.Signals(number).name)
        for call in (self.hurry, *self._on_hurry):
            try:
                call()
            except Exception:
                logger.exception("Hurrying the drain failed.")
