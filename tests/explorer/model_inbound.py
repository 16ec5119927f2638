"""From the client's ``send`` to its ack through ``receive_json``: crashes, copies, retries.

What the client keeps and what the server takes in are ``Pending`` and ``Intake`` of the core; a
transaction is one step here (what happens inside is in ``model_locks`` and ``model_transaction``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from graceful_ws.core.window import Arrival, Intake, Pending

from .explorer import Broken, Process, Promise, Steps
from .model_rules import Rule, Scenario
from .model_values import Frozen

BYTES = 999  # limits by bytes are left to the tests of the core


@dataclass(frozen=True)
class Row:
    """The session's row, and what is committed with it."""

    generation: int = 0
    last_client_seq: int = 0
    tries: int = 0  # of last_client_seq + 1
    results: tuple[str, ...] = ()  # "handled" or "unknown" for 1, 2, ...
    replies: frozenset[int] = frozenset()  # the numbers whose replies are in the journal


@dataclass(frozen=True)
class Connection:
    """The server's side of one connection. It may outlive its socket."""

    generation: int
    resumed_at: int  # last_client_seq at the attach
    intake: Frozen[Intake]
    received: tuple[int, ...] = ()  # frames that wait in the socket
    answers: tuple[tuple[str, int], ...] = ()  # frames on the way to the client
    handler: str = "idle"  # idle, running, handled, fenced; of the number after those that ended
    ended: tuple[int, ...] = ()  # handled, and their outcomes on the way to the database
    numbered: bool = False  # the outcome was committed without its replies
    cut: bool = False

    @property
    def next(self) -> int:
        return self.ended[-1] + 1 if self.ended else self.intake.peek.done + 1


@dataclass(frozen=True)
class Inbound:
    row: Row = Row()
    pending: Frozen[Pending] = Frozen(Pending())  # noqa: RUF009 - a value
    connections: tuple[Connection, ...] = ()  # of nodes that live, the last is the client's
    started: tuple[int, ...] = ()  # sorted: (1, 1, 2) when 1 was started twice
    handled: frozenset[int] = frozenset()
    told: frozenset[tuple[str, int]] = frozenset()
    faults: int = 0


Moves = Iterator[tuple[str, Inbound, Connection]]


