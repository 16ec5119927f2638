"""A token bucket: how much may come at once, and how much in the long run."""

from __future__ import annotations


class Bucket:
    """Holds ``burst`` tokens at first and at most; ``rate`` of them come back a second.

    So at most ``burst + rate * t`` are taken in any ``t`` seconds. Times are float seconds of one
    monotonic clock. Raises ValueError for a rate or a burst that would never give a token.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if not (rate > 0 and burst >= 1):
            raise ValueError(f"rate has to be above 0 and burst at least 1, not {rate}, {burst}")
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Takes a token and returns 0.0; or takes none, and returns the seconds until there is one,
        which is above zero."""
        tokens = self._tokens
        if now > self._at:
            tokens += (now - self._at) * self._rate
            if tokens > self._burst:  # min() takes twice the time
                tokens = self._burst
            self._at = now
        if tokens >= 1:
            self._tokens = tokens - 1
            return 0.0
        self._tokens = tokens
        # Never so short that a clock of this size does not show it.
        return max((1 - tokens) / self._rate, 1e-6)

    def full_in(self, now: float) -> float:
        """Seconds until a whole burst may come again."""
        missing = self._burst - self._tokens
        return max(0.0, missing / self._rate - max(0.0, now - self._at))
