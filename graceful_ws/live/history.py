"""The last hour as the charts draw it: samples, which count from each node's start, become what
happened in steps of time. static/graceful_ws/live-history.js goes on where this ends.

Pure: times are UNIX milliseconds, figures those of ``node/sampler.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

SPAN = 3600  # seconds that are shown
STEP = 15  # seconds; samples that are further apart make longer steps
NAMES = 7  # nodes with a series of their own
OTHERS = "others"
HOLD = 2  # steps for which a node that says nothing is taken to have the connections it had

Figures = Mapping[str, Any]


class History:
    """Counts by step. Nodes go by their name, so that one that starts again goes on."""

    def __init__(self, now: float, *, step: int = STEP * 1000, span: int = SPAN * 1000) -> None:
        self.step = step
        self.count = max(1, span // step)
        self.start = (int(now) // step + 1 - self.count) * step
        self._before: dict[Any, tuple[float, Figures]] = {}  # the last sample of each node
        self._names: dict[Any, str] = {}
        self._connections: dict[Any, list[int | None]] = {}
        self._came: dict[str, list[float]] = defaultdict(self._zeros)
        self._sent: dict[str, list[float]] = defaultdict(self._zeros)
        self._resumes: dict[str, list[float]] = defaultdict(self._zeros)
        self._closes: dict[str, list[float]] = defaultdict(self._zeros)
        self._bounds: list[float] = []
        self._rtt: list[list[int] | None] = [None] * self.count

    def _zeros(self) -> list[float]:
        return [0.0] * self.count

    def add(self, node: Any, name: str, at: float, figures: Figures) -> None:
        """A sample of a node; in the order of their times."""
        stats = figures["stats"]
        step = self._step_of(at)
        before = self._before.get(node) or self._beginning(figures, at)
        self._before[node] = at, figures
        self._names[node] = name
        row = self._connections.setdefault(node, [None] * self.count)
        if before is not None:
            self._between(row, before[0], before[1]["connections"], at, figures["connections"])
        if 0 <= step < self.count:
            row[step] = figures["connections"]
        if before is None:
            return
        since, earlier = before[0], before[1]["stats"]
        for into, counter in ((self._came, "messages_in"), (self._sent, "messages_out")):
            self._spread(into[name], since, at, stats[counter] - earlier[counter])
        if not 0 <= step < self.count:
            return
        counted = {(result, cause): number for result, cause, number in earlier["hellos"]}
        for result, cause, number in stats["hellos"]:
            if result != "new":
                self._resumes[result][step] += number - counted.get((result, cause), 0)
        for code, number in stats["closes"].items():
            self._closes[code][step] += number - earlier["closes"].get(code, 0)
        self._add_rtt(step, stats["rtt"], earlier["rtt"])

    def _beginning(self, figures: Figures, at: float) -> tuple[float, Figures] | None:
        """What a node that has begun within the hour had then: nothing. None if it counts from
        longer ago, which is nobody's step."""
        since = figures.get("since")
        if since is None or not self.start <= since <= at:
            return None
        rtt = {"counts": [0] * len(figures["stats"]["rtt"]["counts"])}
        nothing = {"messages_in": 0, "messages_out": 0, "hellos": [], "closes": {}, "rtt": rtt}
        return since, {"connections": 0, "stats": nothing}

    def _between(
        self, row: list[int | None], since: float, first: int, at: float, last: int
    ) -> None:
        """What a node had at the ends of the steps between two samples. Nodes are not sampled at
        the same time: clients who move would be counted twice, or not at all, for a step."""
        if at - since > (HOLD + 1) * self.step:
            return  # nobody knows
        for step in range(max(0, self._step_of(since)), min(self.count, self._step_of(at))):
            part = (self.start + (step + 1) * self.step - since) / (at - since)
            row[step] = round(first + (last - first) * part)

    def _add_rtt(self, step: int, now: Figures, earlier: Figures) -> None:
        self._bounds = list(now["bounds"])
        new = [a - b for a, b in zip(now["counts"], earlier["counts"], strict=True)]
        if any(new):
            known = self._rtt[step] or [0] * len(new)
            self._rtt[step] = [a + b for a, b in zip(known, new, strict=True)]

    def end(self, node: Any, at: float) -> None:
        """The node was there until then: at the end of that step it has no connections, and its
        clients are counted elsewhere."""
        row = self._connections.get(node)
        step = max(0, self._step_of(at))
        if row is not None and step < self.count:
            row[step:] = [0] * (self.count - step)

    def _step_of(self, at: float) -> int:
        return int((at - self.start) // self.step)

    def _spread(self, into: list[float], since: float, at: float, number: float) -> None:
        """``number`` happened at some time between two moments: evenly, for want of a better word.
        Samples never meet the steps, which would show as a saw."""
        if not number or at <= since:
            return
        for step in range(max(0, self._step_of(since)), min(self.count - 1, self._step_of(at)) + 1):
            begin = self.start + step * self.step
            part = min(at, begin + self.step) - max(since, begin)
            into[step] += number * max(0.0, part) / (at - since)

    def _held(self, row: list[int | None]) -> list[int | None]:
        held: list[int | None] = []
        last: tuple[int | None, int] = None, -1
        for step, value in enumerate(row):
            if value is not None:
                last = value, step
            held.append(last[0] if step - last[1] <= HOLD else None)
        return held

    def as_dict(self) -> dict[str, Any]:
        """As JSON can carry it: lists of ``count`` values, each of one step from ``start`` on."""
        connections: dict[str, list[int | None]] = {}
        for node, row in self._connections.items():
            name, held = self._names[node], self._held(row)
            known = connections.get(name)
            connections[name] = held if known is None else _sum(known, held)
        most = sorted(connections, key=lambda name: -max(v or 0 for v in connections[name]))
        shown = set(most[:NAMES])
        nodes: dict[str, dict[str, list[Any]]] = {}
        for name in sorted(connections, key=lambda name: (name not in shown, name)):
            series: dict[str, list[Any]] = {
                "connections": connections[name],
                "in": [round(each, 2) for each in self._came[name]],
                "out": [round(each, 2) for each in self._sent[name]],
            }
            key = name if name in shown else OTHERS
            others = nodes.get(key)
            nodes[key] = series if others is None else _sums(others, series)
        return {
            "start": self.start,
            "step": self.step,
            "count": self.count,
            "hold": HOLD,
            "most": NAMES,
            "nodes": nodes,
            "resumes": dict(self._resumes),
            "closes": dict(self._closes),
            "rtt": {"bounds": self._bounds, "counts": self._rtt},
        }


def _sum(one: list[Any], other: list[Any]) -> list[Any]:
    return [
        None if a is None and b is None else (a or 0) + (b or 0)
        for a, b in zip(one, other, strict=True)
    ]


def _sums(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: _sum(one[key], other[key]) for key in one}


def build(
    samples: Iterable[tuple[Any, str, float, Figures]],
    now: float,
    step: int,
    ends: Mapping[Any, float] = MappingProxyType({}),
) -> History:
    """From (node, name, when, figures), the oldest first; ``step`` in seconds; ``ends``: until when
    nodes were there that are no more."""
    history = History(now, step=step * 1000)
    for sample in samples:
        history.add(*sample)
    for node, at in ends.items():
        history.end(node, at)
    return history
