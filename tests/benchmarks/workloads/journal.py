"""Rows a second into the journal, without connections."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tests.benchmarks.machine import Usage
from tests.benchmarks.workload import Measure, Side, Turn, Workload


class Journal(Workload):
    name = "journal"
    about = "rows/s through the writer; beside a row with each await …acreate()"
    sides = (
        Side("ours", "journal_rows"),
        Side("rival", "journal_rows"),
        Side("limit", "journal_rows"),  # bulk_create of a thousand
    )
    measures = {"": Measure("rows/s")}
    fresh = True

    def server(self, bench: Any, side: Side, db: str) -> AbstractContextManager[Any]:
        return nullcontext()

    async def turn(self, turn: Turn) -> dict[str, float]:
        seconds = 1.5 if turn.quick else 5.0
        with turn.bench.script(turn.side, turn.vendor, turn.side.role, str(seconds)) as child:
            status = await asyncio.to_thread(child.wait, 60 + seconds)
            assert status == 0, child.log_tail()
            told = json.loads(child.log().splitlines()[-1])
        assert told["found"] == told["rows"], told
        assert told["holes"] == 0, told
        share = told["cpu"] / told["seconds"]
        turn.meter.usage = Usage(told["seconds"], share, 0.0, 0.0, 0.0)
        return {"": told["rows"] / told["seconds"]}
