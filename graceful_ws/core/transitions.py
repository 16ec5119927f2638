"""The words of the connection's state machine, and the machine itself: ``TRANSITIONS``.

States, what happens to a connection (events, past tense), what is to be done about it (effects,
imperative), and the table from (state, event) to state. Whatever is not in the table cannot happen.
``Connection`` in connection.py walks it; docs/states.md is drawn from it. Import the names from
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class State(StrEnum):
    DISCONNECTED = "disconnected"  # not opened yet, or over
    CONNECTING = "connecting"  # open; waits for a valid hello
    CONNECTED = "connected"
    IDLE = "idle"  # connected, but no application messages for a while
    SUSPECT = "suspect"  # connected, but nothing came back on the last ping
    DRAINING = "draining"  # told to reconnect elsewhere; messages still go both ways
    CLOSING = "closing"  # our close frame is out; waits for the reply


# Events: what happened. Those without fields are used through one shared instance each.


@dataclass(frozen=True, slots=True)
class Opened:
    """The WebSocket handshake was accepted."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A valid hello was answered; of a plain client: its session is kept.

    Whoever waits for an attach looks at ``state`` afterwards: a connection that is CLOSING or
    DISCONNECTED by then cannot be welcomed, and its session has to be detached again.
    """


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """Anything was received from the peer."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An application message was received; counts as FrameReceived too."""


@dataclass(frozen=True, slots=True)
class PongReceived:
    """A pong was received; counts as FrameReceived too.

    ``sent_at`` is the number it carried, in milliseconds. One that is not of the latest ping, or
    comes twice, shows that the peer lives but measures nothing.
    """

    sent_at: int


@dataclass(frozen=True, slots=True)
class FrameSent:
    """Anything was sent to the peer. Pings count as sent when ``SendPing`` is returned."""


@dataclass(frozen=True, slots=True)
class MessageSent:
    """An application message was sent; counts as FrameSent too."""


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The peer was told to reconnect elsewhere."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """This side wants the connection closed; the first such wish wins."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TransportClosed:
    """The connection is gone, however it ended. ``code`` is kept unless this side closed first."""

    code: int


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The time in ``deadline`` has come. Too early, or no longer true: nothing happens."""


Event: TypeAlias = (
    Opened
    | Welcomed
    | FrameReceived
    | MessageReceived
    | PongReceived
    | FrameSent
    | MessageSent
    | DrainStarted
    | CloseRequested
    | TransportClosed
    | DeadlineReached
)

OPENED = Opened()
WELCOMED = Welcomed()
FRAME_RECEIVED = FrameReceived()
MESSAGE_RECEIVED = MessageReceived()
FRAME_SENT = FrameSent()
MESSAGE_SENT = MessageSent()
DRAIN_STARTED = DrainStarted()
DEADLINE_REACHED = DeadlineReached()


class Trigger(StrEnum):
    """What DeadlineReached turns out to mean, judged from the state and the times."""

    CONNECTING_LIMIT_REACHED = "ConnectingLimitReached"
    IDLE_LIMIT_REACHED = "IdleLimitReached"
    IDLE_CLOSE_LIMIT_REACHED = "IdleCloseLimitReached"  # the same with close_when_idle
    PING_FELL_DUE = "PingFellDue"
    PONG_MISSED = "PongMissed"
    MISSED_LIMIT_REACHED = "MissedLimitReached"
    CLOSING_LIMIT_REACHED = "ClosingLimitReached"


# Effects: what the caller has to do now, in the order given.


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a ping. ``sent_at`` is milliseconds; ``rtt`` seconds, None before the first pong."""

    sent_at: int
    rtt: float | None


