"""G1, G2, G4 and G5 hold in every order of steps; without any one rule something breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from .explorer import (
    Broken,
    Model,
    Process,
    Promise,
    Steps,
    TooManyStates,
    Violation,
    explore,
)
from .model_attach import AbandonedHello, FirstHello, NewInstance, ReconnectStorm, Resume
from .model_credit import RudeClient, SlowHandler
from .model_exits import Exits
from .model_inbound import Ahead, Incoming, Retrying
from .model_locks import Detached, ForeignKey, TakeOver, TwoReapers
from .model_outbound import Outgoing
from .model_pages import Positions, ReplayThenLive
from .model_rounds import LockedRound, PoisonedRound, ReplayedRound
from .model_rules import ALL_RULES, Rule, Scenario
from .model_session import TwoAnswers, TwoFaults, WholeSession
from .model_streams import Publishing, Sequencing
from .model_transaction import InTransaction, OneFile

G1, G2, G4, G8 = Promise.G1, Promise.G2, Promise.G4, Promise.G8
STUCK, ALONE, ALIVE = Promise.NO_DEADLOCK, Promise.FAILS_ALONE, Promise.KEPT_ALIVE

SCENARIOS: tuple[type[Scenario[Any]], ...] = (
    PoisonedRound,
    ReplayedRound,
    LockedRound,
    TakeOver,
    Detached,
    ForeignKey,
    TwoReapers,
    Outgoing,
    Sequencing,
    Publishing,
    Exits,
    InTransaction,
    OneFile,
    AbandonedHello,
    NewInstance,
    Resume,
    FirstHello,
    ReconnectStorm,
    ReplayThenLive,
    Positions,
    Incoming,
    Ahead,
    Retrying,
    SlowHandler,
    RudeClient,
    WholeSession,
    TwoAnswers,
    TwoFaults,
)

WITHOUT: tuple[tuple[Rule, type[Scenario[Any]], Promise], ...] = (
    (Rule.FRAMES_ARE_TEXT, PoisonedRound, ALONE),
    (Rule.FRAMES_ARE_TEXT, ReplayedRound, G1),
    (Rule.BISECT_A_REFUSED_ROUND, PoisonedRound, ALONE),
    (Rule.SKIP_LOCKED, LockedRound, ALONE),
    (Rule.STREAM_IS_A_NAME, Publishing, STUCK),
    (Rule.LOCK_BEFORE_READ, TakeOver, G4),
    (Rule.LOCK_BEFORE_READ, Detached, G4),
    (Rule.ATTACH_ADDS_A_GENERATION, TakeOver, G4),
    (Rule.ATTACH_ADDS_A_GENERATION, WholeSession, G4),
    (Rule.DETACH_ADDS_A_GENERATION, Detached, G4),
    (Rule.LOCK_NO_KEY, ForeignKey, STUCK),
    (Rule.LOCK_IN_ID_ORDER, TwoReapers, STUCK),
    (Rule.NUMBER_UNDER_LOCK, Outgoing, G1),
    (Rule.CALLBACK_FILLS_OUTBOX, Outgoing, G1),
    (Rule.OUTBOX_BY_NUMBER, Outgoing, G1),
    (Rule.ASK_AFTER_UNKNOWN_COMMIT, Outgoing, G1),
    (Rule.ASK_UNDER_LOCK, Outgoing, G1),
    (Rule.ASK_FOR_THE_ROW, Outgoing, G1),
    (Rule.ASK_FOR_THE_ROW, InTransaction, G2),
    (Rule.NUMBER_IN_A_SECOND_STATEMENT, Sequencing, G1),
    (Rule.RESUME_BY_NUMBER, Sequencing, G1),
    (Rule.EXIT_WITH_ITS_MARK, Exits, Promise.G5),
    (Rule.EXIT_ASKED_UNDER_LOCK, Exits, Promise.G5),
    (Rule.RETURN_IS_TOLD, Exits, Promise.G5),
    (Rule.NOTHING_WAITS_FOR_THE_WRITER, OneFile, STUCK),
    (Rule.STORE_PART_LAST, InTransaction, STUCK),
    (Rule.CLAIM_CHECKS_GENERATION, InTransaction, G4),
    (Rule.CLAIM_CHECKS_GENERATION, WholeSession, G4),
    (Rule.CLAIM_CHECKS_NUMBER, InTransaction, G2),
    (Rule.GREATER_ATTEMPT_ONLY, AbandonedHello, G4),
    (Rule.NUMBER_FROM_DONE, NewInstance, G2),
    (Rule.RESUME_READS, Resume, G1),
    (Rule.RESUME_READS, WholeSession, G1),
    (Rule.ROW_BEFORE_WELCOME, FirstHello, G1),
    (Rule.DROP_WHO_IS_GONE, ReconnectStorm, STUCK),
    (Rule.POSITION_HAS_AN_EPOCH, Positions, G1),
    (Rule.POSITION_FROM_SUBSCRIPTION, Positions, G1),
    (Rule.POSITION_ELSE_ACKED, Positions, G1),
    (Rule.ENTER_LIVE_AT_ONCE, ReplayThenLive, G1),
    (Rule.PAGE_HAS_NO_HOLE, ReplayThenLive, G1),
    (Rule.DONE_WITH_REPLIES, Incoming, G2),
    (Rule.TRIES_BEFORE_SECOND_START, Incoming, G2),
    (Rule.NO_THIRD_START, Incoming, G2),
    (Rule.DOUBT_WHAT_RAN_AHEAD, Incoming, G2),
    (Rule.ONE_AHEAD, Ahead, G2),
    (Rule.RETRY_CONSUMES_NOTHING, Retrying, G2),
    (Rule.RETRY_DROPS_LATER, Retrying, G2),
    (Rule.NACK_IS_CONDITIONAL, InTransaction, G2),
    (Rule.NACK_AFTER_WRITE, InTransaction, G2),
    (Rule.HANDLER_HAS_WON, InTransaction, G2),
    (Rule.ACK_WHAT_ARRIVED_HERE, WholeSession, ALIVE),
    (Rule.READER_NEVER_STOPS, SlowHandler, ALIVE),
    (Rule.CREDIT_IS_BOUNDED, RudeClient, G8),
    (Rule.PAST_THE_WINDOW_SPILL, ReplayThenLive, G8),
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_all_rules_every_order_of_steps_keeps_the_promises(
    scenario: type[Scenario[Any]],
) -> None:
    report = explore(scenario())
    print(f"\n{scenario.__name__}: {report.states} states, {report.steps} steps", end=" ")
    assert report.states >= scenario.at_least
    assert report.ends >= 1


@pytest.mark.parametrize(
    ("rule", "scenario", "promise"),
    WITHOUT,
    ids=[f"{rule.name}-{scenario.__name__}" for rule, scenario, _ in WITHOUT],
)
def test_without_one_rule_a_promise_breaks(
    rule: Rule, scenario: type[Scenario[Any]], promise: Promise
) -> None:
    with pytest.raises(Violation) as violation:
        explore(scenario(ALL_RULES - {rule}))
    print(f"\nwithout {rule.name}: {violation.value}")
    assert violation.value.promise is promise
    assert violation.value.trace


def test_every_rule_is_taken_out_once() -> None:
    assert {rule for rule, _, _ in WITHOUT} == set(Rule)


# --- the explorer itself, with the oldest examples there are


@dataclass(frozen=True)
class Counting:
    """Two processes add 1 to a counter: each reads, then writes."""

    counter: int = 0
    read: tuple[int | None, ...] = (None, None)
    done: tuple[bool, ...] = (False, False)


class LostUpdate(Model[Counting]):
    atomic = False

    def start(self) -> Counting:
        return Counting()

    def processes(self) -> tuple[Process[Counting], ...]:
        return self.first, self.second

    def first(self, s: Counting) -> Steps[Counting]:
        return self.add(s, 0)

    def second(self, s: Counting) -> Steps[Counting]:
        return self.add(s, 1)

    def add(self, s: Counting, me: int) -> Steps[Counting]:
        read = s.read[me]
        done = tuple(done or i == me for i, done in enumerate(s.done))
        if s.done[me]:
            return
        if self.atomic:
            yield "adds 1", replace(s, counter=s.counter + 1, done=done)
        elif read is None:
            seen = tuple(s.counter if i == me else other for i, other in enumerate(s.read))
            yield f"reads {s.counter}", replace(s, read=seen)
        else:
            yield f"writes {read + 1}", replace(s, counter=read + 1, done=done)

    def unfinished(self, s: Counting) -> Broken | None:
        return Broken(Promise.G1, f"counted {s.counter}") if s.counter != 2 else None


class NoLostUpdate(LostUpdate):
    atomic = True


def test_a_lost_update_is_found_with_its_shortest_trace() -> None:
    with pytest.raises(Violation) as violation:
        explore(LostUpdate())
    assert violation.value.why == "counted 1"
    assert violation.value.trace == (
        "first: reads 0",
        "second: reads 0",
        "first: writes 1",
        "second: writes 1",
    )
    assert "   4. second: writes 1" in str(violation.value)


def test_every_order_is_counted_once() -> None:
    report = explore(NoLostUpdate())
    assert (report.states, report.steps, report.ends) == (4, 4, 1)


class Walk(Model[int]):
    """One process on numbers: each leads to those in ``ways``."""

    ways: dict[int, tuple[int, ...]] = {}
    accidents: dict[int, int] = {}
    goal = 3

    def start(self) -> int:
        return 0

    def processes(self) -> tuple[Process[int], ...]:
        return (self.walk,)

    def faults(self) -> tuple[Process[int], ...]:
        return (self.fall,)

    def walk(self, s: int) -> Steps[int]:
        for to in self.ways.get(s, ()):
            yield f"to {to}", to

    def fall(self, s: int) -> Steps[int]:
        if s in self.accidents:
            yield f"to {self.accidents[s]}", self.accidents[s]

    def unfinished(self, s: int) -> Broken | None:
        return Broken(Promise.NO_DEADLOCK, f"stands at {s}") if s != self.goal else None


class DeadEnd(Walk):
    ways = {0: (1, 3), 1: (2,)}


class Circle(Walk):
    ways = {0: (1, 3), 1: (2,), 2: (1,)}


class SavedByAFault(Walk):
    ways = {0: (1,)}
    accidents = {1: 3}


class EndsInACircleButForAFault(Walk):
    ways = {0: (0,)}
    accidents = {0: 3}


class Endless(Walk):
    def walk(self, s: int) -> Iterator[tuple[str, int]]:
        yield "on", s + 1


class Stumbles(Walk):
    def walk(self, s: int) -> Iterator[tuple[str, int]]:
        assert s < 2, "stumbled"
        yield f"to {s + 1}", s + 1


@pytest.mark.parametrize(
    ("model", "why", "trace"),
    [
        (DeadEnd, "stands at 2", ("walk: to 1", "walk: to 2")),
        (
            Circle,
            "steps go on for ever and none leads to an end",
            ("walk: to 1", "walk: to 2", "walk: to 1", "... and so on: it has been here before"),
        ),
        (SavedByAFault, "stands at 1", ("walk: to 1",)),
        (
            EndsInACircleButForAFault,
            "steps go on for ever and none leads to an end",
            ("walk: to 0", "... and so on: it has been here before"),
        ),
    ],
)
def test_work_that_cannot_end_by_itself_is_found(
    model: type[Walk], why: str, trace: tuple[str, ...]
) -> None:
    with pytest.raises(Violation) as violation:
        explore(model())
    assert (violation.value.why, violation.value.trace) == (why, trace)


def test_a_model_without_a_bound_is_refused() -> None:
    with pytest.raises(TooManyStates, match="Endless: more than 50 states"):
        explore(Endless(), limit=50)


def test_an_assertion_inside_a_step_tells_how_it_came_to_it() -> None:
    with pytest.raises(AssertionError, match="stumbled") as error:
        explore(Stumbles())
    assert error.value.__notes__ == ["walk: to 1\nwalk: to 2\nwalk: raised"]
