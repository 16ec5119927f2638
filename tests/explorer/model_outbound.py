"""From ``send_json`` to the client: numbers, commits of unknown outcome, outbox, replay.

The outbox's cursor, the check of a page and the client's position are those of the core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graceful_ws.core.frames import ProtocolError
from graceful_ws.core.window import Cursor, Position, SendWindow, check_page

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database
from .model_rules import Rule, Scenario
from .model_values import Frozen, Map

SESSION = "session"  # the row is last_seq
Frame = tuple[int, str]


@dataclass(frozen=True)
class Append:
    """One transaction that writes a numbered message: of the writer thread, or the store part of
    an in-transaction handler. Both may be under way for one session."""

    text: str
    at: str = "idle"  # idle, written, committed, unknown, over
    seq: int = 0
    caller: str = "waits"  # waits, returned, failed, cancelled
    tries: int = 1

    @property
    def transaction(self) -> str:
        return f"{self.text}, try {self.tries}"


@dataclass(frozen=True)
class Outbound:
    db: Database = Database(rows=Map({SESSION: 0}))  # noqa: RUF009 - immutable
    appends: tuple[Append, ...] = ()
    counter: int = 0  # without NUMBER_UNDER_LOCK: where the node counts
    lost_connections: int = 1  # to the database, in the middle of a commit
    callbacks: tuple[Frame, ...] = ()  # call_soon_threadsafe: in the order of the calls
    outbox: frozenset[Frame] = frozenset()
    cursor: Frozen[Cursor] = Frozen(Cursor(SendWindow(9, 999)))  # noqa: RUF009 - a value
    socket: tuple[Frame, ...] = ()
    position: Frozen[Position] = Frozen(Position())  # noqa: RUF009 - a value
    delivered: tuple[str, ...] = ()
    hole: str = ""
    crashed: bool = False
    resumed: bool = False


class Outgoing(Scenario[Outbound]):
    """Two messages and one that the database refuses; callers may be cancelled, the database may
    be lost in a commit, the node may be killed, and then the client resumes."""

    at_least = 8000
    refused = "refused"
    texts = ("a", "refused", "b")

    def start(self) -> Outbound:
        return Outbound(appends=tuple(map(Append, self.texts)))

    def processes(self) -> tuple[Process[Outbound], ...]:
        return self.threads, self.database, self.event_loop, self.client, self.resume

    def faults(self) -> tuple[Process[Outbound], ...]:
        return self.callers, self.crash

    # --- the database threads

    def threads(self, s: Outbound) -> Steps[Outbound]:
        if s.crashed:
            return
        for i, append in enumerate(s.appends):
            for words, after in self.commit_one(s, append):
                yield f"{append.text!r} {words}", self._with(after[0], i, after[1])

    def commit_one(self, s: Outbound, a: Append) -> Steps[tuple[Outbound, Append]]:
        me = a.transaction
        if a.at == "idle":
            withdrawn = a.caller == "cancelled" and a.tries == 1
            if not withdrawn and s.db.free(me, SESSION):
                yield from self.number(s, a)
        elif a.at == "written":
            yield "commits", (replace(s, db=s.db.commit(me)), replace(a, at="committed"))
            if s.lost_connections:
                lost = replace(s, lost_connections=s.lost_connections - 1)
                yield "loses the database in its commit", (lost, replace(a, at="unknown"))
        elif a.at == "unknown":
            if not self.on(Rule.ASK_AFTER_UNKNOWN_COMMIT):
                yield "tries again", (s, replace(a, at="idle", tries=a.tries + 1))
            elif self.on(Rule.ASK_UNDER_LOCK) and not s.db.free("who asks", SESSION):
                return
            elif self.is_committed(s, a):
                yield "asks: it is committed", (s, replace(a, at="committed"))
            else:
                yield "asks, tries again", (s, replace(a, at="idle", tries=a.tries + 1))
        elif a.at == "committed":
            scheduled = replace(s, callbacks=(*s.callbacks, (a.seq, a.text)))
            yield "schedules the callback", (scheduled, replace(a, at="over"))

    def number(self, s: Outbound, a: Append) -> Steps[tuple[Outbound, Append]]:
        if self.on(Rule.NUMBER_UNDER_LOCK):
            seq = s.db.read(a.transaction, SESSION) + 1
        else:
            seq = s.counter + 1
            s = replace(s, counter=seq)
        if a.text == self.refused:
            failed = replace(a, at="over", caller="failed")
            yield f"is refused as number {seq}", (s, failed)
            return
        db = s.db.write(a.transaction, SESSION, seq)
        db = db.write(a.transaction, ("message", seq), a.text)
        yield f"locks, writes number {seq}", (replace(s, db=db), replace(a, at="written", seq=seq))

    def is_committed(self, s: Outbound, a: Append) -> bool:
        if self.on(Rule.ASK_FOR_THE_ROW):  # in reality: for the primary key of the insert
            return bool(s.db.rows.get(("message", a.seq)) == a.text)
        return bool(s.db.rows[SESSION] >= a.seq)

    # --- the database itself

    def database(self, s: Outbound) -> Steps[Outbound]:
        """A transaction that lost its connection in the commit ends sooner or later, either way."""
        for a in s.appends:
            for t in range(1, a.tries + 1):
                lost = replace(a, tries=t).transaction
                if s.db.holds(lost) and (a.at == "unknown" or t < a.tries or s.crashed):
                    yield f"commits {lost}", replace(s, db=s.db.commit(lost))
                    yield f"rolls back {lost}", replace(s, db=s.db.rollback(lost))

    # --- the event loop

    def callers(self, s: Outbound) -> Steps[Outbound]:
        for i, a in enumerate(s.appends):
            if a.caller == "waits" and not s.crashed:
                yield f"{a.text!r} is cancelled", self._with(s, i, replace(a, caller="cancelled"))

    def event_loop(self, s: Outbound) -> Steps[Outbound]:
        if s.callbacks:
            yield from self.callback(replace(s, callbacks=s.callbacks[1:]), *s.callbacks[0])
        for seq, text in sorted(s.outbox):
            cursor = s.cursor.thaw()
            if seq == cursor.position + 1:
                cursor.advance(seq, len(text))
            elif self.on(Rule.OUTBOX_BY_NUMBER):
                continue
            yield (
                f"sends number {seq}",
                replace(
                    s,
                    outbox=s.outbox - {(seq, text)},
                    cursor=Frozen(cursor),
                    socket=(*s.socket, (seq, text)),
                ),
            )

    def callback(self, s: Outbound, seq: int, text: str) -> Steps[Outbound]:
        i = self.texts.index(text)
        if s.appends[i].caller == "waits":
            s = self._with(s, i, replace(s.appends[i], caller="returned"))
        elif not self.on(Rule.CALLBACK_FILLS_OUTBOX):
            yield f"wakes nobody for number {seq}: its caller was cancelled", s
            return
        yield f"puts number {seq} into the outbox", replace(s, outbox=s.outbox | {(seq, text)})

    # --- the client

    def client(self, s: Outbound) -> Steps[Outbound]:
        if s.socket:
            (seq, text), *rest = s.socket
            yield f"receives number {seq}", self._receive(replace(s, socket=tuple(rest)), seq, text)

    def crash(self, s: Outbound) -> Steps[Outbound]:
        if not s.crashed:
            db = s.db
            for append in s.appends:
                if append.at == "written":  # the server sees the connection go
                    db = db.rollback(append.transaction)
            yield (
                "kills the node",
                replace(s, db=db, crashed=True, callbacks=(), outbox=frozenset(), socket=()),
            )

    def resume(self, s: Outbound) -> Steps[Outbound]:
        """The attach locks the session; what is committed by then is in the replay."""
        if s.crashed and not s.resumed and s.db.free("attach", SESSION):
            rows = s.db.numbered("message")
            position, head = s.position.peek.seq, s.db.rows[SESSION]
            page = [seq for seq in rows if position < seq <= head]
            check_page(position, head, page)
            s = replace(s, resumed=True)
            for seq in page:
                s = self._receive(s, seq, rows[seq])
            yield f"the new node sends {page}", s

    def _receive(self, s: Outbound, seq: int, text: str) -> Outbound:
        position = s.position.thaw()
        try:
            if position.receive(seq):
                s = replace(s, delivered=(*s.delivered, text))
        except ProtocolError as hole:
            s = replace(s, hole=hole.reason)
        return replace(s, position=Frozen(position))

    def _with(self, s: Outbound, i: int, append: Append) -> Outbound:
        return replace(s, appends=(*s.appends[:i], append, *s.appends[i + 1 :]))

    def broken(self, s: Outbound) -> Broken | None:
        if s.hole:
            return Broken(Promise.G1, f"the client got {s.hole}, on one connection")
        rows = s.db.numbered("message")
        if list(rows) != list(range(1, len(rows) + 1)):
            return Broken(Promise.G1, f"numbers {list(rows)} have a hole that nothing will fill")
        if len(set(rows.values())) < len(rows):
            return Broken(Promise.G1, f"{list(rows.values())}: one message has two numbers")
        return None

    def unfinished(self, s: Outbound) -> Broken | None:
        rows = tuple(s.db.numbered("message").values())
        if s.crashed and not s.resumed:
            return Broken(Promise.NO_DEADLOCK, "the resume waits for ever")
        if s.delivered != rows:
            return Broken(Promise.G1, f"the client has {s.delivered}, committed is {rows}")
        for a in s.appends:
            if a.caller == "returned" and a.text not in s.delivered:
                return Broken(Promise.G1, f"{a.text!r} was accepted and never delivered")
            if a.caller == "waits" and not s.crashed:
                return Broken(Promise.NO_DEADLOCK, f"the caller of {a.text!r} waits for ever")
        return None
