"""Runs workloads: sides take turns within each round, and the order turns with the rounds."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from tests.benchmarks.bench import Bench
from tests.benchmarks.machine import Meter, Usage
from tests.benchmarks.workload import Row, Side, Turn, Workload

SATURATED = 0.90  # of the load's core: from here on the load may be what is measured
DISTURBED = 0.10  # of the server's core, by others


@dataclass
class Outcome:
    rows: list[Row]
    per_cpu: list[Row]  # throughputs per second of the server's processor time: bears disturbance
    usages: dict[str, Usage]  # by side, the median of each share
    notes: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)  # medians

    def warnings(self) -> list[str]:
        """What makes the figures worth less."""
        found = list(dict.fromkeys(self.notes))
        for side, usage in self.usages.items():
            if usage.load_core >= SATURATED:
                found.append(
                    f"{side}: the load's core was {usage.load_core:.0%} busy (generator"
                    f" {usage.generator:.0%}): this side could be faster than measured"
                )
            if usage.others >= DISTURBED:
                found.append(f"{side}: others used {usage.others:.0%} of the server's core")
        return found


def run(
    workload: Workload,
    bench: Bench,
    *,
    db: str,
    rounds: int,
    quick: bool,
    profiles: Path | None = None,
    told: Callable[[str], Any] = lambda text: None,
) -> Outcome:
    """``profiles`` is a directory for py-spy's stacks of ours, one file for each turn. Raises
    AssertionError when something was not delivered as it should be."""
    samples: dict[str, list[dict[str, float]]] = {side.name: [] for side in workload.sides}
    usages: dict[str, list[Usage]] = {side.name: [] for side in workload.sides}
    per_cpu: dict[str, list[dict[str, float]]] = {side.name: [] for side in workload.sides}
    notes: list[str] = []
    facts: dict[str, list[float]] = {}
    with ExitStack() as stack:
        servers = {
            side.name: stack.enter_context(bench.serving(side, db))
            for side in workload.sides
            if not workload.fresh
        }
        for number in range(math.ceil(rounds / workload.own_rounds)):
            order = list(workload.sides)
            for side in order if number % 2 == 0 else reversed(order):
                with ExitStack() as own:
                    server = servers.get(side.name) or own.enter_context(
                        workload.server(bench, side, db)
                    )
                    profile = None
                    if profiles is not None and side.role == "ours":
                        profile = profiles / f"{workload.name}-{bench.server}-{db}-{number}.txt"
                    turn = Turn(
                        side=side,
                        url=server.ws(side.path) if server is not None else "",
                        quick=quick,
                        meter=Meter(server.pid if server is not None else None, profile),
                        server=server,
                        notes=notes,
                        facts=facts,
                        vendor=db,
                        bench=bench,
                        told=told,
                    )
                    try:
                        sample = _take(workload, turn)
                    except Exception:
                        if server is not None:
                            print(server.log_tail(), file=sys.stderr)
                        raise
                samples[side.name].append(sample)
                usage = turn.meter.usage
                if usage is not None:
                    usages[side.name].append(usage)
                    per_cpu[side.name].append(
                        {name: value / max(usage.server, 0.001) for name, value in sample.items()}
                    )
                told(_progress(workload, number, side, sample, usage))
    rows = workload.rows(samples, bench.server, db)
    return Outcome(
        rows,
        [row for row in workload.rows(per_cpu, bench.server, db) if row.unit.endswith("/s")]
        if all(per_cpu.values())
        else [],
        {side: _middle(taken) for side, taken in usages.items() if taken},
        notes,
        {name: median(values) for name, values in facts.items()},
    )


def _take(workload: Workload, turn: Turn) -> dict[str, float]:
    async def bounded() -> dict[str, float]:
        async with asyncio.timeout(workload.deadline):
            return await workload.turn(turn)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


def _middle(taken: list[Usage]) -> Usage:
    names = ("seconds", "server", "generator", "load_core", "others")
    return Usage(**{name: median(getattr(one, name) for one in taken) for name in names})


def _progress(
    workload: Workload, number: int, side: Side, sample: dict[str, float], usage: Usage | None
) -> str:
    values = ", ".join(
        f"{name + ' ' if name else ''}{value:,.4g} {workload.measures[name].unit}"
        for name, value in sample.items()
    )
    cpu = f" (server {usage.server:.0%}, generator {usage.generator:.0%})" if usage else ""
    return f"{workload.name} round {number + 1} {side.name}: {values}{cpu}"
