"""When to try again: the schedule of reconnects, of requests and of database rounds.

Pure: random numbers are passed in as a callable that gives 0 <= r < 1, such as ``random.random``.
All durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# Waits before the second, third and fourth attempt at a database transaction that failed.
DATABASE_RETRIES = (0.05, 0.1, 0.2)

OVERLOADED_ATTEMPT = 2  # after 1013 a client's back-off begins here


@dataclass(frozen=True, slots=True)
class Backoff:
    """The schedule of a client that reconnects.

    ``max_retries`` tries at growing distances, then it is parked: tries go on, far apart and
    without end, because a server that was down for an hour is not down for ever.
    ``when_exhausted="stop"`` ends instead.
    """

    max_retries: int = 5  # tries that end before welcome, until the client is parked
    base_delay: float = 1.0  # before the first try; doubles with each
    max_delay: float = 30.0  # the doubling ends here; the random part comes on top
    parked_delay: float = 30.0  # between tries while parked, give or take half of it
    when_exhausted: Literal["park", "stop"] = "park"
    min_uptime: float = 5.0  # welcomed for this long, a connection makes the count start afresh

    def delay(self, attempt: int, random: Callable[[], float], window: float = 0.0) -> float | None:
        """Seconds to wait before try ``attempt`` (from 0). None: stop, the tries are used up.

        ``window``: seconds over which the server asked its clients to spread; below 1 counts as 1.
        """
        if self.exhausted(attempt):
            if self.when_exhausted == "stop":
                return None
            return self.parked(random)
        # Beyond 2**60 the cap decides anyway, and a float overflows soon after 2**1000.
        growing = min(self.max_delay, self.base_delay * 2.0 ** min(attempt, 60))
        return growing + random() * max(1.0, window)

    def parked(self, random: Callable[[], float]) -> float:
        """Seconds between tries in the slow lane."""
        return self.parked_delay * (0.5 + random())

    def exhausted(self, attempt: int) -> bool:
        """Whether try ``attempt`` comes after the growing delays: parked, or the end."""
        return attempt >= self.max_retries

    def next_attempt(self, attempt: int, welcomed_for: float | None) -> int:
        """The number of the try that follows try ``attempt``, now that it has ended.

        ``welcomed_for``: seconds from its welcome to its end; None if it ended before. Only the
        latter counts. A count that fell back to 0 at once would let a server that welcomes and
        drops be redialled as fast as it can answer (pladaria/reconnecting-websocket#25).
        """
        if welcomed_for is None:
            return attempt + 1
        return 0 if welcomed_for >= self.min_uptime else attempt


def request_delays(
    tries: int = 3, first: float = 0.05, random: Callable[[], float] | None = None
) -> tuple[float, ...]:
    """Seconds to wait between ``tries`` of one request: one fewer than tries, each twice the last.

    With ``random`` each is give or take half of itself. All tries carry the same number, so that
    the server handles one of them.
    """
    delays = (first * 2**n for n in range(tries - 1))
    if random is None:
        return tuple(delays)
    return tuple(delay * (0.5 + random()) for delay in delays)
