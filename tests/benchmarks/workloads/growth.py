"""A resume beside a journal that grows: its queries must find their rows by an index."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tests.benchmarks.workload import Measure, Medians, Side, Turn, Workload

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)  # rows


class ResumeGrowth(Workload):
    name = "resume-growth"
    about = "the queries of a resume beside journals of 10^5 to 10^7 rows, and of 10^4"
    sides = (Side("ours", "resume_rows"),)
    measures = {
        f"{part}.{size}": Measure("µs", False) for part in ("attach", "pages") for size in SIZES
    }
    db = "postgres"
    fresh = True
    deadline = 900.0
    own_rounds = 5  # filling takes minutes

    def server(self, bench: Any, side: Side, db: str) -> AbstractContextManager[Any]:
        return nullcontext()

    async def turn(self, turn: Turn) -> dict[str, float]:
        sizes = [str(size) for size in (SIZES[:-1] if turn.quick else SIZES)]
        with turn.bench.script(turn.side, turn.vendor, str(self.own_rounds), *sizes) as child:
            status = await asyncio.to_thread(child.wait, self.deadline - 10)
            assert status == 0, child.log_tail()
            told = json.loads(child.log().splitlines()[-1])
        for plan in told["plans"]:
            turn.told(plan.replace("\n", "\n      "))
        for one in told["measured"]:
            for name, value in (
                (f"{one['rows']:,} rows, µs of this side's processor", one["cpu"]),
                (f"{one['rows']:,} rows, seconds to fill", one["filled_in"]),
            ):
                turn.facts.setdefault(name, []).append(value)
        return {
            f"{part}.{one['rows']}": one[part]
            for part in ("attach", "pages")
            for one in told["measured"]
        }

    def pairs(self, medians: Medians) -> list[tuple[str, str, float, float | None, float | None]]:
        """The rival of a large journal is a small one."""
        found: list[tuple[str, str, float, float | None, float | None]] = []
        for measure, value in medians["ours"].items():
            part, size = measure.split(".")
            if int(size) != SIZES[0]:
                least = medians["ours"][f"{part}.{SIZES[0]}"]
                found.append((f"{self.name}.{measure}", measure, value, least, None))
        return found
