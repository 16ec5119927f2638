"""A whole session, both ways at once: attach, append, take-over, ack, retention, crash.

All four ends are those of the core: ``Pending`` and ``Position`` of the client, ``Intake`` and
``Cursor`` of each connection. A transaction is one step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graceful_ws.core.frames import ProtocolError
from graceful_ws.core.window import (
    Arrival,
    Cursor,
    Hole,
    Intake,
    Pending,
    Position,
    SendWindow,
    check_page,
)

from .explorer import Broken, Process, Promise, Steps
from .model_rules import Rule, Scenario
from .model_values import Frozen

Frame = tuple[str, int]


@dataclass(frozen=True)
class Row:
    """The session's row, and the texts of its journal from number 1 on."""

    generation: int = 0
    last_client_seq: int = 0
    journal: tuple[str, ...] = ()
    deleted: int = 0  # the journal's rows up to this number are gone


@dataclass(frozen=True)
class Connection:
    number: int
    generation: int
    intake: Frozen[Intake]
    cursor: Frozen[Cursor]
    handler: str = "idle"  # idle, running, over; of intake.done + 1
    to_server: tuple[Frame, ...] = ()
    to_client: tuple[Frame, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class Session:
    row: Row = Row()
    connections: tuple[Connection, ...] = ()  # of living nodes; the last is the client's newest
    opened: int = 0
    hears: int = 0  # the connection that the client was last welcomed on
    pending: Frozen[Pending] = Frozen(Pending())  # noqa: RUF009 - a value
    position: Frozen[Position] = Frozen(Position())  # noqa: RUF009 - a value
    arrived: int = 0  # the last number on the connection that it hears, copies included
    delivered: tuple[str, ...] = ()
    acked: frozenset[int] = frozenset()
    to_push: int = 0
    faults: int = 0
    broken: Broken | None = None


class WholeSession(Scenario[Session]):
    """The client sends a message, which is answered with one; the server may send two more of its
    own accord. Once a connection is cut (its handler goes on), its node is killed, or the client
    moves to another while the old one is open and does not know."""

    at_least = 20_000
    messages, pushes, fault_budget = 1, 2, 1

    def start(self) -> Session:
        pending = Pending()
        for n in range(self.messages):
            pending.add(f"message {n + 1}")
        return Session(pending=Frozen(pending), to_push=self.pushes, faults=self.fault_budget)

    def processes(self) -> tuple[Process[Session], ...]:
        return self.attach, self.client, self.client_acks, self.reader, self.handler, self.sender

    def faults(self) -> tuple[Process[Session], ...]:
        return self.move, self.cut, self.kill, self.push

    # --- the client

    def attach(self, s: Session) -> Steps[Session]:
        if not self._newest(s):
            yield f"connection {s.opened + 1}", self._attached(s)

    def move(self, s: Session) -> Steps[Session]:
        if s.faults and self._newest(s):
            moved = self._attached(replace(s, faults=s.faults - 1))
            yield f"to connection {moved.opened}, the old one is still open", moved

    def _newest(self, s: Session) -> bool:
        return any(c.number == s.opened and not c.cut for c in s.connections)

    def _attached(self, s: Session) -> Session:
        position, done = s.position.peek.seq, s.row.last_client_seq
        head = len(s.row.journal)
        try:
            check_page(position, head, list(range(max(position, s.row.deleted) + 1, head + 1)))
        except Hole:
            return replace(s, broken=Broken(Promise.G1, f"nothing to replay after {position}"))
        adds = self.on(Rule.ATTACH_ADDS_A_GENERATION)
        row = replace(s.row, generation=s.row.generation + adds)
        new = Connection(
            s.opened + 1,
            row.generation,
            intake=Frozen(Intake(9, 999, done=done, received=done)),
            cursor=Frozen(Cursor(SendWindow(9, 999), position=position, acked=position)),
            to_client=(("welcome", done),),
        )
        return replace(s, row=row, opened=new.number, connections=(*s.connections, new))

    def client(self, s: Session) -> Steps[Session]:
        """Hears the connection it was welcomed on; a welcome on a newer one moves it there."""
        for c in s.connections:
            if c.cut or not c.to_client or c.number < s.hears:
                continue
            (kind, n), *rest = c.to_client
            if kind != "welcome" and c.number != s.hears:
                continue
            pending, position = s.pending.thaw(), s.position.thaw()
            acked, delivered, arrived = s.acked, s.delivered, s.arrived
            if kind == "message":
                arrived = n
                if position.receive(n):
                    delivered = (*delivered, s.row.journal[n - 1])
            else:
                if kind == "welcome":
                    arrived = 0
                    pending.reconnected(n)
                acked = acked.union(pending.resolve_upto(n))
            sent = tuple(("message", seq) for seq, _ in pending.sendable())
            after = replace(
                s,
                hears=c.number,
                pending=Frozen(pending),
                position=Frozen(position),
                arrived=arrived,
                delivered=delivered,
                acked=acked,
            )
            c = replace(c, to_client=tuple(rest), to_server=c.to_server + sent)
            yield f"hears {kind} {n} on {c.number}", self._with(after, c)

    def client_acks(self, s: Session) -> Steps[Session]:
        """The position may be ahead of what came on this connection: the old one went on
        delivering until the welcome. The server would call that an ack of what it never sent."""
        seq = s.position.peek.seq
        if self.on(Rule.ACK_WHAT_ARRIVED_HERE):
            seq = min(seq, s.arrived)
        for c in s.connections:
            if c.number == s.hears and not c.cut and s.position.peek.acked < seq:
                position = s.position.thaw()
                position.acked = seq
                c = replace(c, to_server=(*c.to_server, ("ack", position.acked)))
                yield (
                    f"up to {position.acked}",
                    self._with(replace(s, position=Frozen(position)), c),
                )

    # --- the server

    def reader(self, s: Session) -> Steps[Session]:
        for c in s.connections:
            if not c.to_server or c.cut:
                continue
            (kind, n), *rest = c.to_server
            intake, cursor, row = c.intake.thaw(), c.cursor.thaw(), s.row
            answers = c.to_client
            if kind == "ack":
                try:
                    cursor.ack(n)
                except ProtocolError as error:
                    broken = Broken(Promise.KEPT_ALIVE, f"a good client is closed: {error}")
                    yield f"{c.number} receives ack {n}", replace(s, broken=broken)
                    continue
                if row.generation == c.generation:  # what is acknowledged may go
                    row = replace(row, deleted=max(row.deleted, n))
            elif intake.receive(n, 1) is Arrival.DONE:
                answers = (*answers, ("ack", intake.done))
            c = replace(
                c,
                to_server=tuple(rest),
                to_client=answers,
                intake=Frozen(intake),
                cursor=Frozen(cursor),
            )
            yield f"{c.number} receives {kind} {n}", self._with(replace(s, row=row), c)

    def handler(self, s: Session) -> Steps[Session]:
        for c in s.connections:
            n = c.intake.peek.done + 1
            if c.handler == "idle" and c.intake.peek.received >= n:
                yield f"{c.number} starts {n}", self._with(s, replace(c, handler="running"))
            elif c.handler == "running":
                row = self._claimed(s.row, c, n)
                if row is None:
                    words = f"{c.number} is fenced with {n}"
                    yield words, self._with(s, replace(c, handler="over"))
                    continue
                intake = c.intake.thaw()
                intake.complete(n)
                after = self._append(replace(s, row=row), c, f"reply to {n}")
                answers = (*c.to_client, ("ack", n))
                c = replace(c, handler="idle", intake=Frozen(intake), to_client=answers)
                yield f"{c.number} commits {n} with its reply", self._with(after, c)

    def _claimed(self, row: Row, c: Connection, n: int) -> Row | None:
        if self.on(Rule.CLAIM_CHECKS_GENERATION) and row.generation != c.generation:
            return None
        if self.on(Rule.CLAIM_CHECKS_NUMBER) and row.last_client_seq != n - 1:
            return None
        return replace(row, last_client_seq=n)

    def push(self, s: Session) -> Steps[Session]:
        """A ``send_json`` of the owner, outside of any handler; refused when it is fenced."""
        for c in s.connections:
            if s.to_push and s.row.generation == c.generation:
                after = self._append(replace(s, to_push=s.to_push - 1), c, "push")
                yield f"of {c.number}", after

    def _append(self, s: Session, c: Connection, text: str) -> Session:
        s = replace(s, row=replace(s.row, journal=(*s.row.journal, text)))
        if c.number != s.opened:
            broken = Broken(Promise.G4, f"connection {c.number} wrote after {s.opened} took over")
            return replace(s, broken=broken)
        return s

    def sender(self, s: Session) -> Steps[Session]:
        """The cursor loop: what is committed goes to the socket, in order."""
        for c in s.connections:
            n = c.cursor.peek.position + 1
            if not c.cut and s.row.deleted < n <= len(s.row.journal):
                cursor = c.cursor.thaw()
                cursor.advance(n, 1)
                row = s.row if self.on(Rule.RESUME_READS) else replace(s.row, deleted=n)
                frames = (*c.to_client, ("message", n))
                c = replace(c, cursor=Frozen(cursor), to_client=frames)
                yield f"{c.number} sends {n}", self._with(replace(s, row=row), c)

    # --- faults

    def cut(self, s: Session) -> Steps[Session]:
        for c in s.connections:
            if s.faults and not c.cut:
                lost = replace(c, cut=True, to_server=(), to_client=())
                yield f"connection {c.number}", self._with(replace(s, faults=s.faults - 1), lost)

    def kill(self, s: Session) -> Steps[Session]:
        for c in s.connections:
            if s.faults:
                others = tuple(other for other in s.connections if other is not c)
                words = f"the node of connection {c.number}"
                yield words, replace(s, faults=s.faults - 1, connections=others)

    def _with(self, s: Session, c: Connection) -> Session:
        """Put ``c`` in its place; one that nobody hears and that handles nothing is left out."""
        intake = c.intake.peek
        idle = c.handler == "over" or (c.handler == "idle" and intake.received == intake.done)
        gone = idle and (c.cut or (c.number < s.hears and not c.to_server))
        connections = tuple(
            c if other.number == c.number else other
            for other in s.connections
            if other.number != c.number or not gone
        )
        return replace(s, connections=connections)

    def broken(self, s: Session) -> Broken | None:
        if s.broken:
            return s.broken
        for n in s.acked:
            if s.row.journal.count(f"reply to {n}") != 1:
                return Broken(Promise.G2, f"{n} was acknowledged, the journal: {s.row.journal}")
        if s.delivered != s.row.journal[: len(s.delivered)]:
            return Broken(Promise.G1, f"committed {s.row.journal}, delivered {s.delivered}")
        return None

    def unfinished(self, s: Session) -> Broken | None:
        if s.pending.peek.items:
            return Broken(Promise.G2, f"{list(s.pending.peek.items)} have no outcome")
        if s.delivered != s.row.journal:
            return Broken(Promise.G1, f"committed {s.row.journal}, delivered {s.delivered}")
        return None


class TwoAnswers(WholeSession):
    """The same with two messages, and nothing but their answers."""

    at_least = 3000
    messages, pushes, fault_budget = 2, 0, 1


class TwoFaults(WholeSession):
    """The same with one message and two faults."""

    at_least = 2000
    messages, pushes, fault_budget = 1, 0, 2
