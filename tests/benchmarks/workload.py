"""What a workload is: sides that take turns, measures, and rows made of their medians."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from tests.benchmarks.machine import Meter

Role = Literal["ours", "rival", "limit"]


@dataclass(frozen=True)
class Side:
    """One of those that are compared: an application, on a server of its own."""

    role: Role
    application: str  # module of this package
    path: str = "/"
    bare: bool = False  # Channels alone: graceful_ws is not installed
    graceful: bool = False  # the clients are sessions
    layer: str | None = None  # "core" or "pubsub" of channels_redis
    picows: bool = False  # the application is a server itself
    variant: str = ""  # tells rivals apart
    settings: Mapping[str, Any] = field(default_factory=dict)  # of GRACEFUL_WS
    counted: bool = False  # the server counts its SQL statements

    @property
    def name(self) -> str:
        return f"{self.role}-{self.variant}" if self.variant else self.role


OURS, RIVAL, RAW = "ours", "rival", "raw"


@dataclass(frozen=True)
class Measure:
    unit: str
    more_is_better: bool = True


@dataclass
class Turn:
    """One side's turn in one round."""

    side: Side
    url: str  # of the side's path
    quick: bool
    meter: Meter
    server: Any  # the process: its pid leads the group
    notes: list[str]  # what makes the figures worth less: what a rival lost, for example
    facts: dict[str, list[float]]  # further figures, one of each round
    vendor: str = "sqlite"
    bench: Any = None
    told: Callable[[str], Any] = lambda text: None  # for whoever wants to read more


@dataclass(frozen=True)
class Row:
    workload: str
    server: str
    db: str
    ours: float
    rival: float | None
    ratio: float | None  # more than 1: ours is better
    limit: float | None
    unit: str
    rounds: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Medians = Mapping[str, Mapping[str, float]]  # side's name: measure: median


class Workload:
    """To override: the attributes and ``turn``."""

    name: ClassVar[str]
    about: ClassVar[str]
    sides: ClassVar[Sequence[Side]]
    measures: ClassVar[Mapping[str, Measure]]  # "" where there is only one
    db: ClassVar[str] = "sqlite"  # unless --db says otherwise
    fresh: ClassVar[bool] = False  # a new server for each turn
    deadline: ClassVar[float] = 120.0  # seconds for one turn
    own_rounds: ClassVar[int] = 1  # that a turn takes itself, where preparing one is long

    async def turn(self, turn: Turn) -> dict[str, float]:
        """Runs the load once and returns the measures. Raises AssertionError when what arrived is
        not what was sent."""
        raise NotImplementedError

    def server(self, bench: Any, side: Side, db: str) -> AbstractContextManager[Any]:
        """The server of one turn, where each has a new one. None: the workload needs none."""
        found: AbstractContextManager[Any] = bench.serving(side, db)
        return found

    def pairs(self, medians: Medians) -> list[tuple[str, str, float, float | None, float | None]]:
        """The rows as (name, measure, ours, rival, limit)."""
        ours = medians["ours"]
        limit = medians.get("limit", {})
        rivals = [side for side in self.sides if side.role == "rival"]
        found = []
        for measure in ours:
            for rival in rivals:
                name = ".".join(part for part in (self.name, measure, rival.variant) if part)
                of_rival = medians[rival.name].get(measure)
                found.append((name, measure, ours[measure], of_rival, limit.get(measure)))
        return found

    def rows(
        self, samples: Mapping[str, Sequence[Mapping[str, float]]], server: str, db: str
    ) -> list[Row]:
        """Medians of what each side's turns gave, side by side."""
        medians = {
            side: {name: median(one[name] for one in taken) for name in taken[0]}
            for side, taken in samples.items()
        }
        rounds = min(len(taken) for taken in samples.values()) * self.own_rounds
        return [
            Row(
                name,
                server,
                db,
                ours,
                rival,
                _ratio(ours, rival, self.measures[measure]),
                limit,
                self.measures[measure].unit,
                rounds,
            )
            for name, measure, ours, rival, limit in self.pairs(medians)
        ]


def _ratio(ours: float, rival: float | None, measure: Measure) -> float | None:
    if not rival or not ours:
        return None
    return ours / rival if measure.more_is_better else rival / ours
