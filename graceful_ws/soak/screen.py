"""The progress of a soak: two lines redrawn on a terminal, one line now and then elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

LINE_EVERY = 5.0  # seconds between lines when nothing happens, and one where clients come and go
NEWS_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A look at a soak. ``elapsed``: seconds of ``seconds``, in the phase that is under way."""

    phase: str  # connecting, soaking, settling, closing
    elapsed: float
    seconds: float
    connected: int
    away: int  # connecting, or waiting to try again
    parked: int
    closed: int  # for good
    sent: int
    acknowledged: int
    received: int
    resumes: int
    lost: int
    wrong: int  # duplicated, out of order, unexpected, gaps, not handled

    @property
    def clients(self) -> str:
        said = f"{self.connected} connected"
        for count, word in ((self.away, "away"), (self.parked, "parked"), (self.closed, "closed")):
            said += f", {count} {word}" if count else ""
        return f"{said}, {self.resumes} resumes"

    @property
    def messages(self) -> str:
        said = f"sent {self.sent}, acknowledged {self.acknowledged}, received {self.received}"
        said += f", lost {self.lost}"
        return f"{said}, {self.wrong} WRONG" if self.wrong else said


def bar(done: float, total: float, width: int, cells: str) -> str:
    full = width if total <= 0 else round(width * min(1.0, max(0.0, done / total)))
    return cells[0] * full + cells[1] * (width - full)


class Screen:
    """``write`` gets whole lines, and on a terminal the moves between them."""

    def __init__(self, write: Callable[[str], object], *, terminal: bool, cells: str) -> None:
        self._write = write
        self._terminal = terminal
        self._cells = cells
        self._drawn = False
        self._said: Progress | None = None
        self._said_at = 0.0

    def show(self, progress: Progress, now: float) -> None:
        """``now``: seconds of any one clock."""
        if self._terminal:
            self._draw(progress)
        elif self._is_news(progress, now):
            self._said, self._said_at = progress, now
            self._write(f"{self._time(progress)}: {progress.clients}; {progress.messages}\n")

    def clear(self) -> None:
        """Leaves the place to what is written next."""
        if self._drawn:
            self._write(_ERASE)
            self._drawn = False

    def _is_news(self, progress: Progress, now: float) -> bool:
        said = self._said
        if said is None or said.phase != progress.phase:
            return True
        changed = (said.connected, said.closed, said.wrong) != (
            progress.connected,
            progress.closed,
            progress.wrong,
        )
        return now - self._said_at >= (NEWS_EVERY if changed else LINE_EVERY)

    def _time(self, progress: Progress) -> str:
        if not progress.seconds:  # until it is done
            return f"{progress.phase} {progress.elapsed:.0f} s"
        return f"{progress.phase} {progress.elapsed:.0f}/{progress.seconds:.0f} s"

    def _draw(self, progress: Progress) -> None:
        columns = shutil.get_terminal_size().columns - 1
        cells = bar(progress.elapsed, progress.seconds, 20, self._cells)
        first = f"{progress.phase} {cells} {self._time(progress).partition(' ')[2]}"
        lines = [f"{first}  {progress.clients}"[:columns], progress.messages[:columns]]
        erase = _ERASE if self._drawn else ""
        self._write(erase + "".join(f"{line}\n" for line in lines))
        self._drawn = True


_ERASE = "\x1b[2F\x1b[J"  # two lines up, and everything from there
