"""What a client is told: by the server's frames, and by its own connections.

Past tense, all of them. ``MessageReceived`` is also the message that an application iterates over.
Durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from graceful_ws.core.client_states import ClientState
    from graceful_ws.core.frames import Welcome
    from graceful_ws.core.window import Position


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message of the application until its outcome is known. ``seq`` changes when the session
    is lost and the message goes into the next one."""

    seq: int
    data: str  # as JSON text
    tries: int | None = None  # after so many nacks with retry it is given up; None: never
    sends: int = 0
    answered: int = 0  # of the sends, those that the server surely did nothing with
    nacks: int = 0  # with retry

    @property
    def in_doubt(self) -> bool:
        """The server may have begun to handle it."""
        return self.sends > self.answered

    @property
    def is_spent(self) -> bool:
        """It has been tried as often as it may."""
        return self.tries is not None and self.nacks >= self.tries


@dataclass(slots=True, eq=False)
class Track:
    """Where one sequence stands: what was received, and what of it the application has."""

    position: Position
    handed: int = 0


class StreamTold(NamedTuple):
    """What a welcome says of a stream that the session follows."""

    name: str
    state: str  # resumed, new, gap or denied
    epoch: str
    head: int

    @classmethod
    def of(cls, name: str, told: dict[str, Any]) -> StreamTold:
        """Raises KeyError, TypeError or ValueError for what is no such thing."""
        state = str(told["state"])
        if state == "denied":
            return cls(name, state, "", 0)
        return cls(name, state, str(told["epoch"]), int(told["head"]))


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A hello was answered. ``resumed``: the session goes on; False: it is a new one."""

    resumed: bool
    frame: Welcome = field(repr=False)


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A numbered message, once and in order. ``stream`` is None for the session's own."""

    seq: int
    stream: str | None
    data: Any
    size: int = field(default=0, repr=False, compare=False)  # bytes, about
    track: Track | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class VolatileReceived:
    """A message that has no number and may be missing."""

    data: Any


@dataclass(frozen=True, slots=True)
class MessageAcknowledged:
    """A message was handled; ``result`` is what its handler returned, None if nothing."""

    seq: int
    result: Any
    message: Outgoing = field(repr=False)


@dataclass(frozen=True, slots=True)
class MessageNacked:
    """A message was not handled, or nobody knows. With ``retry`` it is sent again by itself after
    ``retry_after`` seconds; else this is its end."""

    seq: int
    code: str
    detail: str
    retry: bool
    retry_after: float | None
    message: Outgoing = field(repr=False)


@dataclass(frozen=True, slots=True)
class GapTold:
    """Messages are missing and will not come: reload what they were about. ``first`` is the number
    of the first one missing, ``head`` the last number before those that come now."""

    reason: str  # expired, trimmed, epoch, ahead, too_far or lost
    stream: str | None  # None: the session's own sequence; with "expired" everything
    first: int | None
    oldest: int | None
    head: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    stream: str
    head: int


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    stream: str


@dataclass(frozen=True, slots=True)
class Draining:
    """The server is about to stop: reconnect in ``reconnect_in`` seconds, before ``close_in``."""

    reconnect_in: float
    close_in: float
    reason: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another client object has taken the session over."""

    instance: str


@dataclass(frozen=True, slots=True)
class ErrorTold:
    """The server complains. ``retry_after``: seconds to stay away when it closes now."""

    code: str
    detail: str
    seq: int | None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A round trip was measured: ``seconds``, by this side (``own``) or by the server."""

    seconds: float
    own: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """A client of ``stream`` has gone. Its message comes as any other does; this is told as soon as
    it is received. ``user`` is a primary key, None for an anonymous one."""

    stream: str
    client_id: str
    cause: str
    code: int | None
    user: int | str | None


@dataclass(frozen=True, slots=True)
class CloseNeeded:
    """The peer cannot be followed any further: close with this code, and resume."""

    code: int
    reason: str


# --- of the client's own connections -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateChanged:
    """``disconnected``, ``connecting``, ``connected``, ``draining``, ``waiting``, ``parked`` or
    ``closed``."""

    old: ClientState
    new: ClientState


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """The next try begins in ``delay`` seconds."""

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended, or could not be opened; 1006 without a close frame. ``final``: there
    will be no other."""

    code: int
    reason: str
    final: bool


Event = (
    Welcomed
    | MessageReceived
    | VolatileReceived
    | MessageAcknowledged
    | MessageNacked
    | GapTold
    | Subscribed
    | Unsubscribed
    | Draining
    | Superseded
    | ErrorTold
    | RoundTrip
    | Exited
    | CloseNeeded
    | StateChanged
    | RetryScheduled
    | Disconnected
)