class Incoming(Scenario[Inbound]):
    """Two messages; three times a connection is cut (its handler goes on) or a node killed."""

    at_least = 20_000
    messages = 2
    fault_budget = 3

    def start(self) -> Inbound:
        pending = Pending()
        for n in range(self.messages):
            pending.add(f"message {n + 1}")
        return Inbound(pending=Frozen(pending), faults=self.fault_budget)

    def processes(self) -> tuple[Process[Inbound], ...]:
        return self.attach, self.client, self.reader, self.handler

    def faults(self) -> tuple[Process[Inbound], ...]:
        return self.cut, self.kill

    # --- the client

    def attach(self, s: Inbound) -> Steps[Inbound]:
        """The client connects; its hello is answered at once, the welcome may get lost."""
        if s.connections and not s.connections[-1].cut:
            return
        row = replace(s.row, generation=s.row.generation + 1)
        done = row.last_client_seq
        new = Connection(
            row.generation,
            resumed_at=done,
            intake=Frozen(Intake(self.messages, BYTES, done=done, received=done)),
            answers=(("welcome", done),),
        )
        yield (
            f"connection {row.generation}, {done} done",
            replace(s, row=row, connections=(*s.connections, new)),
        )

    def client(self, s: Inbound) -> Steps[Inbound]:
        """Hears what the server says; sends what is to be sent."""
        c = s.connections[-1] if s.connections else None
        if c is None or c.cut or not c.answers:
            return
        (kind, seq), *rest = c.answers
        pending = s.pending.thaw()
        settled: list[int] = []
        if kind == "welcome":
            settled = pending.reconnected(seq)
            pending.resolve_upto(seq)
        elif kind == "ack":
            settled = pending.resolve_upto(seq)
        elif kind == "retry":
            pending.send_again(seq)
        elif pending.resolve(seq):
            settled = [seq]
        told = {(s.row.results[n - 1] if kind == "welcome" else kind, n) for n in settled}
        sent = tuple(n for n, _ in pending.sendable())
        c = replace(c, answers=tuple(rest), received=c.received + sent)
        s = replace(s, pending=Frozen(pending), told=s.told | told)
        yield f"hears {kind} {seq}, sends {sent}", self._with(s, c)

    # --- the server

    def reader(self, s: Inbound) -> Steps[Inbound]:
        for c in s.connections:
            if c.received and not c.cut:
                seq, *rest = c.received
                intake = c.intake.thaw()
                arrival = intake.receive(seq, 1)
                c = replace(c, received=tuple(rest), intake=Frozen(intake))
                if arrival is Arrival.DONE:
                    c = replace(c, answers=(*c.answers, ("ack", intake.done)))
                yield f"{c.generation} receives {seq}: {arrival.value}", self._with(s, c)

    def handler(self, s: Inbound) -> Steps[Inbound]:
        for c in s.connections:
            for words, after, connection in self.commit(s, c):
                yield f"{c.generation} {words}", self._with(after, connection)
            if c.intake.peek.received >= c.next:
                for words, after, connection in self.handle(s, c, c.next):
                    yield f"{c.generation} {words}", self._with(after, connection)

    def commit(self, s: Inbound, c: Connection) -> Moves:
        """The writer: outcomes are committed in order."""
        if not c.ended or c.handler == "fenced":
            return
        n = c.ended[0]
        if c.numbered:
            row = replace(s.row, replies=s.row.replies | {n})
            yield f"commits the replies of {n}", replace(s, row=row), self.done(c, n, "ack")
        elif not self.mine(s, c, n):
            yield f"is fenced: {n} is not its own any more", s, replace(c, handler="fenced")
        else:
            row = self.consumed(s.row, n, "handled")
            if self.on(Rule.DONE_WITH_REPLIES):
                row = replace(row, replies=row.replies | {n})
                yield f"commits {n} with its replies", replace(s, row=row), self.done(c, n, "ack")
            else:
                yield f"commits {n}", replace(s, row=row), replace(c, numbered=True)

    def mine(self, s: Inbound, c: Connection, n: int) -> bool:
        return s.row.generation == c.generation and s.row.last_client_seq == n - 1

    def handle(self, s: Inbound, c: Connection, n: int) -> Moves:
        if c.handler == "idle":
            yield from self.begin(s, c, n)
        elif c.handler == "running":
            s = replace(s, handled=s.handled | {n})
            yield f"has handled {n}", s, replace(c, handler="handled")
        elif c.handler == "handled" and (not c.ended or not self.on(Rule.ONE_AHEAD)):
            yield f"gives {n} to the writer", s, replace(c, handler="idle", ended=(*c.ended, n))

    def begin(self, s: Inbound, c: Connection, n: int) -> Moves:
        start = replace(s, started=tuple(sorted((*s.started, n))))
        running = replace(c, handler="running")
        doubtful = 2 if self.on(Rule.DOUBT_WHAT_RAN_AHEAD) else 1
        may_have_started = n <= c.resumed_at + doubtful and c.generation > 1
        if not may_have_started or not self.on(Rule.TRIES_BEFORE_SECOND_START):
            yield f"starts {n}", start, running
        elif c.ended:
            return  # the try stands behind the outcome, with the writer
        elif not self.mine(s, c, n):
            yield f"is fenced: {n} is not its own any more", s, replace(c, handler="fenced")
        elif s.row.tries and self.on(Rule.NO_THIRD_START):
            row = self.consumed(s.row, n, "unknown")
            yield f"gives up {n}", replace(s, row=row), self.done(c, n, "unknown")
        else:
            row = replace(s.row, tries=s.row.tries + 1)
            yield f"commits a try, starts {n}", replace(start, row=row), running

    def consumed(self, row: Row, n: int, result: str) -> Row:
        return replace(row, last_client_seq=n, tries=0, results=(*row.results, result))

    def done(self, c: Connection, n: int, answer: str) -> Connection:
        intake = c.intake.thaw()
        intake.complete(n)
        answers = (*c.answers, (answer, n))
        return replace(c, intake=Frozen(intake), answers=answers, ended=c.ended[1:], numbered=False)

    # --- faults

    def cut(self, s: Inbound) -> Steps[Inbound]:
        for c in s.connections:
            if s.faults and not c.cut:
                lost = replace(c, cut=True, received=(), answers=())
                after = self._with(replace(s, faults=s.faults - 1), lost)
                yield f"connection {c.generation}", after

    def kill(self, s: Inbound) -> Steps[Inbound]:
        for c in s.connections:
            if s.faults:
                others = tuple(other for other in s.connections if other is not c)
                yield (
                    f"the node of connection {c.generation}",
                    replace(s, faults=s.faults - 1, connections=others),
                )

    def _with(self, s: Inbound, c: Connection) -> Inbound:
        """Put ``c`` in its place; one that is cut goes when nothing is left for its handler."""
        idle = c.handler == "idle" and c.intake.peek.received == c.intake.peek.done
        gone = c.cut and (idle or c.handler == "fenced")
        connections = [
            c if other.generation == c.generation else other
            for other in s.connections
            if not (gone and other.generation == c.generation)
        ]
        return replace(s, connections=tuple(connections))

    def broken(self, s: Inbound) -> Broken | None:
        for n in s.started:
            times = s.started.count(n)
            if times > 2:
                return Broken(Promise.G2, f"the handler of {n} was started {times} times")
        for kind, n in s.told:
            if kind in ("ack", "handled") and n not in s.handled:
                return Broken(Promise.G2, f"{n} was acknowledged, but never handled")
            if kind in ("ack", "handled") and n not in s.row.replies:
                return Broken(Promise.G2, f"{n} was acknowledged, but its replies are lost")
        return None

    def unfinished(self, s: Inbound) -> Broken | None:
        if s.pending.peek.items:
            return Broken(Promise.NO_DEADLOCK, f"{list(s.pending.peek.items)} have no outcome")
        return None


