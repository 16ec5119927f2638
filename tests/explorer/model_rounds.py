"""Group commit: the entries of many connections share one transaction, but not their troubles."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

from .explorer import Broken, Process, Promise, Steps
from .model_database import Database
from .model_rules import Rule, Scenario
from .model_values import Map

REFUSED = "whatever the database refuses in a text column, too"
NUL = json.dumps("\0")  # valid JSON; PostgreSQL: "\u0000 cannot be converted to text" (jsonb)
REORDERED = json.dumps({"zulu": 1, "alpha": 2})  # jsonb keeps no order of keys


@dataclass(frozen=True)
class Round:
    unsent: frozenset[str]
    queue: tuple[str, ...] = ()
    batches: tuple[tuple[str, ...], ...] = ()  # what the writer still has to try, in order
    stored: Map[str, str] = Map()  # noqa: RUF009 - immutable
    failed: frozenset[str] = frozenset()


class PoisonedRound(Scenario[Round]):
    """Three connections append; one entry is refused by the database, one looks as if."""

    at_least = 100
    frames: ClassVar[tuple[str, ...]] = ('"good"', NUL, REFUSED)

    def start(self) -> Round:
        return Round(unsent=frozenset(self.frames))

    def processes(self) -> tuple[Process[Round], ...]:
        return self.senders, self.writer

    def senders(self, s: Round) -> Steps[Round]:
        for frame in sorted(s.unsent):
            yield f"append {frame}", replace(s, unsent=s.unsent - {frame}, queue=(*s.queue, frame))

    def writer(self, s: Round) -> Steps[Round]:
        if not s.batches:
            if s.queue:
                yield "takes all that wait", replace(s, queue=(), batches=(s.queue,))
            return
        batch, *others = s.batches
        rest = tuple(others)
        if not any(map(self.refused, batch)):
            stored = Map({**s.stored, **{frame: self.column(frame) for frame in batch}})
            yield f"commits {len(batch)}", replace(s, batches=rest, stored=stored)
        elif len(batch) == 1 or not self.on(Rule.BISECT_A_REFUSED_ROUND):
            yield f"fails {batch}", replace(s, batches=rest, failed=s.failed.union(batch))
        else:
            half = len(batch) // 2
            yield "bisects", replace(s, batches=(batch[:half], batch[half:], *rest))

    def refused(self, frame: str) -> bool:
        return frame == REFUSED or (frame == NUL and not self.on(Rule.FRAMES_ARE_TEXT))

    def column(self, frame: str) -> str:
        """What a replay reads back."""
        if self.on(Rule.FRAMES_ARE_TEXT):
            return frame
        return json.dumps(dict(sorted(json.loads(frame).items()))) if "{" in frame else frame

    def broken(self, s: Round) -> Broken | None:
        for frame in s.failed - {REFUSED}:
            return Broken(Promise.FAILS_ALONE, f"the valid {frame} failed")
        for live, replayed in s.stored.items():
            if live != replayed:
                return Broken(Promise.G1, f"live {live}, but replayed {replayed}")
        return None

    def unfinished(self, s: Round) -> Broken | None:
        if s.stored.keys() | s.failed != set(self.frames):
            return Broken(Promise.NO_DEADLOCK, "an entry has no outcome")
        return None


class ReplayedRound(PoisonedRound):
    """The same; what is replayed must be what was sent live."""

    at_least = 18
    frames = ('"good"', REORDERED)


@dataclass(frozen=True)
class Locked:
    db: Database = Database()  # noqa: RUF009 - immutable
    queue: tuple[str, ...] = ("ann", "bob")  # an entry for each of two sessions
    writer: str = "idle"  # idle, locking, writing
    to_lock: tuple[str, ...] = ()
    round: tuple[str, ...] = ()
    handler: str = "working"  # working, committing, done, hung
    kept: frozenset[str] = frozenset()


class LockedRound(Scenario[Locked]):
    """An in-transaction handler holds the row of Ann's session, maybe for ever (its database
    connection is cut in the commit); the round has entries for Ann and Bob."""

    at_least = 25

    def start(self) -> Locked:
        return Locked()

    def processes(self) -> tuple[Process[Locked], ...]:
        return self.handler_of_ann, self.writer

    def handler_of_ann(self, s: Locked) -> Steps[Locked]:
        if s.handler == "working" and s.db.free("handler", "ann"):
            yield "locks ann", replace(s, handler="committing", db=s.db.lock("handler", "ann"))
        if s.handler == "committing":
            yield "commits", replace(s, handler="done", db=s.db.commit("handler"))
            yield "hangs in its commit", replace(s, handler="hung")

    def writer(self, s: Locked) -> Steps[Locked]:
        if s.writer == "idle" and s.queue:
            round_ = tuple(e for e in s.queue if s.db.free("writer", e))
            if not self.on(Rule.SKIP_LOCKED):
                yield "begins a round", replace(s, writer="locking", to_lock=s.queue)
            elif round_:
                yield (
                    f"skips what is locked, begins with {round_}",
                    replace(s, writer="locking", to_lock=round_),
                )
        elif s.writer == "locking" and s.to_lock:
            entry, *rest = s.to_lock
            if s.db.free("writer", entry):
                yield (
                    f"locks {entry}",
                    replace(
                        s,
                        db=s.db.lock("writer", entry),
                        to_lock=tuple(rest),
                        round=(*s.round, entry),
                    ),
                )
            elif self.on(Rule.SKIP_LOCKED):  # locked since: left for the next round
                yield f"skips {entry}", replace(s, to_lock=tuple(rest))
        elif s.writer == "locking":
            yield (
                f"commits {s.round}",
                replace(
                    s,
                    db=s.db.commit("writer"),
                    writer="idle",
                    queue=tuple(e for e in s.queue if e not in s.round),
                    round=(),
                    kept=s.kept.union(s.round),
                ),
            )

    def unfinished(self, s: Locked) -> Broken | None:
        if "bob" in s.queue:
            return Broken(Promise.FAILS_ALONE, "bob waits for a lock on ann's session")
        if "ann" in s.queue and s.handler != "hung":
            return Broken(Promise.NO_DEADLOCK, "ann's row is free, her entry waits")
        return None