@dataclass(frozen=True, slots=True)
class SendClose:
    """Send a close frame, then wait for the reply and report it as TransportClosed."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class DropTransport:
    """Drop the transport without waiting for the peer any longer."""


@dataclass(frozen=True, slots=True)
class Reschedule:
    """``deadline`` is now earlier than the one last asked for: wake up at the new one."""


Effect: TypeAlias = SendPing | SendClose | DropTransport | Reschedule
Effects: TypeAlias = tuple[Effect, ...]

NOTHING: Effects = ()
DROP_TRANSPORT = DropTransport()
RESCHEDULE = Reschedule()

Kind: TypeAlias = type[Event] | Trigger

_CONNECTING, _CONNECTED, _IDLE = State.CONNECTING, State.CONNECTED, State.IDLE
_SUSPECT, _DRAINING, _CLOSING = State.SUSPECT, State.DRAINING, State.CLOSING
_DISCONNECTED = State.DISCONNECTED
_FRAMES = (FrameReceived, FrameSent)
_TRAFFIC = (*_FRAMES, MessageReceived, MessageSent, PongReceived)
# Tasks that write or drain may report after the end of a connection; that is no fault of theirs.
_LATE = (*_TRAFFIC, DrainStarted, CloseRequested, DeadlineReached)

_STAYS: dict[State, tuple[Kind, ...]] = {
    _DISCONNECTED: (*_LATE, TransportClosed),
    # A plain client says no hello: its messages go both ways before it is welcomed. Whether another
    # one may send what it sends before its hello is for the protocol to judge.
    _CONNECTING: (*_FRAMES, MessageReceived, MessageSent, DeadlineReached),
    _CONNECTED: (*_TRAFFIC, DeadlineReached, Trigger.PING_FELL_DUE),
    _IDLE: (*_FRAMES, PongReceived, DeadlineReached, Trigger.PING_FELL_DUE),
    _SUSPECT: (FrameSent, MessageSent, DeadlineReached, Trigger.PONG_MISSED),
    _DRAINING: (
        *(*_TRAFFIC, Welcomed, DrainStarted, DeadlineReached),
        *(Trigger.PING_FELL_DUE, Trigger.PONG_MISSED),
    ),
    _CLOSING: _LATE,
}

_MOVES: dict[tuple[State, Kind], State] = {
    (_DISCONNECTED, Opened): _CONNECTING,
    (_CONNECTING, Welcomed): _CONNECTED,
    (_CONNECTING, DrainStarted): _DRAINING,
    (_CONNECTING, CloseRequested): _CLOSING,
    (_CONNECTING, Trigger.CONNECTING_LIMIT_REACHED): _CLOSING,
    (_CONNECTING, TransportClosed): _DISCONNECTED,
    (_CONNECTED, Trigger.IDLE_LIMIT_REACHED): _IDLE,
    (_CONNECTED, Trigger.IDLE_CLOSE_LIMIT_REACHED): _CLOSING,
    (_CONNECTED, Trigger.PONG_MISSED): _SUSPECT,
    (_CONNECTED, Trigger.MISSED_LIMIT_REACHED): _CLOSING,  # with max_missed = 1
    (_CONNECTED, DrainStarted): _DRAINING,
    (_CONNECTED, CloseRequested): _CLOSING,
    (_CONNECTED, TransportClosed): _DISCONNECTED,
    (_IDLE, MessageReceived): _CONNECTED,
    (_IDLE, MessageSent): _CONNECTED,
    (_IDLE, Trigger.PONG_MISSED): _SUSPECT,
    (_IDLE, Trigger.MISSED_LIMIT_REACHED): _CLOSING,
    (_IDLE, DrainStarted): _DRAINING,
    (_IDLE, CloseRequested): _CLOSING,
    (_IDLE, TransportClosed): _DISCONNECTED,
    # Out of SUSPECT it is one step further, to IDLE, when the idle limit has passed meanwhile.
    (_SUSPECT, FrameReceived): _CONNECTED,
    (_SUSPECT, MessageReceived): _CONNECTED,
    (_SUSPECT, PongReceived): _CONNECTED,
    (_SUSPECT, Trigger.MISSED_LIMIT_REACHED): _CLOSING,
    (_SUSPECT, DrainStarted): _DRAINING,
    (_SUSPECT, CloseRequested): _CLOSING,
    (_SUSPECT, TransportClosed): _DISCONNECTED,
    (_DRAINING, Trigger.CONNECTING_LIMIT_REACHED): _CLOSING,  # drained before its hello
    (_DRAINING, Trigger.MISSED_LIMIT_REACHED): _CLOSING,
    (_DRAINING, CloseRequested): _CLOSING,
    (_DRAINING, TransportClosed): _DISCONNECTED,
    (_CLOSING, Trigger.CLOSING_LIMIT_REACHED): _DISCONNECTED,
    (_CLOSING, TransportClosed): _DISCONNECTED,
}

TRANSITIONS: dict[tuple[State, Kind], State] = _MOVES | {
    (state, kind): state for state, kinds in _STAYS.items() for kind in kinds
}


class IllegalTransition(RuntimeError):
    """An event that cannot happen in this state: a mistake of the caller, not of the peer."""

    def __init__(self, state: State, kind: type | Trigger) -> None:
        name = kind.value if isinstance(kind, Trigger) else kind.__name__
        super().__init__(f"{name} cannot happen to a connection that is {state.value}")
        self.state = state
        self.kind = kind
