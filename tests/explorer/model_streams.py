"""publish(): insert in the user's transaction, number after it, read by number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from graceful_ws.core.window import check_page

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database, Lock
from .model_rules import Rule, Scenario
from .model_values import Map

STREAM = "stream"  # the row is its head
IDS = (1, 2, 3)  # given at the insert; commits come in any order


@dataclass(frozen=True)
class Sequencer:
    at: str = "idle"  # idle, looking, locked, numbered
    sees: tuple[int, ...] = ()  # the ids without a number in its statement's snapshot


@dataclass(frozen=True)
class Sequenced:
    db: Database = Database(rows=Map({STREAM: 0}))  # noqa: RUF009 - ("row", id) -> number or 0
    sequencers: Map[str, Sequencer] = Map({"one": Sequencer(), "another": Sequencer()})  # noqa: RUF009
    position: int = 0
    delivered: tuple[int, ...] = ()  # ids


class Sequencing(Scenario[Sequenced]):
    """Three published messages, the sequencers of two nodes (one may be killed), a reader."""

    at_least = 500

    def start(self) -> Sequenced:
        return Sequenced()

    def processes(self) -> tuple[Process[Sequenced], ...]:
        return self.publishers, self.sequencers, self.reader

    def faults(self) -> tuple[Process[Sequenced], ...]:
        return (self.kill,)

    def publishers(self, s: Sequenced) -> Steps[Sequenced]:
        for row in IDS:
            if ("row", row) not in s.db.rows:
                me = f"publisher {row}"
                db = s.db.write(me, ("row", row), 0).commit(me)
                yield f"the transaction with row {row} commits", replace(s, db=db)

    def sequencers(self, s: Sequenced) -> Steps[Sequenced]:
        for me, sequencer in s.sequencers.items():
            for words, db, after in self.number(s.db, me, sequencer):
                yield (
                    f"{me} {words}",
                    replace(s, db=db, sequencers=s.sequencers.set(me, after)),
                )

    def number(
        self, db: Database, me: str, q: Sequencer
    ) -> Iterator[tuple[str, Database, Sequencer]]:
        pending = tuple(row for row, seq in db.numbered("row").items() if not seq)
        if q.at == "idle" and pending:
            if not self.on(Rule.NUMBER_IN_A_SECOND_STATEMENT):
                yield f"begins to lock and number {pending}", db, Sequencer("looking", pending)
            elif db.free(me, STREAM):
                yield "locks the stream", db.lock(me, STREAM), Sequencer("locked")
        elif q.at == "looking" and db.free(me, STREAM):
            # The wait is over: head is read anew, the snapshot of the other rows is not.
            yield "locks the stream", db.lock(me, STREAM), replace(q, at="locked")
        elif q.at == "locked":
            rows = q.sees or pending
            head = db.read(me, STREAM)
            for place, row in enumerate(rows, 1):
                if not db.read(me, ("row", row)):  # numbered meanwhile: the UPDATE skips it
                    db = db.write(me, ("row", row), head + place)
            db = db.write(me, STREAM, head + len(rows))
            yield f"numbers {rows} from {head + 1}", db, Sequencer("numbered")
        elif q.at == "numbered":
            yield "commits", db.commit(me), Sequencer()

    def reader(self, s: Sequenced) -> Steps[Sequenced]:
        """Reads what is behind its position; a client's, or a hub's."""
        by_number = {seq: row for row, seq in s.db.numbered("row").items() if seq}
        if self.on(Rule.RESUME_BY_NUMBER):
            page = sorted(seq for seq in by_number if seq > s.position)
            check_page(s.position, s.db.rows[STREAM], page)
            rows = tuple(by_number[seq] for seq in page)
        else:
            page = sorted(row for row in by_number.values() if row > s.position)
            rows = tuple(page)
        if page:
            delivered = s.delivered + rows
            yield f"reads {rows}", replace(s, position=page[-1], delivered=delivered)

    def kill(self, s: Sequenced) -> Steps[Sequenced]:
        if "one" in s.sequencers:
            left = Map({"another": s.sequencers["another"]})
            yield "one node", replace(s, db=s.db.rollback("one"), sequencers=left)

    def broken(self, s: Sequenced) -> Broken | None:
        numbers = sorted(seq for seq in s.db.numbered("row").values() if seq)
        if numbers != list(range(1, len(numbers) + 1)):
            return Broken(Promise.G1, f"a stream with the numbers {numbers}")
        return None

    def unfinished(self, s: Sequenced) -> Broken | None:
        if sorted(s.delivered) != list(IDS):
            return Broken(Promise.G1, f"published {IDS}, delivered {s.delivered}")
        return None


@dataclass(frozen=True)
class Published:
    db: Database = Database()  # noqa: RUF009 - immutable
    to_publish: Map[str, tuple[str, ...]] = Map({"ann": ("red", "blue"), "bob": ("blue", "red")})  # noqa: RUF009
    hung: bool = False


class Publishing(Scenario[Published]):
    """Ann publishes to two new streams, Bob to the same in the other order, each in one
    transaction. Bob's may then take as long as it likes: Ann's messages must be numbered."""

    at_least = 60

    def start(self) -> Published:
        return Published()

    def processes(self) -> tuple[Process[Published], ...]:
        return self.users, self.sequencer

    def faults(self) -> tuple[Process[Published], ...]:
        return (self.hang,)

    def users(self, s: Published) -> Steps[Published]:
        for who, streams in s.to_publish.items():
            if who == "bob" and s.hung:
                continue
            if not streams:
                if ("committed", who) not in s.db.rows:
                    db = s.db.write(who, ("committed", who), True).commit(who)
                    yield f"{who} commits", replace(s, db=db)
                continue
            stream, *rest = streams
            inserted = self.insert(s.db, who, stream)
            if inserted is not None:
                later = s.to_publish.set(who, tuple(rest))
                yield f"{who} publishes to {stream}", replace(s, db=inserted, to_publish=later)

    def insert(self, db: Database, who: str, stream: str) -> Database | None:
        """None: the insert waits."""
        if not self.on(Rule.STREAM_IS_A_NAME):  # a foreign key
            missing = db.read(who, stream) is None
            if not db.free(who, stream, Lock.NO_KEY_UPDATE if missing else Lock.KEY_SHARE):
                return None
            if missing:  # the stream itself comes first
                db = db.write(who, stream, "stream")
            db = db.lock(who, stream, Lock.KEY_SHARE)
        return db.write(who, ("message", f"{who} to {stream}"), "pending")

    def sequencer(self, s: Published) -> Steps[Published]:
        """One stream a transaction: create the row if it is missing, lock it, number."""
        me = "sequencer"
        for stream in ("red", "blue"):
            pending = [
                ("message", f"{who} to {stream}")
                for who in s.to_publish
                if s.db.rows.get(("message", f"{who} to {stream}")) == "pending"
            ]
            if pending and s.db.free(me, stream, Lock.UPDATE):
                db = s.db.lock(me, stream, Lock.UPDATE).write(me, stream, "stream")
                for key in pending:
                    db = db.write(me, key, "numbered")
                yield f"numbers {stream}", replace(s, db=db.commit(me))

    def hang(self, s: Published) -> Steps[Published]:
        if not s.hung and ("committed", "bob") not in s.db.rows:
            yield "bob's transaction goes on for ever", replace(s, hung=True)

    def unfinished(self, s: Published) -> Broken | None:
        for who in ("ann",) if s.hung else ("ann", "bob"):
            for stream in ("red", "blue"):
                if s.db.rows.get(("message", f"{who} to {stream}")) != "numbered":
                    why = f"{who}'s message to {stream} waits for another user's transaction"
                    return Broken(Promise.NO_DEADLOCK, why)
        return None
