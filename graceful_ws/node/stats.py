"""What a node counts of itself: plain numbers, so that a message costs an addition.

Everything counts from the node's start, so that who reads takes differences, and a reading that is
missed costs nothing. ``figures()`` is what samples, the live dashboard and Prometheus read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Histogram:
    """Observations counted by upper bound, as Prometheus does it; the last bound is infinite."""

    __slots__ = ("bounds", "counts", "mirror", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.mirror: Callable[[float], None] | None = None  # hears of each observation too

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if self.mirror is not None:
            self.mirror(value)

    def figures(self) -> dict[str, Any]:
        return {"bounds": self.bounds, "counts": self.counts, "total": round(self.total, 6)}


class Stats:
    """The counters of one node. Keys of the counters are what a label says."""

    def __init__(self) -> None:
        self.messages_in = 0  # numbered, volatile and plain, from clients
        self.messages_out = 0  # numbered, volatile and plain, written to sockets
        self.replayed = 0  # of them, read back from the journal
        self.duplicates = 0  # numbered messages of clients that had come before
        self.fenced = 0  # writes refused because the session has another owner
        self.hellos: Counter[tuple[str, str]] = Counter()  # (result, cause of the absence)
        self.gaps: Counter[str] = Counter()  # by reason
        self.closes: Counter[int] = Counter()  # by code, ours if we closed
        self.exits: Counter[str] = Counter()  # of sessions, by cause
        self.refused: Counter[str] = Counter()  # handshakes, by why
        self.rtt = Histogram(SHORT)  # seconds, of each ping
        self.lag = Histogram(SHORT)  # seconds from the commit that numbered to the sockets here
        self.commit = Histogram(SHORT)  # seconds, of each transaction of the writer
        self.batch = Histogram(SIZES)  # entries in it

    def figures(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
            "replayed": self.replayed,
            "duplicates": self.duplicates,
            "fenced": self.fenced,
            "hellos": [[*key, count] for key, count in self.hellos.items()],
            "gaps": dict(self.gaps),
            "closes": {str(code): count for code, count in self.closes.items()},
            "exits": dict(self.exits),
            "refused": dict(self.refused),
            "rtt": self.rtt.figures(),
            "lag": self.lag.figures(),
            "commit": self.commit.figures(),
            "batch": self.batch.figures(),
        }
