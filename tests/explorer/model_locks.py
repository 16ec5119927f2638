"""Who owns a session: generations, and the lock under which they are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database, Lock
from .model_rules import Rule, Scenario
from .model_values import Map

SESSION = "session"


@dataclass(frozen=True)
class Row:
    """The session's row."""

    generation: int = 1
    last_seq: int = 0


@dataclass(frozen=True)
class Writer:
    """The writer of one node, with entries for the session, one a round."""

    generation: int
    entries: tuple[str, ...]
    at: str = "idle"  # idle, read, written
    row: Row = Row()  # what it read


@dataclass(frozen=True)
class Owned:
    db: Database = Database(rows=Map({SESSION: Row()}))  # noqa: RUF009 - immutable
    old: Writer | None = Writer(1, ("a", "b"))
    taker: str = "waiting"  # waiting, locked, done
    new: Writer | None = None  # None: nobody is attached there yet
    accepted: tuple[str, ...] = ()  # committed, so the caller was told
    client: tuple[str, ...] = ()  # what the client has, replayed and live
    fenced_write: str = ""  # what the old owner committed after it had lost the session


class TakeOver(Scenario[Owned]):
    """The client attaches on another node while its old node appends, or crashes."""

    at_least = 50

    def start(self) -> Owned:
        return Owned()

    def processes(self) -> tuple[Process[Owned], ...]:
        return self.old_node, self.taker, self.new_node

    def faults(self) -> tuple[Process[Owned], ...]:
        return (self.crash,)

    def old_node(self, s: Owned) -> Steps[Owned]:
        if s.old is None:
            return
        for words, db, writer in self.append(s.db, "old", s.old):
            after = replace(s, db=db, old=writer)
            if words == "commits":
                entry = s.old.entries[0]
                lost = entry if s.taker == "done" else ""
                after = replace(after, accepted=(*s.accepted, entry), fenced_write=lost)
            yield words, after

    def new_node(self, s: Owned) -> Steps[Owned]:
        if s.new is None:
            return
        for words, db, writer in self.append(s.db, "new", s.new):
            after = replace(s, db=db, new=writer)
            if words == "commits":
                e = s.new.entries[0]
                after = replace(after, accepted=(*s.accepted, e), client=(*s.client, e))
            yield words, after

    def append(self, db: Database, who: str, w: Writer) -> Iterator[tuple[str, Database, Writer]]:
        """One append: read, compare the generation, write, commit."""
        row: Row = db.read(who, SESSION)
        if w.at == "idle" and w.entries:
            if not self.on(Rule.LOCK_BEFORE_READ):
                yield f"reads {row}", db, replace(w, at="read", row=row)
            elif db.free(who, SESSION):
                yield (
                    f"locks and reads {row}",
                    db.lock(who, SESSION),
                    replace(w, at="read", row=row),
                )
        elif w.at == "read" and w.row.generation != w.generation:
            yield "is fenced, rolls back", db.rollback(who), replace(w, at="idle", entries=())
        elif w.at == "read" and db.free(who, SESSION):
            seq = w.row.last_seq + 1
            db = db.write(who, SESSION, replace(row, last_seq=seq))  # UPDATE of one column
            db = db.write(who, ("message", seq), w.entries[0])
            yield f"writes number {seq}", db, replace(w, at="written")
        elif w.at == "written":
            yield "commits", db.commit(who), replace(w, at="idle", entries=w.entries[1:])

    def taker(self, s: Owned) -> Steps[Owned]:
        """The attach on the new node; on commit the replay is read."""
        if s.taker == "waiting" and s.db.free("taker", SESSION):
            yield "locks the session", replace(s, taker="locked", db=s.db.lock("taker", SESSION))
        elif s.taker == "locked":
            row = self.taken(s.db.read("taker", SESSION))
            db = s.db.write("taker", SESSION, row).commit("taker")
            after = replace(s, db=db, taker="done")
            yield f"commits {row}", self.attached(after, row)

    def taken(self, row: Row) -> Row:
        adds = self.on(Rule.ATTACH_ADDS_A_GENERATION)
        return replace(row, generation=row.generation + adds)

    def attached(self, s: Owned, row: Row) -> Owned:
        replay = tuple(s.db.numbered("message").values())
        return replace(s, new=Writer(row.generation, ("c",)), client=replay)

    def crash(self, s: Owned) -> Steps[Owned]:
        if s.old is not None:
            yield "kills the old node", replace(s, old=None, db=s.db.rollback("old"))

    def broken(self, s: Owned) -> Broken | None:
        if s.fenced_write:
            return Broken(Promise.G4, f"the old owner wrote {s.fenced_write!r} after it was taken")
        return None

    def unfinished(self, s: Owned) -> Broken | None:
        if s.taker != "done":
            return Broken(Promise.NO_DEADLOCK, "the attach waits")
        if s.client != s.accepted:
            return Broken(Promise.G1, f"accepted {s.accepted}, the client has {s.client}")
        return None


