"""A connection with a caller that wakes up at its deadlines, and no clock."""

from __future__ import annotations

from graceful_ws.core.connection import Connection, Limits
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    OPENED,
    RESCHEDULE,
    WELCOMED,
    Effect,
    Event,
    SendClose,
    SendPing,
    State,
)


class Driver:
    """A connection whose caller wakes up at each deadline; ``done`` is what it was told to do."""

    def __init__(self, limits: Limits | None = None, jitter: float = 1.0) -> None:
        self.connection = Connection(limits or Limits(), jitter)
        self.done: list[tuple[float, Effect]] = []
        self.handle(OPENED, 0.0)

    def handle(self, event: Event, now: float) -> None:
        for effect in self.connection.handle(event, now):
            if effect is not RESCHEDULE:
                self.done.append((now, effect))

    def run(self, until: float) -> None:
        """Let the clock go on to ``until``, that time included."""
        while (deadline := self.connection.deadline) is not None and deadline <= until:
            self.handle(DEADLINE_REACHED, deadline)
            assert self.connection.deadline is None or self.connection.deadline > deadline

    def at(self, now: float, *events: Event) -> None:
        self.run(now)
        for event in events:
            self.handle(event, now)

    @property
    def state(self) -> State:
        return self.connection.state

    def pings(self) -> list[float]:
        return [at for at, effect in self.done if isinstance(effect, SendPing)]

    def closes(self) -> list[tuple[float, int]]:
        return [(at, effect.code) for at, effect in self.done if isinstance(effect, SendClose)]


def welcomed(limits: Limits | None = None, jitter: float = 1.0) -> Driver:
    driver = Driver(limits, jitter)
    driver.handle(WELCOMED, 0.0)
    return driver
