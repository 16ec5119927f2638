"""What the queries of a resume cost beside journals of more and more rows: a process of its own.

``python -m tests.benchmarks.resume_rows ROUNDS ROWS…`` fills the journals to each number of rows in
turn, half of them messages of streams and half of sessions, and prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import Any

import django

django.setup()

from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from graceful_ws.models import OutboundMessage, Stream, StreamMessage  # noqa: E402
from graceful_ws.store import nodes, rounds, streams  # noqa: E402
from graceful_ws.store.attach import Attach, Attached, Identity, attach  # noqa: E402
from graceful_ws.store.base import prepare  # noqa: E402
from graceful_ws.store.entries import Append, Complete  # noqa: E402
from graceful_ws.store.following import Subscribe  # noqa: E402

SESSIONS = 50  # that resume in turn
FOLLOWED = 3  # streams of each
MISSED = 50  # messages of each stream and of its own
OUTCOMES = 5  # of its own last messages that it asks for
PAGE = 256  # rows: the send window
RESUMES = 200  # in a round
OF_ONE = 1000  # rows of one stream, and of one session
CHUNK = 500_000  # rows of one INSERT
FIRST_SESSION = 1_000_000  # of those that do not resume

JOURNALS = "graceful_ws_(outboundmessage|streammessage|inboundresult)"
# The index of what waits for its number holds next to nothing, and may be read from end to end.
SCANS = re.compile(rf"(Seq Scan on|^SCAN) {JOURNALS}\b(?! .*USING INDEX \w+_pending)", re.MULTILINE)
TABLE_STATEMENTS = ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")

SERIES = {
    "postgresql": "SELECT n::bigint FROM generate_series({first}, {last}) AS n",
    "sqlite": "WITH RECURSIVE t(n) AS"
    " (SELECT {first} UNION ALL SELECT n + 1 FROM t WHERE n < {last}) SELECT n FROM t",
}
UUIDS = {"postgresql": "lpad(to_hex(n), 32, '0')::uuid", "sqlite": "printf('%032x', n)"}
DATA = """'{"n":' || n || ',"text":"xxxxxxxxxxxxxxxx"}'"""


@dataclass
class Measured:
    """µs for each resume, medians of the rounds; seconds to fill."""

    rows: int
    attach: float  # with its commit
    pages: float
    cpu: float  # of this process, so without PostgreSQL's
    filled_in: float


# --- journals -----------------------------------------------------------------------------------


def fill(first: int, last: int) -> float:
    """Adds rows ``first`` to ``last`` - 1, half of them to each journal."""
    start = time.perf_counter()
    vendor = connection.vendor
    now = f"'{timezone.now():%Y-%m-%d %H:%M:%S}'"
    inserts = (
        f"INSERT INTO {OutboundMessage._meta.db_table} (session_id, seq, data, created_at)"
        f" SELECT {FIRST_SESSION} + n / {OF_ONE}, n % {OF_ONE} + 1, {DATA}, {now}",
        f"INSERT INTO {StreamMessage._meta.db_table} (uuid, stream, seq, data, created_at)"
        f" SELECT {UUIDS[vendor]}, 'stream ' || (n / {OF_ONE}), n % {OF_ONE} + 1, {DATA}, {now}",
    )
    with _quick() as execute:
        for insert in inserts:
            for chunk in range(first // 2, last // 2, CHUNK):
                to = min(chunk + CHUNK, last // 2) - 1
                series = SERIES[vendor].format(first=chunk, last=to)
                execute(f"{insert} FROM ({series}) AS series")
    if vendor == "postgresql":  # as autovacuum would, some time
        with connection.cursor() as cursor:
            for model in (OutboundMessage, StreamMessage):
                cursor.execute(f"VACUUM ANALYZE {model._meta.db_table}")
            cursor.execute("CHECKPOINT")
    return time.perf_counter() - start


@contextmanager
def _quick() -> Iterator[Any]:
    """A connection that does not care for a crash."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")
            yield cursor.execute
            cursor.execute("RESET synchronous_commit")
        return
    path = str(connection.settings_dict["NAME"])
    sqlite = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        for pragma in ("synchronous = OFF", "cache_size = -400000"):
            sqlite.execute(f"PRAGMA {pragma}")
        yield sqlite.execute
        sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        sqlite.close()


# --- sessions -----------------------------------------------------------------------------------