class Detached(TakeOver):
    """A node that took the old one for dead, or an operator, ends the session; it attaches to
    nobody. What the old owner then appends would be accepted, and lost."""

    at_least = 25

    def taken(self, row: Row) -> Row:
        adds = self.on(Rule.DETACH_ADDS_A_GENERATION)
        return replace(row, generation=row.generation + adds)

    def attached(self, s: Owned, row: Row) -> Owned:
        return replace(s, client=tuple(s.db.numbered("message").values()))


@dataclass(frozen=True)
class Held:
    db: Database = Database()  # noqa: RUF009 - immutable
    done: frozenset[str] = frozenset()
    hung: bool = False


class ForeignKey(Scenario[Held]):
    """A site has a table with a foreign key to the session. Its transaction inserts there, then
    takes as long as it likes; meanwhile the session must go on."""

    at_least = 12

    def start(self) -> Held:
        return Held()

    def processes(self) -> tuple[Process[Held], ...]:
        return self.users_transaction, self.writer

    def users_transaction(self, s: Held) -> Steps[Held]:
        if not s.db.holds("user") and "user" not in s.done:
            if s.db.free("user", SESSION, Lock.KEY_SHARE):
                db = s.db.lock("user", SESSION, Lock.KEY_SHARE)
                yield "inserts a row that refers to the session", replace(s, db=db)
        elif not s.hung and "user" not in s.done:
            yield "commits", replace(s, db=s.db.commit("user"), done=s.done | {"user"})
            yield "goes on for ever", replace(s, hung=True)

    def writer(self, s: Held) -> Steps[Held]:
        lock = Lock.NO_KEY_UPDATE if self.on(Rule.LOCK_NO_KEY) else Lock.UPDATE
        if s.db.holds("writer"):
            yield "commits", replace(s, db=s.db.commit("writer"), done=s.done | {"writer"})
        elif "writer" not in s.done and s.db.free("writer", SESSION, lock):
            yield "locks the session", replace(s, db=s.db.lock("writer", SESSION, lock))

    def unfinished(self, s: Held) -> Broken | None:
        if "writer" not in s.done:
            return Broken(Promise.NO_DEADLOCK, "the session waits for a site's own transaction")
        return None


class TwoReapers(Scenario[Held]):
    """Two nodes detach the sessions of a dead third one at the same time."""

    at_least = 12

    def start(self) -> Held:
        return Held()

    def processes(self) -> tuple[Process[Held], ...]:
        return self.reaper_of_one_node, self.reaper_of_another

    def reaper_of_one_node(self, s: Held) -> Steps[Held]:
        return self.detach(s, "one", (1, 2))

    def reaper_of_another(self, s: Held) -> Steps[Held]:
        ids = (1, 2) if self.on(Rule.LOCK_IN_ID_ORDER) else (2, 1)
        return self.detach(s, "another", ids)

    def detach(self, s: Held, who: str, ids: tuple[int, ...]) -> Steps[Held]:
        if who in s.done:
            return
        for session in ids:
            if (who, session, Lock.NO_KEY_UPDATE) not in s.db.locks:
                if s.db.free(who, session):
                    yield f"locks session {session}", replace(s, db=s.db.lock(who, session))
                return
        yield "commits", replace(s, db=s.db.commit(who), done=s.done | {who})

    def unfinished(self, s: Held) -> Broken | None:
        if len(s.done) < 2:
            return Broken(Promise.NO_DEADLOCK, "each waits for a session that the other holds")
        return None
