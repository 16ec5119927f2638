"""Whatever happens to a connection, in whatever order, these hold.

All times are multiples of 1/8 s, which floats add without rounding: limits are met to the instant.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.connection import Connection, Limits
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    DRAIN_STARTED,
    FRAME_RECEIVED,
    FRAME_SENT,
    MESSAGE_RECEIVED,
    MESSAGE_SENT,
    OPENED,
    RESCHEDULE,
    TRANSITIONS,
    WELCOMED,
    CloseRequested,
    DropTransport,
    Effect,
    Event,
    FrameReceived,
    IllegalTransition,
    MessageReceived,
    PongReceived,
    SendClose,
    SendPing,
    State,
    TransportClosed,
)

SECONDS = st.integers(1, 160).map(lambda eighths: eighths / 8)
LIMITS = st.builds(
    Limits,
    connecting=SECONDS,
    idle=SECONDS,
    closing=SECONDS,
    heartbeat_interval=SECONDS,
    heartbeat_timeout=SECONDS,
    max_missed=st.integers(1, 4),
    rtt_interval=SECONDS,
    close_when_idle=st.booleans(),
    heartbeat=st.booleans(),
)
JITTER = st.sampled_from([0.5, 0.75, 1.0])
TRAFFIC = [FRAME_RECEIVED, FRAME_SENT, MESSAGE_RECEIVED, MESSAGE_SENT, PongReceived(-1)]
EVENTS = st.one_of(
    st.sampled_from([*TRAFFIC, WELCOMED]),
    st.sampled_from(
        [OPENED, DRAIN_STARTED, CloseRequested(1012), TransportClosed(1006), DEADLINE_REACHED]
    ),
)
PAUSES = st.integers(0, 40).map(lambda eighths: eighths / 8)
STEPS = st.lists(st.tuples(PAUSES, EVENTS), max_size=60)


class LazyCaller:
    """Wakes up when it was told to and at no other time, and checks the rules after each event."""

    def __init__(self, limits: Limits, jitter: float) -> None:
        self.connection = Connection(limits, jitter)
        self.limits = limits
        self.scheduled: float | None = None
        self.effects: list[tuple[float, Effect]] = []
        self.heard: float | None = None  # the last inbound frame, or the welcome
        self.silent_pings: list[float] = []  # since then

    def run(self, until: float) -> None:
        while self.scheduled is not None and self.scheduled <= until:
            self.handle(DEADLINE_REACHED, self.scheduled)

    def handle(self, event: Event, now: float) -> None:
        connection = self.connection
        state = connection.state
        legal = (state, type(event)) in TRANSITIONS
        try:
            effects = connection.handle(event, now)
        except IllegalTransition:
            assert not legal or (event is OPENED and connection.opened_at is not None)
            assert connection.state is state
            return
        assert legal
        deadline = connection.deadline
        if event is DEADLINE_REACHED:
            self.scheduled = deadline
            assert deadline is None or deadline > now
        elif RESCHEDULE in effects:
            assert deadline is not None
            assert self.scheduled is None or deadline < self.scheduled
            self.scheduled = deadline
        if event is WELCOMED or isinstance(event, FrameReceived | MessageReceived | PongReceived):
            self.heard = now
            self.silent_pings = []
        for effect in effects:
            if isinstance(effect, SendPing):
                self.silent_pings.append(now)
            if effect is not RESCHEDULE:
                self.effects.append((now, effect))
        self.check(now)

    def check(self, now: float) -> None:
        connection, limits = self.connection, self.limits
        state, deadline = connection.state, connection.deadline
        # No deadline is slept through, and there is one wherever something can be waited for.
        if deadline is not None:
            assert self.scheduled is not None
            assert self.scheduled <= deadline
        timed = state in (State.CONNECTING, State.CONNECTED, State.SUSPECT, State.CLOSING)
        if timed or (limits.heartbeat and state is not State.DISCONNECTED):
            assert deadline is not None
        # Misses are what SUSPECT means, and they are bounded.
        assert connection.missed <= limits.max_missed
        if state in (State.CONNECTED, State.IDLE):
            assert connection.missed == 0
        if state is State.SUSPECT:
            assert 0 < connection.missed < limits.max_missed
        # Another ping without an answer to the one before is only sent after a miss.
        assert len(self.silent_pings) <= limits.max_missed
        for ping, following in pairwise(self.silent_pings):
            assert following - ping >= limits.heartbeat_timeout
        # One close, then at most one drop, and within the closing limit.
        closes = [at for at, effect in self.effects if isinstance(effect, SendClose)]
        drops = [at for at, effect in self.effects if isinstance(effect, DropTransport)]
        assert len(closes) <= 1
        assert len(drops) <= len(closes)
        if closes:
            assert state in (State.CLOSING, State.DISCONNECTED)
            assert connection.close_code is not None
        if state is State.CLOSING:
            assert now - closes[0] <= limits.closing


@given(LIMITS, JITTER, STEPS)
def test_rules_hold_for_any_events_in_any_order(
    limits: Limits, jitter: float, steps: list[tuple[float, Event]]
) -> None:
    caller = LazyCaller(limits, jitter)
    now = 0.0
    for pause, event in steps:
        now += pause
        caller.run(now)
        caller.handle(event, now)


@given(LIMITS, JITTER, STEPS, SECONDS)
def test_silent_peer_is_always_closed_in_time(
    limits: Limits, jitter: float, steps: list[tuple[float, Event]], delay: float
) -> None:
    """At the latest interval + max_missed timeouts after the last that was heard from it, whatever
    this side sends meanwhile."""
    caller = LazyCaller(limits, jitter)
    caller.handle(OPENED, 0.0)
    now = 0.0
    for pause, event in [(0.0, WELCOMED), *steps]:
        now += pause
        caller.run(now)
        caller.handle(event, now)
    started = caller.heard
    assert started is not None
    limit = started + limits.heartbeat_interval + limits.max_missed * limits.heartbeat_timeout
    while limits.heartbeat and now <= limit:
        caller.handle(MESSAGE_SENT, now)
        now += delay
        caller.run(min(now, limit))
    if limits.heartbeat:
        assert caller.connection.state in (State.CLOSING, State.DISCONNECTED)


@given(LIMITS, JITTER, STEPS)
def test_closing_always_ends_within_its_limit_whatever_still_comes(
    limits: Limits, jitter: float, steps: list[tuple[float, Event]]
) -> None:
    caller = LazyCaller(limits, jitter)
    caller.handle(OPENED, 0.0)
    caller.handle(CloseRequested(1012), 0.0)
    now = 0.0
    for pause, event in steps:
        now += pause
        caller.run(now)
        caller.handle(event, now)
    caller.run(limits.closing)
    assert caller.connection.state is State.DISCONNECTED


@given(LIMITS, JITTER, st.lists(st.tuples(PAUSES, st.sampled_from(TRAFFIC)), max_size=40))
def test_rtt_is_the_time_from_the_latest_ping_to_its_pong(
    limits: Limits, jitter: float, steps: list[tuple[float, Event]]
) -> None:
    caller = LazyCaller(limits, jitter)
    caller.handle(OPENED, 0.0)
    caller.handle(WELCOMED, 0.0)
    now, measured = 0.0, None
    for pause, event in steps:
        now += pause
        caller.run(now)
        pings = [at for at, effect in caller.effects if isinstance(effect, SendPing)]
        if isinstance(event, PongReceived) and pings:
            event = PongReceived(int(pings[-1] * 1000))
            if pings[-1:] != [measured]:
                expected, measured = now - pings[-1], pings[-1]
        caller.handle(event, now)
        assert caller.connection.rtt == (None if measured is None else expected)
