"""The state machine of one connection.

Everything that changes the state of a connection is here and in the table that it walks, which is
transitions.py. Nothing reads a clock or does I/O: ``handle(event, now)`` takes what happened and
when, and returns what is to be done; ``deadline`` says when ``DEADLINE_REACHED`` is due.

    connection = Connection(Limits(), jitter=random.uniform(0.5, 1.0))
    connection.handle(OPENED, now)
    connection.handle(WELCOMED, now)
    for effect in connection.handle(MESSAGE_RECEIVED, now):
        ...

Times are float seconds of one monotonic clock that never runs backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from .close_codes import CloseCode
from .transitions import (
    DROP_TRANSPORT,
    NOTHING,
    RESCHEDULE,
    TRANSITIONS,
    CloseRequested,
    DeadlineReached,
    DrainStarted,
    Effects,
    Event,
    FrameReceived,
    FrameSent,
    IllegalTransition,
    Kind,
    MessageReceived,
    MessageSent,
    Opened,
    PongReceived,
    SendClose,
    SendPing,
    State,
    TransportClosed,
    Trigger,
    Welcomed,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection, in seconds. ``inf`` switches a limit off.

    ``ValueError`` if one of them is not above zero.
    """

    connecting: float = 5.0  # from Opened to Welcomed, then 4400
    idle: float = 60.0  # without application messages in either direction, then IDLE
    closing: float = 10.0  # from our close frame to the end of the transport, then it is dropped
    heartbeat_interval: float = 5.0  # without inbound, or without outbound, traffic, then a ping
    heartbeat_timeout: float = 3.0  # nothing received within it of a ping is a miss
    max_missed: int = 3  # misses in a row, then 4102
    rtt_interval: float = 30.0  # a ping at least this often, however much traffic there is
    close_when_idle: bool = False  # True: the idle limit closes 4105
    heartbeat: bool = True  # False for peers that answer no pings

    def __post_init__(self) -> None:
        for name in ("connecting", "idle", "closing", "heartbeat_interval", "heartbeat_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} has to be above zero, not {getattr(self, name)!r}")
        if not (self.rtt_interval > 0 and self.max_missed > 0):
            raise ValueError("rtt_interval and max_missed have to be above zero")


