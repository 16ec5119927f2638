"""Try every order in which a few small processes can take their steps.

A :class:`Model` has one immutable, hashable state and some processes. A process is a function from
the state to the steps it could take now: ``(words, state afterwards)``. No step means that it waits
or is done; several mean that the world decides (a commit succeeds or fails, a frame arrives or is
lost). A step is atomic: whatever lies between two steps of one process, the others may do.

:func:`explore` visits every state that can be reached, breadth first, and raises :class:`Violation`
with the shortest way there when

* a state breaks a promise (``Model.broken``),
* nobody can take a step and work is left (``Model.unfinished``), or
* a state is trapped: steps are possible for ever, but none leads to an end.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)

Steps = Iterator[tuple[str, S]]
Process = Callable[[S], Iterable[tuple[str, S]]]


class Promise(enum.Enum):
    """What a model can break. G1, G2, G4, G5 and G8 are those of ``docs/guarantees.md``."""

    G1 = "G1: accepted messages arrive once and in order, or a gap is told"
    G2 = "G2: what was acknowledged was handled and its effect is kept, once"
    G4 = "G4: a connection that lost its session writes nothing more"
    G5 = "G5: who left is told once for each absence, and who came back"
    G8 = "G8: every queue has a bound, and bad input costs only its sender"
    NO_DEADLOCK = "no deadlock: work that is left can go on"
    FAILS_ALONE = "one entry that fails or waits takes no other with it"
    KEPT_ALIVE = "a client that answers in time is not declared dead"


class Broken(NamedTuple):
    promise: Promise
    why: str


class Model(Generic[S]):
    """A system small enough to be explored wholly."""

    def start(self) -> S:
        """Return the state in which everything begins."""
        raise NotImplementedError

    def processes(self) -> tuple[Process[S], ...]:
        """Return the processes; the name of each function stands in the trace."""
        raise NotImplementedError

    def faults(self) -> tuple[Process[S], ...]:
        """Return what may happen but need not, as a crash: nothing may depend on it."""
        return ()

    def broken(self, state: S) -> Broken | None:
        """Say which promise this state breaks: asked in every state."""
        return None

    def unfinished(self, state: S) -> Broken | None:
        """Say which work is left: asked where no process can take a step, but for faults."""
        return None


@dataclass(frozen=True)
class Report:
    """How much was explored; a model that became empty shows here."""

    states: int
    steps: int
    ends: int


class Violation(AssertionError):
    """A promise is broken; ``trace`` is the shortest way there, one step a line."""

    def __init__(self, broken: Broken, trace: tuple[str, ...]) -> None:
        lines = (f"{number:>4}. {line}" for number, line in enumerate(trace, 1))
        super().__init__("\n".join([broken.promise.value, f"  broken: {broken.why}", *lines]))
        self.promise = broken.promise
        self.why = broken.why
        self.trace = trace


class TooManyStates(Exception):
    """The model does not end within ``limit`` states: something in it counts without a bound."""


def explore(model: Model[S], *, limit: int = 500_000) -> Report:
    """Visit every state of ``model``; return how many there were.

    Raises :class:`Violation` at the first broken promise, :class:`TooManyStates` past ``limit``
    states.
    """
    start = model.start()
    came_by: dict[S, tuple[S, str] | None] = {start: None}
    came_from: dict[S, list[S]] = {}  # by steps of processes, not by faults
    ends: list[S] = []
    steps = 0
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        _raise_if(model.broken(state), state, came_by)
        stuck = True
        by_itself = [(process, True) for process in model.processes()]
        by_chance = [(process, False) for process in model.faults()]
        for process, counts in by_itself + by_chance:
            for words, after in _steps(process, state, came_by):
                steps += 1
                if counts:
                    stuck = False
                    came_from.setdefault(after, []).append(state)
                if after not in came_by:
                    if len(came_by) >= limit:
                        raise TooManyStates(f"{type(model).__name__}: more than {limit} states")
                    came_by[after] = (state, f"{_name(process)}: {words}")
                    waiting.append(after)
        if stuck:
            _raise_if(model.unfinished(state), state, came_by)
            ends.append(state)
    _raise_if_trapped(model, came_by, came_from, ends)
    return Report(states=len(came_by), steps=steps, ends=len(ends))


def _steps(process: Process[S], state: S, came_by: dict[S, tuple[S, str] | None]) -> Steps[S]:
    try:
        yield from process(state)
    except Exception as error:  # an assertion of the code under test: tell how it came to it
        error.add_note("\n".join([*_trace(state, came_by), f"{_name(process)}: raised"]))
        raise


def _raise_if(broken: Broken | None, state: S, came_by: dict[S, tuple[S, str] | None]) -> None:
    if broken is not None:
        raise Violation(broken, _trace(state, came_by))


def _raise_if_trapped(
    model: Model[S],
    came_by: dict[S, tuple[S, str] | None],
    came_from: dict[S, list[S]],
    ends: list[S],
) -> None:
    """Walk back from the ends: a state that is not met comes to none by itself (a livelock)."""
    can_end = set(ends)
    waiting = deque(ends)
    while waiting:
        for before in came_from.get(waiting.popleft(), ()):
            if before not in can_end:
                can_end.add(before)
                waiting.append(before)
    for state in came_by:  # in the order of discovery: the first is the nearest
        if state not in can_end:
            why = "steps go on for ever and none leads to an end"
            lines = (*_trace(state, came_by), *_circle(model, state))
            raise Violation(Broken(Promise.NO_DEADLOCK, why), lines)


def _circle(model: Model[S], state: S) -> Iterator[str]:
    """Walk on from a state that comes to no end, until a state comes again."""
    seen = set()
    while state not in seen:
        seen.add(state)
        found = [(p, words, after) for p in model.processes() for words, after in p(state)]
        process, words, state = next((f for f in found if f[2] != state), found[0])
        yield f"{_name(process)}: {words}"
    yield "... and so on: it has been here before"


def _trace(state: S, came_by: dict[S, tuple[S, str] | None]) -> tuple[str, ...]:
    lines = []
    while (step := came_by[state]) is not None:
        state, words = step
        lines.append(words)
    return tuple(reversed(lines))


def _name(process: Process[S]) -> str:
    return getattr(process, "__name__", repr(process)).replace("_", " ")
