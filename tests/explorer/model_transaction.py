"""receive_in_transaction: the effect, the number, and the answer commit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database
from .model_rules import Rule, Scenario
from .model_values import Map

SESSION, RESULT = "session", "result"


@dataclass(frozen=True)
class Row:
    """The session's row; the client has one message, number 1."""

    generation: int = 1
    last_client_seq: int = 0


@dataclass(frozen=True)
class Connection:
    """One connection of the session: its handler's thread, and the timeout's nack."""

    generation: int
    open: bool = True
    thread: str = "idle"  # idle, locked, claimed, working, worked, hung, committed, unknown, over
    nack: str = "none"  # none, due, written, unknown, over


@dataclass(frozen=True)
class Handling:
    db: Database = Database(rows=Map({SESSION: Row()}))  # noqa: RUF009 - immutable
    connections: tuple[Connection, ...] = (Connection(1),)
    lost_commits: int = 1  # how often the database may be lost in a commit
    told: str = ""  # what the client knows of its message: ack or nack
    fenced_write: bool = False


Outcomes = Iterator[tuple[str, Handling, str]]  # words, state, and where the thread is then


class InTransaction(Scenario[Handling]):
    """One message; its handler may take too long or for ever, the connection may be lost, and
    then the client attaches again and sends it again, while the old thread goes on."""

    at_least = 1500

    def start(self) -> Handling:
        return Handling()

    def processes(self) -> tuple[Process[Handling], ...]:
        return self.handler, self.timeout, self.attach

    def faults(self) -> tuple[Process[Handling], ...]:
        return self.hang, self.cut, self.kill

    # --- the handler's thread

    def handler(self, s: Handling) -> Steps[Handling]:
        for c in s.connections:
            for words, after, thread in self.thread(s, c, f"handler {c.generation}"):
                yield f"{c.generation} {words}", self._with(after, replace(c, thread=thread))

    def thread(self, s: Handling, c: Connection, me: str) -> Outcomes:
        last = self.on(Rule.STORE_PART_LAST)
        if c.thread == ("idle" if last else "claimed"):
            yield "runs the user's code", s, "working"
        elif c.thread == "working":
            db = s.db.write(me, ("effect", c.generation), True)
            yield "has an effect", replace(s, db=db), "worked"
        elif c.thread == ("worked" if last else "idle") and s.db.free(me, SESSION):
            yield "locks the session", replace(s, db=s.db.lock(me, SESSION)), "locked"
        elif c.thread == "locked":
            if self.may_claim(s.db.read(me, SESSION), c):
                yield "claims number 1", replace(s, db=self.consume(s.db, me, "ack")), "claimed"
            else:
                yield "matches no row, rolls back", replace(s, db=s.db.rollback(me)), "over"
        elif c.thread == ("claimed" if last else "worked"):
            yield "commits", self.commit(s, me, c), "committed"
            if s.lost_commits:
                lost = replace(s, lost_commits=s.lost_commits - 1)
                yield "commits, the answer is lost", self.commit(lost, me, c), "unknown"
                undone = replace(lost, db=s.db.rollback(me))
                yield "loses the database before its commit", undone, "unknown"
        elif c.thread == "unknown" and s.db.free(me, SESSION):
            mine = s.db.rows.get(("effect", c.generation), False)
            yield f"asks: committed is {mine}", s, "committed" if mine else "idle"
        elif c.thread == "committed":
            yield "tells the client", self.tell(s, c, "ack"), "over"

    def may_claim(self, row: Row, c: Connection) -> bool:
        if self.on(Rule.CLAIM_CHECKS_GENERATION) and row.generation != c.generation:
            return False
        return row.last_client_seq == 0 or not self.on(Rule.CLAIM_CHECKS_NUMBER)

    def consume(self, db: Database, me: str, result: str) -> Database:
        row = db.read(me, SESSION)
        db = db.write(me, SESSION, replace(row, last_client_seq=1))
        return db.write(me, RESULT, result)

    def commit(self, s: Handling, me: str, c: Connection) -> Handling:
        fenced = s.db.rows[SESSION].generation != c.generation
        return replace(s, db=s.db.commit(me), fenced_write=s.fenced_write or fenced)

    # --- the handler timeout, on the event loop and the writer

    def timeout(self, s: Handling) -> Steps[Handling]:
        for c in s.connections:
            for words, after, nack in self.nack(s, c, f"nack {c.generation}"):
                yield f"{c.generation} {words}", self._with(after, replace(c, nack=nack))

    def nack(self, s: Handling, c: Connection, me: str) -> Outcomes:
        if c.nack == "none" and c.thread != "over":
            early = s if self.on(Rule.NACK_AFTER_WRITE) else self.tell(s, c, "nack")
            yield "fires", early, "due"
        elif c.nack == "due" and s.db.free(me, SESSION):
            yield from self.write_nack(s, c, me)
        elif c.nack == "unknown" and s.db.free(me, SESSION):
            row, result = s.db.rows[SESSION], s.db.rows.get(RESULT, "")
            if row.last_client_seq == 0:
                yield "asks, tries again", s, "due"
            elif not self.on(Rule.ASK_FOR_THE_ROW):
                yield "asks: last_client_seq is reached", s, "written"
            else:
                yield f"asks: the result is {result}", self.tell(s, c, result), "over"
        elif c.nack == "written":
            yield "tells the client", self.tell(s, c, "nack"), "over"

    def write_nack(self, s: Handling, c: Connection, me: str) -> Outcomes:
        row: Row = s.db.read(me, SESSION)
        if row.generation != c.generation:
            yield "is fenced", s, "over"
        elif row.last_client_seq == 0 or not self.on(Rule.NACK_IS_CONDITIONAL):
            written = replace(s, db=self.consume(s.db, me, "nack").commit(me))
            yield "consumes number 1", written, "written"
            if s.lost_commits:
                lost = s.lost_commits - 1
                yield "loses its commit's answer", replace(written, lost_commits=lost), "unknown"
                yield "loses its commit", replace(s, lost_commits=lost), "unknown"
        elif self.on(Rule.HANDLER_HAS_WON):
            yield "matches no row, tells the result", self.tell(s, c, s.db.rows[RESULT]), "over"
        else:
            yield "matches no row", s, "written"

    # --- the client

    def tell(self, s: Handling, c: Connection, answer: str) -> Handling:
        heard = c.open and not s.told
        return replace(s, told=answer) if heard else s

    def attach(self, s: Handling) -> Steps[Handling]:
        if not s.connections[-1].open and s.db.free("attach", SESSION):
            row = s.db.rows[SESSION]
            taken = replace(row, generation=row.generation + 1)
            s = replace(s, db=s.db.write("attach", SESSION, taken).commit("attach"))
            if row.last_client_seq:
                told = s.told or s.db.rows[RESULT]
                new = Connection(taken.generation, thread="over")
                s = replace(s, told=told, connections=(*s.connections, new))
                yield f"welcomes, number 1 is done: {told}", s
            else:
                new = Connection(taken.generation)
                yield "welcomes, the client sends 1", replace(s, connections=(*s.connections, new))

    # --- faults

    def hang(self, s: Handling) -> Steps[Handling]:
        for c in s.connections:
            if c.thread == "working":
                yield f"handler {c.generation}", self._with(s, replace(c, thread="hung"))

    def cut(self, s: Handling) -> Steps[Handling]:
        c = s.connections[0]
        if c.open:
            yield "the connection", self._with(s, replace(c, open=False))

    def kill(self, s: Handling) -> Steps[Handling]:
        c = s.connections[0]
        if c.thread != "over":
            db = s.db.rollback(f"handler {c.generation}")
            dead = Connection(c.generation, open=False, thread="over", nack="over")
            yield "the old node", self._with(replace(s, db=db), dead)

    def _with(self, s: Handling, c: Connection) -> Handling:
        rest = tuple(other for other in s.connections if other.generation != c.generation)
        both = tuple(sorted((*rest, c), key=lambda c: c.generation))
        return replace(s, connections=both)

    def broken(self, s: Handling) -> Broken | None:
        effects = [key for key in s.db.rows if isinstance(key, tuple) and key[0] == "effect"]
        if s.fenced_write:
            return Broken(Promise.G4, "the old connection committed after the take-over")
        if len(effects) > 1:
            return Broken(Promise.G2, "the effect was kept twice")
        if s.told and bool(effects) != (s.told == "ack"):
            return Broken(Promise.G2, f"the client was told {s.told}, effects kept: {len(effects)}")
        return None

    def unfinished(self, s: Handling) -> Broken | None:
        if not s.told:
            return Broken(Promise.NO_DEADLOCK, "the client is never told of its message")
        return None