class Connection:
    """One connection from Opened to its end; a new socket needs a new object.

    ``jitter`` (0.5 to 1) is the part of ``heartbeat_interval`` after which the first ping is due,
    so that clients that came together are not pinged together.

    For operators, all read-only:

    * ``state``; ``missed``: pings without an answer in a row
    * ``rtt``: seconds, from the latest measured pong; None before the first
    * ``opened_at``, ``welcomed_at``, ``last_message_at``, ``closing_at``: None until it happened
    * ``last_received``, ``last_sent``: the time of Opened until there was a frame
    * ``scheduled``: when the caller has been told to look at the latest; inf: never
    * ``close_code``, ``close_reason``: of the close that came first; None and "" until there is one
    """

    __slots__ = (
        "_awaited_sent_at",
        "_ping_by",
        "_pinged_at",
        "_unanswered_since",
        "close_code",
        "close_reason",
        "closing_at",
        "jitter",
        "last_message_at",
        "last_received",
        "last_sent",
        "limits",
        "missed",
        "opened_at",
        "rtt",
        "scheduled",
        "state",
        "welcomed_at",
    )

    def __init__(self, limits: Limits, jitter: float = 1.0) -> None:
        self.limits = limits
        self.jitter = jitter
        self.state = State.DISCONNECTED
        self.rtt: float | None = None
        self.missed = 0
        self.close_code: int | None = None
        self.close_reason = ""
        self.opened_at: float | None = None
        self.welcomed_at: float | None = None
        self.closing_at: float | None = None
        self.last_message_at: float | None = None
        self.last_received = 0.0
        self.last_sent = 0.0
        self._pinged_at = 0.0  # when the latest ping was sent
        self._ping_by = inf  # when the next ping is due, traffic or not
        self._unanswered_since: float | None = None  # the ping since which nothing was received
        self._awaited_sent_at: int | None = None  # what the pong of the latest ping carries
        self.scheduled = inf

    def handle(self, event: Event, now: float) -> Effects:
        """Take what happened at ``now`` and return what is to be done, mostly nothing.

        After ``DEADLINE_REACHED`` read ``deadline`` and wake up then. All other events move it
        later, and a lazy timer may ignore that; the few that move it earlier (Opened, Welcomed, a
        message that ends IDLE, a frame that ends SUSPECT or answers a ping, CloseRequested) return
        ``RESCHEDULE``. Raises ``IllegalTransition`` for a pair that is not in ``TRANSITIONS``.
        """
        kind = type(event)
        was = self._move(kind)
        return _HANDLERS[kind](self, event, now, was)

    @property
    def deadline(self) -> float | None:
        """When DEADLINE_REACHED is due. None: there is nothing to wait for, because the connection
        is DISCONNECTED, or IDLE or DRAINING without heartbeat."""
        state = self.state
        if state is State.DISCONNECTED:
            at = inf
        elif self.closing_at is not None:
            at = self.closing_at + self.limits.closing
        elif self.welcomed_at is None:
            assert self.opened_at is not None
            at = self.opened_at + self.limits.connecting
        elif state is State.CONNECTED:
            idle, beat = self._idle_at(), self._heartbeat_at()
            at = idle if idle < beat else beat  # min() takes twice the time
        else:
            at = self._heartbeat_at()
        return None if at == inf else at

    def awaits(self, sent_at: int) -> bool:
        """Whether a pong with ``sent_at`` answers the latest ping, which nothing has answered."""
        return sent_at == self._awaited_sent_at

    def _move(self, kind: Kind) -> State:
        """Change the state as the table says, and return the one before."""
        was = self.state
        try:
            self.state = TRANSITIONS[was, kind]
        except KeyError:
            raise IllegalTransition(was, kind) from None
        return was

    # One handler for each event; ``was`` is the state before it.

    def _opened(self, event: Opened, now: float, was: State) -> Effects:
        if self.opened_at is not None:
            self.state = was
            raise IllegalTransition(was, Opened)
        self.opened_at = self.last_received = self.last_sent = now
        return self._rescheduled()

    def _welcomed(self, event: Welcomed, now: float, was: State) -> Effects:
        self.welcomed_at = self.last_received = self.last_sent = now
        self._ping_by = now + self.limits.heartbeat_interval * self.jitter
        return self._rescheduled()

    def _frame_received(self, event: Event, now: float, was: State) -> Effects:
        self.last_received = now
        if self._unanswered_since is None:
            return NOTHING
        self._unanswered_since = None
        self.missed = 0
        return self._rescheduled(self._idle_passed(now))

    def _message_received(self, event: MessageReceived, now: float, was: State) -> Effects:
        self.last_message_at = now
        effects = self._frame_received(event, now, was)
        return self._rescheduled(effects) if was is State.IDLE else effects

    def _pong_received(self, event: PongReceived, now: float, was: State) -> Effects:
        if event.sent_at == self._awaited_sent_at:
            self._awaited_sent_at = None
            self.rtt = now - self._pinged_at
        return self._frame_received(event, now, was)

    def _frame_sent(self, event: FrameSent, now: float, was: State) -> Effects:
        self.last_sent = now
        return NOTHING

    def _message_sent(self, event: MessageSent, now: float, was: State) -> Effects:
        self.last_sent = self.last_message_at = now
        return self._rescheduled() if was is State.IDLE else NOTHING

    def _drain_started(self, event: DrainStarted, now: float, was: State) -> Effects:
        return NOTHING

    def _close_requested(self, event: CloseRequested, now: float, was: State) -> Effects:
        if self.state is was:  # closing already, or over
            return NOTHING
        return self._rescheduled(self._close(event.code, event.reason, now))

    def _transport_closed(self, event: TransportClosed, now: float, was: State) -> Effects:
        if self.close_code is None:
            self.close_code = event.code
        return NOTHING

    def _deadline_reached(self, event: DeadlineReached, now: float, was: State) -> Effects:
        deadline = self.deadline
        effects = NOTHING
        if deadline is not None and now >= deadline:
            effects = self._limit_reached(now)
            deadline = self.deadline
        self.scheduled = inf if deadline is None else deadline
        return effects

    def _limit_reached(self, now: float) -> Effects:
        if self.closing_at is not None:
            self._move(Trigger.CLOSING_LIMIT_REACHED)
            return (DROP_TRANSPORT,)
        if self.welcomed_at is None:
            self._move(Trigger.CONNECTING_LIMIT_REACHED)
            return self._close(CloseCode.HELLO_TIMEOUT, "no hello", now)
        return self._idle_passed(now) or self._heartbeat_passed(now)

    def _idle_passed(self, now: float) -> Effects:
        if self.state is not State.CONNECTED or now < self._idle_at():
            return NOTHING
        if self.limits.close_when_idle:
            self._move(Trigger.IDLE_CLOSE_LIMIT_REACHED)
            return self._close(CloseCode.IDLE, "idle", now)
        self._move(Trigger.IDLE_LIMIT_REACHED)
        return NOTHING

    def _heartbeat_passed(self, now: float) -> Effects:
        if now < self._heartbeat_at():
            return NOTHING
        if self._unanswered_since is None:
            self._move(Trigger.PING_FELL_DUE)
            return self._ping(now)
        self.missed += 1
        if self.missed >= self.limits.max_missed:
            self._move(Trigger.MISSED_LIMIT_REACHED)
            return self._close(CloseCode.HEARTBEAT_LOST, "heartbeat lost", now)
        self._move(Trigger.PONG_MISSED)
        return self._ping(now)

    def _idle_at(self) -> float:
        since = self.last_message_at if self.last_message_at is not None else self.welcomed_at
        assert since is not None
        return since + self.limits.idle

    def _heartbeat_at(self) -> float:
        if not self.limits.heartbeat:
            return inf
        if self._unanswered_since is not None:
            return self._unanswered_since + self.limits.heartbeat_timeout
        received, sent = self.last_received, self.last_sent
        due = (received if received < sent else sent) + self.limits.heartbeat_interval
        return due if due < self._ping_by else self._ping_by

    def _ping(self, now: float) -> Effects:
        self._pinged_at = self._unanswered_since = self.last_sent = now
        self._ping_by = now + self.limits.rtt_interval
        self._awaited_sent_at = int(now * 1000)
        return (SendPing(self._awaited_sent_at, self.rtt),)

    def _close(self, code: int, reason: str, now: float) -> Effects:
        self.close_code = int(code)
        self.close_reason = reason
        self.closing_at = now
        return (SendClose(self.close_code, reason),)

    def _rescheduled(self, effects: Effects = NOTHING) -> Effects:
        deadline = self.deadline
        if deadline is None or deadline >= self.scheduled:
            return effects
        self.scheduled = deadline
        return (*effects, RESCHEDULE)


_HANDLERS: dict[type, Callable[[Connection, Any, float, State], Effects]] = {
    Opened: Connection._opened,
    Welcomed: Connection._welcomed,
    FrameReceived: Connection._frame_received,
    MessageReceived: Connection._message_received,
    PongReceived: Connection._pong_received,
    FrameSent: Connection._frame_sent,
    MessageSent: Connection._message_sent,
    DrainStarted: Connection._drain_started,
    CloseRequested: Connection._close_requested,
    TransportClosed: Connection._transport_closed,
    DeadlineReached: Connection._deadline_reached,
}
