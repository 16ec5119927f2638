"""Which of several endpoints a client dials: one that works, and of those one of the nearest.

Pure: the time goes in as ``now``, float seconds of one monotonic clock, random numbers as a
callable that gives 0 <= r < 1. Round trips are seconds. Asked only when a dial is due: a live
connection is never left for a nearer endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import NamedTuple

from .breaker import Breaker, BreakerState

ALPHA = 0.2  # the weight of the newest round trip in the moving average
NEAR = 0.015  # seconds beyond the best, or
NEAR_PART = 0.2  # this part of it, whichever is more: equally near
PROBE_EVERY = 300.0  # seconds, give or take a fifth: the others are measured while connected
PROBE_TIMEOUT = 1.5  # seconds for the answer to a probe
PROBE_JITTER = 0.2
BREAKER_JITTER = 0.2  # clients that saw the same outage do not all come back at once

# What says that an endpoint does not work. All other codes were sent by a server that does, or by
# the client itself.
FAILURE_CODES = frozenset({1006, 1011, 1013, 1014, 4001})
ASIDE_CODES = FAILURE_CODES | {1001, 1012}  # it stops, or does not work


class EndpointStatus(NamedTuple):
    """What a client knows of an endpoint. ``rtt``: seconds, None if not measured."""

    url: str
    rtt: float | None
    breaker: BreakerState
    current: bool


class Endpoints:
    """The endpoints of one client, their round trips and their circuit breakers.

    One that could not be reached, was lost or drains is *put aside*: the others come first until a
    welcome anywhere clears that. ``breakers`` maps a URL to its breaker; several clients may share
    it, missing ones are made.
    """

    def __init__(
        self,
        urls: Sequence[str],
        random: Callable[[], float],
        breakers: MutableMapping[str, Breaker] | None = None,
    ) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self._random = random
        self._rtts: dict[str, float] = {}
        self._probed: set[str] = set()  # those whose round trip is that of probes
        self._aside: dict[str, None] = {}  # in order of time
        self._trials: set[str] = set()  # those that this client tries while they are half open
        self._breakers = {} if breakers is None else breakers
        for url in self.urls:
            if url not in self._breakers:
                jitter = 1 - BREAKER_JITTER + 2 * BREAKER_JITTER * random()
                self._breakers[url] = Breaker(jitter=jitter)

    def breaker(self, url: str) -> Breaker:
        return self._breakers[url]

    def rtt(self, url: str) -> float | None:
        """Seconds, a moving average; None: unknown."""
        return self._rtts.get(url)

    def measured(self, url: str, rtt: float, *, probed: bool = False) -> None:
        """A round trip of ``rtt`` seconds was seen: on a connection, or by a probe. The two are
        never averaged: a probe waits for more than the network."""
        before = self._rtts.get(url, rtt) if probed == (url in self._probed) else rtt
        self._rtts[url] = before + ALPHA * (rtt - before)
        (self._probed.add if probed else self._probed.discard)(url)

    def silent(self, url: str) -> None:
        """A probe had no answer: nothing is known of it."""
        self._rtts.pop(url, None)

    def put_aside(self, url: str) -> None:
        """It could not be reached, was lost, or drains."""
        self._aside.pop(url, None)
        self._aside[url] = None

    def welcomed(self, url: str, now: float) -> None:
        self._aside.clear()
        self._breakers[url].succeeded(now)

    def ended(self, url: str, code: int, welcomed: bool, now: float) -> None:
        """A connection, or a try, ended with ``code``; 1006 if it never was one."""
        if code in ASIDE_CODES or not welcomed:
            self.put_aside(url)
        if code in FAILURE_CODES:
            self._breakers[url].failed(now)
        self.abandoned(url, now)

    def abandoned(self, url: str, now: float) -> None:
        """A try is over, or was given up. Of a half-open endpoint only the one who tried it may
        let the next one try."""
        if url in self._trials:
            self._trials.discard(url)
            self._breakers[url].abandoned(now)

    def proved(self, url: str, now: float) -> bool:
        """An answer came at once. True if the endpoint is half open: another one is wanted."""
        if self._breakers[url].state(now) is BreakerState.HALF_OPEN:
            self._breakers[url].succeeded(now)
        if self._breakers[url].state(now) is BreakerState.HALF_OPEN:
            return True
        self._trials.discard(url)  # passed; the next one is whoever's then
        return False

    def candidates(self, now: float, besides: str | None = None) -> list[str]:
        """Those that may be dialled; of those put aside only the first, if there is no other.
        ``besides``: an endpoint to be left, which counts only if it is the only one."""
        allowed = [url for url in self.urls if self._breakers[url].retry_after(now) <= 0]
        allowed = [url for url in allowed if url != besides] or allowed
        waiting = [url for url in self._aside if url in allowed]
        return [url for url in allowed if url not in self._aside] or waiting[:1]

    def unmeasured(self, now: float, besides: str | None = None) -> list[str]:
        """The candidates, if there is a choice among several and nothing to choose by."""
        found = self.candidates(now, besides)
        known = any(url in self._rtts for url in found)
        return [] if known or len(found) < 2 else found

    def choose(self, now: float, besides: str | None = None) -> str | None:
        """The one to dial now; whoever dials reports the end, or the welcome. None: no breaker
        lets anyone dial before ``retry_after`` seconds have passed."""
        found = self.candidates(now, besides)
        if not found:
            return None
        near = nearest({url: self._rtts[url] for url in found if url in self._rtts}) or found
        url = near[int(self._random() * len(near))]
        self._breakers[url].allow(now)
        if self._breakers[url].state(now) is BreakerState.HALF_OPEN:
            self._trials.add(url)
        return url

    def retry_after(self, now: float) -> float:
        """Seconds until some breaker allows a dial; 0 if one does now."""
        return min(self._breakers[url].retry_after(now) for url in self.urls)

    def status(self, now: float, current: str | None) -> list[EndpointStatus]:
        return [
            EndpointStatus(url, self.rtt(url), self._breakers[url].state(now), url == current)
            for url in self.urls
        ]


def nearest(rtts: MutableMapping[str, float]) -> list[str]:
    """Those whose round trip is about as short as the shortest."""
    limit = reach(rtts.values())
    return [url for url, rtt in rtts.items() if rtt <= limit]


def reach(rtts: Iterable[float]) -> float:
    """The longest round trip that counts as near, in seconds."""
    best = min(rtts, default=0.0)
    return best + max(NEAR, NEAR_PART * best)
