"""Circuit breaker: after too many failures in a row, stop asking for a while, then try carefully.

CLOSED: calls go through. OPEN: they fail at once. HALF_OPEN: one caller tries, the others fail at
once. Everything that changes the state is in ``TRANSITIONS``. Pure: the time goes in as ``now``,
float seconds of one monotonic clock. Not for use from several threads at once.

    if not breaker.allow(now):
        raise Unavailable(breaker.retry_after(now))
    try:
        ...
    except ConnectionError:
        breaker.failed(now)
    else:
        breaker.succeeded(now)
"""

from __future__ import annotations

from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(StrEnum):
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ABANDONED = "Abandoned"
    FAILURES_REACHED = "FailuresReached"  # so many in a row
    OPEN_TIME_PASSED = "OpenTimePassed"
    PROBES_PASSED = "ProbesPassed"  # the part that succeeded is above close_above
    PROBES_FAILED = "ProbesFailed"  # it cannot get there any more


_CLOSED, _OPEN, _HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

TRANSITIONS: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (_CLOSED, BreakerEvent.SUCCEEDED): _CLOSED,
    (_CLOSED, BreakerEvent.FAILED): _CLOSED,
    (_CLOSED, BreakerEvent.ABANDONED): _CLOSED,
    (_CLOSED, BreakerEvent.FAILURES_REACHED): _OPEN,
    # Results of calls that began before it opened come late and prove nothing.
    (_OPEN, BreakerEvent.SUCCEEDED): _OPEN,
    (_OPEN, BreakerEvent.FAILED): _OPEN,
    (_OPEN, BreakerEvent.ABANDONED): _OPEN,
    (_OPEN, BreakerEvent.OPEN_TIME_PASSED): _HALF_OPEN,
    (_HALF_OPEN, BreakerEvent.SUCCEEDED): _HALF_OPEN,
    (_HALF_OPEN, BreakerEvent.FAILED): _HALF_OPEN,
    (_HALF_OPEN, BreakerEvent.ABANDONED): _HALF_OPEN,
    (_HALF_OPEN, BreakerEvent.PROBES_PASSED): _CLOSED,
    (_HALF_OPEN, BreakerEvent.PROBES_FAILED): _OPEN,
}


class Breaker:
    """One breaker, for one endpoint or one database.

    * ``failures`` in a row open it
    * ``open_for``: seconds until one caller may try; times ``jitter`` (such as 0.8 to 1.2, drawn
      by the caller), so that those who saw the same outage do not all come back at once
    * ``probes``: results that this caller reports, on one connection; 1 for a database
    * ``close_above``: the part of the probes that has to be exceeded by successes to close it.
      With 20 probes and 0.95 one failure opens it again; so it does with 1.

    ``ValueError`` for parameters with which it could never open or never close.
    """

    __slots__ = (
        "_failed",
        "_opened_at",
        "_state",
        "_succeeded",
        "_trial_at",
        "close_above",
        "failures",
        "open_for",
        "probes",
    )

    def __init__(
        self,
        failures: int = 10,
        open_for: float = 30.0,
        probes: int = 20,
        close_above: float = 0.95,
        jitter: float = 1.0,
    ) -> None:
        if not (failures >= 1 and probes >= 1 and open_for * jitter > 0 and 0 <= close_above < 1):
            raise ValueError(
                "failures and probes have to be at least 1, open_for and jitter above 0, "
                "close_above from 0 to below 1"
            )
        self.failures = failures
        self.open_for = open_for * jitter
        self.probes = probes
        self.close_above = close_above
        self._state = BreakerState.CLOSED
        self._succeeded = 0  # of the probes
        self._failed = 0  # of the probes; while CLOSED: in a row
        self._opened_at = 0.0
        self._trial_at: float | None = None  # HALF_OPEN: when the caller let through last reported

    def state(self, now: float) -> BreakerState:
        """The state at ``now``; an OPEN breaker becomes HALF_OPEN by the clock alone."""
        if self._state is BreakerState.OPEN and now >= self._opened_at + self.open_for:
            self._move(BreakerEvent.OPEN_TIME_PASSED)
        return self._state

    def allow(self, now: float) -> bool:
        """Whether the caller may make its call, and then has to report how it went.

        HALF_OPEN says yes to one caller, and to another only when the first has reported nothing
        for ``open_for``: it may have been cancelled.
        """
        if self.retry_after(now) > 0:
            return False
        if self._state is BreakerState.HALF_OPEN:
            self._forget_trial()
            self._trial_at = now
        return True

    def retry_after(self, now: float) -> float:
        """Seconds until ``allow`` may say yes; 0 if it would now."""
        state = self.state(now)
        if state is BreakerState.OPEN:
            return self._opened_at + self.open_for - now
        if self._trial_at is not None:
            return max(0.0, self._trial_at + self.open_for - now)
        return 0.0

    def succeeded(self, now: float) -> None:
        """Report a call, or a probe, that went well."""
        self.state(now)
        self._move(BreakerEvent.SUCCEEDED)
        if self._state is BreakerState.CLOSED:
            self._failed = 0
        elif self._state is BreakerState.HALF_OPEN:
            self._heard_of(now)
            self._succeeded += 1
            if self._succeeded / self.probes > self.close_above:
                self._move(BreakerEvent.PROBES_PASSED)
                self._forget_trial()

    def failed(self, now: float) -> None:
        """Report a call, or a probe, that failed."""
        self.state(now)
        self._move(BreakerEvent.FAILED)
        if self._state is BreakerState.CLOSED:
            self._failed += 1
            if self._failed >= self.failures:
                self._open(BreakerEvent.FAILURES_REACHED, now)
        elif self._state is BreakerState.HALF_OPEN:
            self._heard_of(now)
            self._failed += 1
            if not (self.probes - self._failed) / self.probes > self.close_above:
                self._open(BreakerEvent.PROBES_FAILED, now)

    def abandoned(self, now: float) -> None:
        """Report a call, or a row of probes, that ended without a verdict: cancelled, or closed in
        good order. HALF_OPEN lets the next caller try at once."""
        self.state(now)
        self._move(BreakerEvent.ABANDONED)
        if self._state is BreakerState.HALF_OPEN:
            self._forget_trial()

    def _move(self, event: BreakerEvent) -> None:
        self._state = TRANSITIONS[self._state, event]

    def _open(self, event: BreakerEvent, now: float) -> None:
        self._move(event)
        self._opened_at = now
        self._forget_trial()

    def _heard_of(self, now: float) -> None:
        # A report counts even if its caller did not ask ``allow``, lest the breaker stays as it is
        # for ever; but it is not taken for the one who did.
        if self._trial_at is not None:
            self._trial_at = now

    def _forget_trial(self) -> None:
        self._trial_at = None
        self._succeeded = self._failed = 0