@dataclass(frozen=True)
class File:
    db: Database = Database()  # noqa: RUF009 - immutable
    handler: str = "idle"  # idle, begun, sent, over
    queue: tuple[str, ...] = ("an append of another connection",)
    kept: tuple[str, ...] = ()


class OneFile(Scenario[File]):
    """SQLite: a write transaction locks the file. The user's code sends a message inside it."""

    at_least = 8
    reply = "the handler's reply"

    def start(self) -> File:
        return File()

    def processes(self) -> tuple[Process[File], ...]:
        return self.handler, self.writer

    def handler(self, s: File) -> Steps[File]:
        if s.handler == "idle" and s.db.free("handler", "file"):
            yield "BEGIN IMMEDIATE", replace(s, handler="begun", db=s.db.lock("handler", "file"))
        elif s.handler == "begun" and self.on(Rule.NOTHING_WAITS_FOR_THE_WRITER):
            yield "collects its reply", replace(s, handler="sent")
        elif s.handler == "begun":
            queue = (*s.queue, self.reply)
            yield "appends its reply and waits", replace(s, handler="sent", queue=queue)
        elif s.handler == "sent" and self.on(Rule.NOTHING_WAITS_FOR_THE_WRITER):
            kept = (*s.kept, self.reply)
            yield "commits", replace(s, handler="over", db=s.db.commit("handler"), kept=kept)
        elif s.handler == "sent" and self.reply in s.kept:
            yield "commits", replace(s, handler="over", db=s.db.commit("handler"))

    def writer(self, s: File) -> Steps[File]:
        if s.queue and s.db.free("writer", "file"):
            yield f"commits {s.queue}", replace(s, queue=(), kept=s.kept + s.queue)

    def unfinished(self, s: File) -> Broken | None:
        if s.queue or s.handler != "over":
            return Broken(Promise.NO_DEADLOCK, "handler and writer wait for each other")
        return None
