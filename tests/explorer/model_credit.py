"""A slow handler, a heartbeat, and what may wait in between.

The connection's state machine, ``Intake`` and ``Pending`` are those of the core. Time moves from
one deadline to the next, and only when nothing is left to be read or answered: a handler may be as
slow as it likes, reader and client are quicker than any timer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.connection import Connection, Limits
from graceful_ws.core.frames import ProtocolError
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    MESSAGE_RECEIVED,
    OPENED,
    WELCOMED,
    CloseRequested,
    Event,
    PongReceived,
    SendPing,
)
from graceful_ws.core.window import Intake, Pending

from .explorer import Broken, Process, Promise, Steps
from .model_rules import Rule, Scenario
from .model_values import Frozen

CREDIT = 2  # messages
MESSAGES = 4
PONG = 0  # in the socket between the numbers of messages


def welcomed() -> Frozen[Connection]:
    connection = Connection(Limits(idle=inf, rtt_interval=inf))
    connection.handle(OPENED, 0.0)
    connection.handle(WELCOMED, 0.0)
    return Frozen(connection)


@dataclass(frozen=True)
class Slow:
    connection: Frozen[Connection]
    intake: Frozen[Intake]
    pending: Frozen[Pending]
    now: float = 0.0
    deadlines: int = 6  # that the model looks at; four without a pong would end the connection
    sent_at: int | None = None  # of the ping that the client has to answer
    socket: tuple[int, ...] = ()  # from the client, in order, as TCP is
    acked: int = 0  # by an ack that the client has to take


class SlowHandler(Scenario[Slow]):
    """A client sends all it may, and answers each ping at once; its handler is slow."""

    at_least = 1500
    client_credit = CREDIT

    def start(self) -> Slow:
        pending = Pending(max_messages=self.client_credit)
        for n in range(MESSAGES):
            pending.add(f"message {n + 1}")
        credit = CREDIT if self.on(Rule.CREDIT_IS_BOUNDED) else MESSAGES
        return Slow(welcomed(), Frozen(Intake(credit, 999)), Frozen(pending))

    def processes(self) -> tuple[Process[Slow], ...]:
        return self.client, self.reader, self.handler, self.clock

    def client(self, s: Slow) -> Steps[Slow]:
        pending = s.pending.thaw()
        pending.resolve_upto(s.acked)
        sent = tuple(n for n, _ in pending.sendable())
        if sent:
            yield f"sends {sent}", replace(s, pending=Frozen(pending), socket=s.socket + sent)
        if s.sent_at is not None and PONG not in s.socket:
            yield "answers the ping", replace(s, socket=(*s.socket, PONG))

    def reader(self, s: Slow) -> Steps[Slow]:
        if not self.can_read(s):
            return
        frame, *rest = s.socket
        after = replace(s, socket=tuple(rest))
        if frame == PONG:
            assert s.sent_at is not None
            yield (
                "reads the pong",
                self._handle(replace(after, sent_at=None), PongReceived(s.sent_at)),
            )
            return
        intake = s.intake.thaw()
        try:
            intake.receive(frame, 1)
        except ProtocolError as error:
            yield f"closes {error.code}", self._handle(after, CloseRequested(error.code))
            return
        yield (
            f"reads {frame}",
            self._handle(replace(after, intake=Frozen(intake)), MESSAGE_RECEIVED),
        )

    def can_read(self, s: Slow) -> bool:
        if not s.socket or s.connection.peek.close_code is not None:
            return False
        busy = s.intake.peek.received > s.intake.peek.done
        return not busy or s.socket[0] == PONG or self.on(Rule.READER_NEVER_STOPS)

    def handler(self, s: Slow) -> Steps[Slow]:
        intake = s.intake.thaw()
        if intake.received > intake.done:
            intake.complete(intake.done + 1)
            yield (
                f"is through with {intake.done}",
                replace(s, intake=Frozen(intake), acked=intake.done),
            )

    def clock(self, s: Slow) -> Steps[Slow]:
        deadline = s.connection.peek.deadline
        unanswered = s.sent_at is not None and PONG not in s.socket
        if s.deadlines and deadline is not None and not unanswered and not self.can_read(s):
            later = replace(s, now=deadline, deadlines=s.deadlines - 1)
            yield f"deadline at {deadline} s", self._handle(later, DEADLINE_REACHED)

    def _handle(self, s: Slow, event: Event) -> Slow:
        connection = s.connection.thaw()
        for effect in connection.handle(event, s.now):
            if isinstance(effect, SendPing):
                s = replace(s, sent_at=effect.sent_at)
        return replace(s, connection=Frozen(connection))

    def broken(self, s: Slow) -> Broken | None:
        if s.connection.peek.close_code == CloseCode.HEARTBEAT_LOST:
            return Broken(Promise.KEPT_ALIVE, f"4102 at {s.now} s; the pong waits to be read")
        waiting = s.intake.peek.received - s.intake.peek.done
        if waiting > CREDIT:
            return Broken(Promise.G8, f"{waiting} messages wait for one slow handler")
        return None

    def unfinished(self, s: Slow) -> Broken | None:
        if s.connection.peek.close_code is not None or s.intake.peek.done < MESSAGES:
            return Broken(Promise.NO_DEADLOCK, f"only {s.intake.peek.done} are handled")
        return None


class RudeClient(SlowHandler):
    """The same with a client that does not care for its credit."""

    at_least = 500
    client_credit = MESSAGES

    def unfinished(self, s: Slow) -> Broken | None:
        if s.connection.peek.close_code not in (None, CloseCode.LIMIT_EXCEEDED):
            return Broken(Promise.G8, f"closed with {s.connection.peek.close_code}")
        return None