@dataclass
class Away:
    """A session that resumes again and again."""

    hello: dict[str, Any]
    streams: list[str]
    attempt: int = 1

    def resume(self) -> float:
        """What a resume asks of the database: the attach, and a page of each sequence. Returns when
        the latter began."""
        self.attempt += 1
        [attached] = attach([Attach(**self.hello, attempt=self.attempt)])
        assert isinstance(attached, Attached), attached
        assert attached.resumed
        assert len(attached.subscriptions) == FOLLOWED, attached.subscriptions
        assert len(attached.outcomes) == OUTCOMES, attached.outcomes
        attached_at = time.perf_counter()
        pages = [rounds.page(attached.session, attached.position, PAGE)]
        pages += [streams.page(one.stream, OF_ONE - MISSED, PAGE) for one in attached.subscriptions]
        for page in pages:
            seqs = [seq for seq, _ in page]
            assert len(seqs) == MISSED, seqs
            assert seqs == list(range(seqs[0], seqs[0] + MISSED)), seqs
        return attached_at


def sessions(rows: int) -> list[Away]:
    """They follow streams from anywhere in the journal, and have messages of their own."""
    node = nodes.register(nodes.Identity("benchmark", "host", 1, "none", "0"))
    names = [f"stream {n}" for n in range(rows // 2 // OF_ONE)]
    made = []
    for _ in range(SESSIONS):
        followed = random.sample(names, FOLLOWED)
        streams.create(followed)
        hashes = [streams.hash_name(name) for name in followed]
        Stream.objects.filter(name_hash__in=hashes).update(head=OF_ONE)
        identity: dict[str, Any] = {
            "node": node,
            "consumer": "benchmark",
            "identity": Identity(),
            "instance": secrets.token_hex(8),
        }
        [attached] = attach([Attach(**identity, attempt=1)])
        who = (attached.session, attached.generation)
        entries = [Append(*who, [f'{{"n":{n}}}']) for n in range(MISSED)]
        completed = [Complete(*who, n, '{"result":1}') for n in range(1, OUTCOMES + 1)]
        tips = [Subscribe(*who, stream=name) for name in followed]
        for outcome in rounds.commit([*entries, *completed, *tips]):
            assert not isinstance(outcome, BaseException), outcome
        epochs = {name: tip.epoch for name, tip in streams.tips(followed).items()}
        hello = identity | {
            "token": attached.token,
            "last_seq_id": 0,
            "pending_from": 1,
            "positions": {name: (epochs[name], OF_ONE - MISSED) for name in followed},
        }
        made.append(Away(hello, followed))
    return made


# --- measuring ----------------------------------------------------------------------------------


def round_of(away: list[Away]) -> tuple[float, float, float]:
    """µs for each resume: of its attach, of its pages, and of the processor."""
    cpu, start = time.process_time(), time.perf_counter()
    pages = 0.0
    for n in range(RESUMES):
        attached_at = away[n % len(away)].resume()
        pages += time.perf_counter() - attached_at
    elapsed = time.perf_counter() - start
    found = elapsed - pages, pages, time.process_time() - cpu
    attaching, pages, cpu = (seconds / RESUMES * 1e6 for seconds in found)
    return attaching, pages, cpu


def plans(one: Away) -> list[str]:
    """How the database runs each statement of a resume."""
    found: dict[str, str] = {}
    prefix = "EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN "

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        given = iter(params[0] if many else params or ())
        for part in sql.split(";\n"):  # several go to PostgreSQL in one message
            mine = list(islice(given, part.count("%s"))) if ";\n" in sql else list(given)
            if part.startswith(TABLE_STATEMENTS) and part not in found:
                found[part] = ""  # lest it comes here again
                with connection.cursor() as cursor:
                    cursor.execute(prefix + part, mine)
                    found[part] = "\n".join(str(line[-1]) for line in cursor.fetchall())
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        one.resume()
    return [f"{sql}\n{plan}" for sql, plan in found.items() if plan]


def main(count: int, sizes: list[int]) -> None:
    prepare()
    measured, explained = [], []
    before = 0
    for rows in sizes:
        filled_in = fill(before, rows)
        before = rows
        connection.close()
        away = sessions(rows)
        round_of(away)
        taken = [round_of(away) for _ in range(count)]
        attaching, pages, cpu = (median(values) for values in zip(*taken, strict=True))
        measured.append(Measured(rows, attaching, pages, cpu, filled_in))
        explained = plans(away[0])
        scans = [plan for plan in explained if SCANS.search(plan)]
        assert not scans, f"beside {rows} rows a journal is read from end to end:\n" + scans[0]
    print(json.dumps({"measured": [asdict(one) for one in measured], "plans": explained}))


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(rows) for rows in sys.argv[2:]])
