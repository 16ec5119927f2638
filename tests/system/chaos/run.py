"""The course of a chaos run: traffic, faults, departures, rest, comparison."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from tests.support.waiting import eventually
from tests.system.chaos import ledger
from tests.system.chaos.books import Books, Facts
from tests.system.chaos.faults import Faults
from tests.system.chaos.halls import PREFIX
from tests.system.chaos.options import Options
from tests.system.chaos.place import EXIT_GRACE, Place
from tests.system.chaos.visitors import Visitor

LEAVE = 6  # one client in so many says bye in the middle, and as many vanish
LOOK_EVERY = 0.5  # seconds between looks at whether everything has come to rest
STILL = 3  # such looks in a row
START_WITHIN = 30.0
COUNTED = ("sent", "accepted", "received", "lost", "duplicated", "out_of_order", "phantom", "gaps")
EXITS = ("exits_told", "exits_expected", "exits_wrong")
WHO_IS_THERE = """
import json
from graceful_ws.publishing import online
print(json.dumps({room: [one.client_id for one in online(room)] for room in %r}))
"""


@dataclass
class Outcome:
    options: Options
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    settled: float = 0.0  # seconds until everything had come to rest
    violations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        counts = self.counts
        clients = {name: counts[name] for name in ("replayed", "resent", "resumes")}
        return {
            "seed": self.options.seed,
            "seconds": self.options.seconds,
            "faults": dict(sorted(self.faults.items())),
            **{name: counts[name] for name in COUNTED[:3]},
            **clients,
            "closes": {str(code): count for code, count in sorted(self.closes.items())},
            **{name: counts[name] for name in COUNTED[3:]},
            **{name: counts[name] for name in EXITS},
            "settled": round(self.settled, 1),
            "violations": self.violations,
        }


class Run:
    """One run at a place that has been started; ``say`` is told what happens."""

    def __init__(self, options: Options, place: Place, say: Callable[[str], None]) -> None:
        self.options = options
        self.place = place
        self.say = say
        self.outcome = Outcome(options)
        self._random = random.Random(f"departures {options.seed}")
        self.rooms = [f"room-{number}" for number in range(1, options.rooms + 1)]
        self.halls = [f"{PREFIX}{number}" for number in (1, 2)]
        ports = [node.port for node in place.nodes]
        self.visitors = [
            Visitor(
                f"visitor-{number + 1}",
                # A set of one when there is but one room.
                list(dict.fromkeys(self.rooms[(number + i) % options.rooms] for i in (0, 1))),
                self._random.sample(ports, len(ports)),
                atomic=number % 2 == 1,
                halls=self.halls if self._goes(number) else (),
                doorman_of=() if number else self.halls,
            )
            for number in range(options.clients)
        ]

    def _goes(self, number: int) -> bool:
        return number > 0 and number % 2 == 0

    async def go(self) -> Outcome:
        faults = Faults(self.options, self.place, self.visitors, self.say)
        async with AsyncExitStack() as stack:
            for visitor in self.visitors:
                await stack.enter_async_context(visitor)
            await eventually(self._all_there, START_WITHIN, "all clients are there")
            self.say(f"{len(self.visitors)} clients in {len(self.rooms)} rooms")
            self.place.tell_sessions(visitor.diary.session for visitor in self.visitors)
            self.place.start_publisher(self.rooms + self.halls)
            for visitor in self.visitors:
                visitor.talk(self.options.rate)
            async with asyncio.TaskGroup() as group:
                group.create_task(faults.run())
                group.create_task(self._departures())
            await self._end_traffic()
            began = time.monotonic()
            await self._settle()
            self.outcome.settled = time.monotonic() - began
            facts = await asyncio.to_thread(self._facts)
            self._compare(facts)
        self.outcome.faults = faults.counts
        self.outcome.violations = faults.violations + self.outcome.violations
        return self.outcome

    def _all_there(self) -> bool:
        return all(
            visitor.client.state == "connected"
            and set(visitor.subscribed) <= visitor.client.session.streams.keys()
            for visitor in self.visitors
        )

    async def _departures(self) -> None:
        """Some say bye, and as many are gone without a word; half of these unnoticed at first."""
        count = len(self.visitors) // LEAVE
        chosen = self._random.sample(self.visitors[1:], 2 * count)  # the doorman stays
        async with asyncio.TaskGroup() as group:
            for number, visitor in enumerate(chosen):
                await asyncio.sleep(self.options.seconds * 0.6 / len(chosen))
                how = ("bye", "cut", "bye", "swallow")[number % 4]
                self.say(f"{visitor.diary.name} is gone for good ({how})")
                leaving = visitor.leave() if how == "bye" else visitor.vanish(how)
                group.create_task(leaving)

    async def _end_traffic(self) -> None:
        for visitor in self.visitors:
            visitor.enough = True
            visitor.heal()
        await self.place.heal()
        self.place.stop_traffic()
        self.say("everything is healed, nothing new is sent")
        try:
            status = await self.place.publisher_ended(30)
        except AssertionError as error:
            self.outcome.violations.append(f"publisher: {error}"[:200])
        else:
            if status != 0:
                self.outcome.violations.append(f"the publisher ended with {status}")

    # --- coming to rest -----------------------------------------------------------------------

    async def _settle(self) -> None:
        deadline = time.monotonic() + self.options.settle
        still, told = 0, 0.0
        while still < STILL:
            await asyncio.sleep(LOOK_EVERY)
            unrest = await asyncio.to_thread(self._unrest)
            still = 0 if unrest else still + 1
            if unrest and time.monotonic() > deadline:
                self.outcome.violations.append(
                    f"not at rest after {self.options.settle:g} s: {'; '.join(unrest[:5])}"
                )
                return
            if unrest and time.monotonic() > told + 5:
                told = time.monotonic()
                self.say(f"not at rest: {'; '.join(unrest[:4])}")

    def _unrest(self) -> list[str]:
        """What is still on its way."""
        sql = self.place.site.sql
        found: list[str] = []
        facts = self._facts(whole=False)
        for visitor in self.visitors:
            diary, session = visitor.diary, visitor.client.session
            if not diary.stayed:
                continue
            if visitor.client.state != "connected":
                found.append(f"{diary.name} is {visitor.client.state}")
            if session.waiting:
                found.append(f"{diary.name} waits for {session.waiting} outcomes")
            if session.last_seq < facts.last_seqs.get(diary.session, 0):
                found.append(f"{diary.name} has {session.last_seq} of its own messages")
            for room, track in session.streams.items():
                head = facts.heads.get(room, 0)
                if track.position.seq < head:
                    found.append(f"{diary.name} has {track.position.seq} of {head} in {room}")
        living = {visitor.diary.session for visitor in self.visitors if visitor.diary.stayed}
        present = {
            str(uuid.UUID(str(row[0])))
            for row in sql("SELECT uuid FROM graceful_ws_session WHERE present")
        }
        found += [f"{session} is still present" for session in present - living]
        found += [f"{session} is not present" for session in living - present]
        for table in ("outboundmessage", "streammessage"):
            waiting = f"SELECT count(*) FROM graceful_ws_{table} WHERE seq IS NULL"
            if table == "outboundmessage":
                waiting += (
                    " AND session_id IN (SELECT id FROM graceful_ws_session"
                    " WHERE state = 'attached')"
                )
            [(count,)] = sql(waiting)
            if count:
                found.append(f"{count} rows of {table} are not numbered")
        return found

    def _facts(self, *, whole: bool = True) -> Facts:
        sql = self.place.site.sql
        facts = Facts(
            last_seqs={
                str(uuid.UUID(str(session))): seq
                for session, seq in sql("SELECT uuid, last_seq FROM graceful_ws_session")
            },
            heads=dict(sql("SELECT name, head FROM graceful_ws_stream")),
        )
        if whole:
            effects = sql(
                "SELECT session, actor, reason FROM graceful_ws_auditentry WHERE event = 'effect'"
            )
            facts.effects = [
                (str(uuid.UUID(str(session))), client, int(number))
                for session, client, number in effects
            ]
            for room, seq, data in sql(
                "SELECT stream, seq, data FROM graceful_ws_streammessage WHERE seq IS NOT NULL"
            ):
                facts.kept.setdefault(room, {})[seq] = json.loads(data)
            asked = self.place.site.django("shell", "-v", "0", "-c", WHO_IS_THERE % self.rooms)
            facts.online = json.loads(asked.stdout)
        return facts

    # --- comparing ----------------------------------------------------------------------------

    def _compare(self, facts: Facts) -> None:
        diaries = [visitor.sum_up() for visitor in self.visitors]
        kept = json.dumps(diaries, default=vars, indent=1)
        (self.place.directory / "diaries.json").write_text(kept)
        verdict = Books(ledger.read(self.place.ledger), diaries, facts, EXIT_GRACE).compare()
        outcome = self.outcome
        outcome.counts = verdict.counts
        outcome.violations += verdict.violations
        for diary in diaries:
            outcome.closes += diary.closes
            outcome.counts.update(
                replayed=diary.replayed, resent=diary.resent, resumes=diary.resumes
            )


def table(outcome: Outcome) -> str:
    """The outcome for people."""
    rows: list[tuple[str, object]] = []
    for name, value in outcome.as_dict().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
        if name != "violations":
            rows.append((name.replace("_", " "), value))
    return "\n".join([*(f"{name:<16}{value}" for name, value in rows), *verdict_lines(outcome)])


def verdict_lines(outcome: Outcome) -> Sequence[str]:
    if not outcome.violations:
        return ["No violations."]
    return ["Violations:", *(f"  {violation}" for violation in outcome.violations)]
