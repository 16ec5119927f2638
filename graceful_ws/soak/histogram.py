"""Percentiles of any number of durations, in a bounded number of counters."""

from __future__ import annotations

import math
from collections import Counter

SMALLEST = 1e-4  # seconds; what is shorter counts as this long
LONGEST = 86_400.0  # seconds; what is longer shares a counter
GROWTH = 1.02  # each counter reaches 2 % further than the one before: so wrong is an answer at most
_LAST = math.ceil(math.log(LONGEST / SMALLEST, GROWTH))


class Histogram:
    """Durations in seconds, in counters that grow with what they count."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        index = math.ceil(math.log(max(seconds, SMALLEST) / SMALLEST, GROWTH))
        self._counts[min(index, _LAST)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, percent: float) -> float | None:
        """Seconds within which ``percent`` of the durations were; None when there are none."""
        wanted, found = math.ceil(self.count * percent / 100), 0
        for index in sorted(self._counts):
            found += self._counts[index]
            if found >= wanted:
                return min(SMALLEST * GROWTH**index, self.longest)
        return None