class Ahead(Incoming):
    """Three messages, so that there is one behind the number that runs ahead; nodes are killed."""

    at_least = 2_000
    messages = 3
    fault_budget = 2

    def faults(self) -> tuple[Process[Inbound], ...]:
        return (self.kill,)


class Retrying(Incoming):
    """Three messages; twice in all the server is busy and nacks with retry, the client repeats a
    message that is not acknowledged yet, or a connection is cut."""

    at_least = 15_000
    messages = 3
    fault_budget = 2

    def reader(self, s: Inbound) -> Steps[Inbound]:
        for words, after in super().reader(s):
            if words.endswith(Arrival.SKIPPED.value) and not self.on(Rule.RETRY_DROPS_LATER):
                seq = s.connections[-1].received[0]
                after = replace(after, handled=after.handled | {seq})
            yield words, after

    def begin(self, s: Inbound, c: Connection, n: int) -> Moves:
        yield from super().begin(s, c, n)
        if s.faults and not c.ended and self.mine(s, c, n):
            busy = replace(s, faults=s.faults - 1)
            if self.on(Rule.RETRY_CONSUMES_NOTHING):
                intake = c.intake.thaw()
                intake.ask_again(n)
                answers = (*c.answers, ("retry", n))
                asks = replace(c, intake=Frozen(intake), answers=answers)
                yield f"is busy, wants {n} again", busy, asks
            else:
                row = self.consumed(s.row, n, "retry")
                yield (
                    f"consumes {n}, wants it again",
                    replace(busy, row=row),
                    self.done(c, n, "retry"),
                )

    def faults(self) -> tuple[Process[Inbound], ...]:
        return self.repeat, self.cut

    def repeat(self, s: Inbound) -> Steps[Inbound]:
        """As a request does that had no answer for a while."""
        c = s.connections[-1] if s.connections else None
        if c and s.faults and not c.cut and not c.answers:
            for n in s.pending.peek.items:
                again = replace(c, received=(*c.received, n))
                yield f"{n}", self._with(replace(s, faults=s.faults - 1), again)

    def broken(self, s: Inbound) -> Broken | None:
        unhandled = min({1, 2, 3, 4} - s.handled)
        if "unknown" not in s.row.results and max(s.handled, default=0) > unhandled:
            return Broken(Promise.G2, f"{max(s.handled)} was handled before {unhandled}")
        return super().broken(s)
