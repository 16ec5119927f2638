"""Who left is told once: two nodes announce, one of which may die, and a client comes back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database
from .model_rules import Rule, Scenario
from .model_values import Map

SESSION = "session"


@dataclass(frozen=True)
class Row:
    here: bool = True  # attached to a connection
    present: bool = True  # its audience was told that it is here, and not yet that it has gone


@dataclass(frozen=True)
class Absences:
    db: Database = Database(rows=Map({SESSION: Row(), ("told", 1): "join"}))  # noqa: RUF009
    reapers: Map[str, str] = Map({"one": "idle", "another": "idle"})  # noqa: RUF009
    next_id: int = 2  # of what the audience is told
    absences: int = 2  # of the client; it stays away from the last one
    client: str = "idle"


class Exits(Scenario[Absences]):
    at_least = 100

    def start(self) -> Absences:
        return Absences()

    def processes(self) -> tuple[Process[Absences], ...]:
        return self.client, self.announcers

    def faults(self) -> tuple[Process[Absences], ...]:
        return (self.kill,)

    def client(self, s: Absences) -> Steps[Absences]:
        row: Row = s.db.rows[SESSION]
        if s.client == "attaching":
            yield "its attach commits", replace(s, db=s.db.commit("client"), client="idle")
        elif not s.db.free("client", SESSION):
            return
        elif row.here and s.absences:
            db = s.db.write("client", SESSION, replace(row, here=False)).commit("client")
            yield "goes away", replace(s, db=db, absences=s.absences - 1)
        elif not row.here and s.absences:
            tell = not row.present and self.on(Rule.RETURN_IS_TOLD)
            db = s.db.write("client", SESSION, Row())
            if tell:
                db = db.write("client", ("told", s.next_id), "join")
            yield (
                "attaches",
                replace(s, db=db, client="attaching", next_id=s.next_id + tell),
            )

    def announcers(self, s: Absences) -> Steps[Absences]:
        for me, at in s.reapers.items():
            for words, after in self.announce(s, me, at):
                yield f"{me} {words}", after

    def announce(self, s: Absences, me: str, at: str) -> Steps[Absences]:
        row: Row = s.db.rows[SESSION]
        due = row.present and not row.here
        if at == "idle" and due:
            yield "sees that somebody is away", self.to(s, me, "seen")
        elif at == "seen" and s.db.free(me, SESSION):
            locked = replace(s, db=s.db.lock(me, SESSION))
            if due or not self.on(Rule.EXIT_ASKED_UNDER_LOCK):
                yield "locks the session", self.to(locked, me, "locked")
            else:
                yield "finds that it came back, or was announced", self.to(s, me, "idle")
        elif at == "locked":
            db = s.db.write(me, ("told", s.next_id), "exit")
            told = replace(s, db=db, next_id=s.next_id + 1)
            if self.on(Rule.EXIT_WITH_ITS_MARK):
                yield "tells and marks it", self.to(self.mark(told, me), me, "marked")
            else:
                yield "tells it, and commits", self.to(replace(told, db=db.commit(me)), me, "told")
        elif at == "told" and s.db.free(me, SESSION):
            yield "marks it in a transaction of its own", self.to(self.mark(s, me), me, "marked")
        elif at == "marked":
            yield "commits", self.to(replace(s, db=s.db.commit(me)), me, "idle")

    def mark(self, s: Absences, me: str) -> Absences:
        row: Row = s.db.read(me, SESSION)
        return replace(s, db=s.db.write(me, SESSION, replace(row, present=False)))

    def to(self, s: Absences, me: str, at: str) -> Absences:
        return replace(s, reapers=s.reapers.set(me, at))

    def kill(self, s: Absences) -> Steps[Absences]:
        if "one" in s.reapers:
            left = Map({"another": s.reapers["another"]})
            yield "one node", replace(s, db=s.db.rollback("one"), reapers=left)

    def told(self, s: Absences) -> list[str]:
        return list(s.db.numbered("told").values())

    def broken(self, s: Absences) -> Broken | None:
        told = self.told(s)
        if any(one == other for one, other in itertools.pairwise(told)):
            return Broken(Promise.G5, f"the audience is told {told}")
        return None

    def unfinished(self, s: Absences) -> Broken | None:
        row: Row = s.db.rows[SESSION]
        told = self.told(s)
        if told[-1] != ("join" if row.here else "exit"):
            where = "here" if row.here else "away"
            return Broken(Promise.G5, f"it is {where}, and the audience was told {told}")
        return None
