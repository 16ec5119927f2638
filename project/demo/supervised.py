"""One process of the demo."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFTEN = 5  # deaths of one process...
SHORTLY = 10.0  # ...within so many seconds, and it rests...
REST = 5.0  # ...for so many before the next start


class Supervised:
    """One process that is started again when it ends."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        answers: Callable[[], Awaitable[bool]] | None = None,
        pause: float = 0.0,
    ) -> None:
        """``answers``: whether it does its work by now; None when nobody waits for that.
        ``pause``: seconds between its end and its next start."""
        self.name = name
        self.log = log
        self.answers = answers
        self.starts = 0
        self._argv = argv
        self._env = env
        self._pause = pause
        self._process: asyncio.subprocess.Process | None = None
        self._deaths: deque[float] = deque(maxlen=OFTEN)
        self._woken = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None
        return self._process.pid

    async def start(self, lifeline: socket.socket) -> asyncio.subprocess.Process:
        """Starts it with ``lifeline`` as its stdin, in a process group of its own: a Ctrl-C in the
        terminal is for the supervisor alone."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=dict(self._env),
                cwd=ROOT,
                stdin=lifeline.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        return self._process

    def died(self) -> float:
        """Counts a death; returns the seconds to rest before the next start."""
        self._deaths.append(time.monotonic())
        often = len(self._deaths) == OFTEN and self._deaths[-1] - self._deaths[0] < SHORTLY
        return max(REST if often else 0.0, self._pause)

    async def rest(self, seconds: float) -> None:
        """Returns after ``seconds``, or at ``wake``."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)

    def wake(self) -> None:
        """Ends its rest, now and from now on."""
        self._woken.set()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it does not run. SIGKILL is for all it started."""
        if self.running:
            with suppress(ProcessLookupError, PermissionError):  # it ends just now
                (os.killpg if number is signal.SIGKILL else os.kill)(self.pid, number)

    def clear(self) -> None:
        """After its end: ends what it may have left behind."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
