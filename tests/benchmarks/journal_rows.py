"""Writes rows of the journal for some seconds and says how many: a process of its own.

``python -m tests.benchmarks.journal_rows ours|rival|limit SECONDS`` prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid

import django

django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from graceful_ws.models import OutboundMessage  # noqa: E402
from graceful_ws.node.journal import Journal  # noqa: E402
from graceful_ws.store.attach import Attach, Attached, Identity  # noqa: E402
from graceful_ws.store.base import prepare  # noqa: E402
from graceful_ws.store.entries import Append  # noqa: E402

SESSIONS = 50
WINDOW = 8  # messages of a session that wait for their commit
BATCH = 1000  # rows of one transaction: as many as a round of the journal takes
DATA = '{"n":123456,"text":"%s"}' % ("x" * 32)


def row(session: int, seq: int) -> OutboundMessage:
    return OutboundMessage(session_id=session, seq=seq, data=DATA, created_at=timezone.now())


async def ours(seconds: float) -> int:
    """Through the writer: what awaiting coroutines of many sessions get."""
    journal = Journal()
    running = asyncio.create_task(journal.run())
    await journal.threads.run(prepare)
    sessions = [
        await journal.attach(
            Attach(uuid.uuid4(), "benchmark", Identity(), uuid.uuid4().hex, 1), lambda: True
        )
        for _ in range(SESSIONS)
    ]
    end = time.perf_counter() + seconds
    written = 0

    async def write(session: Attached) -> None:
        nonlocal written
        while time.perf_counter() < end:
            await journal.write(Append(session.session, session.generation, (DATA,)))
            written += 1

    await asyncio.gather(*(write(one) for one in sessions for _ in range(WINDOW)))
    running.cancel()
    await asyncio.wait([running])
    await journal.stop()
    return written


async def rival(seconds: float) -> int:
    """A row with each message, as a handler would write it: ``await …acreate()``."""
    end = time.perf_counter() + seconds
    written = 0

    async def write(session: int) -> None:
        nonlocal written
        seq = 0
        while time.perf_counter() < end:
            seq += 1
            await OutboundMessage.objects.acreate(
                session_id=session, seq=seq, data=DATA, created_at=timezone.now()
            )
            written += 1

    await asyncio.gather(*(write(session) for session in range(SESSIONS)))
    return written


def limit(seconds: float) -> int:
    """Nothing but the inserts, in large transactions."""
    end = time.perf_counter() + seconds
    written = 0
    while time.perf_counter() < end:
        with transaction.atomic():
            OutboundMessage.objects.bulk_create(row(1, written + n + 1) for n in range(BATCH))
        written += BATCH
    return written


def holes() -> int:
    """Sessions whose numbers are not 1, 2, 3, …"""
    seqs: dict[int, list[int | None]] = {}
    rows = OutboundMessage.objects.order_by("session_id", "seq")
    for session, seq in rows.values_list("session_id", "seq").iterator():
        seqs.setdefault(session, []).append(seq)
    return sum(found != list(range(1, len(found) + 1)) for found in seqs.values())


async def main(kind: str, seconds: float) -> None:
    await sync_to_async(prepare)()
    cpu, start = time.process_time(), time.perf_counter()
    if kind == "limit":
        written = await sync_to_async(limit)(seconds)
    else:
        written = await (ours if kind == "ours" else rival)(seconds)
    elapsed = time.perf_counter() - start
    told = {
        "rows": written,
        "seconds": elapsed,
        "cpu": time.process_time() - cpu,
        "found": await OutboundMessage.objects.acount(),
        "holes": await sync_to_async(holes)(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
