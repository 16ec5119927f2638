"""What runs for every connection, page or poll finds its rows by an index, also in large tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from graceful_ws.models import OutboundMessage
from graceful_ws.store import (
    credentials,
    nodes,
    pending,
    presence,
    retention,
    rounds,
    samples,
    streams,
)
from graceful_ws.store.attach import Attached, Identity, attach
from graceful_ws.store.entries import Note, TakePending
from graceful_ws.store.following import Audience, Publish, Subscribe, Unsubscribe
from tests.store.kit import append, attached, complete, explain, hello, node, row
from tests.support.databases import Database

SESSIONS, ROWS = 5_000, 20_000

SERIES = {
    "postgres": "SELECT n FROM generate_series(1, {count}) AS n",
    "sqlite": "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {count})"
    " SELECT n FROM t",
}


LARGE = (
    *("session", "outboundmessage", "streammessage", "inboundresult", "subscription"),
    *("stream", "presence", "auditentry"),
)


def fill(database: Database) -> Attached:
    """Tables of some size, full of what is not due yet; returns one session among the others.

    SQLite plans without statistics, as it does everywhere that nobody ran ANALYZE.
    """
    first = attached(node=node("other"))
    postgres = database.vendor == "postgres"
    sessions, many = (SERIES[database.vendor].format(count=count) for count in (SESSIONS, ROWS))
    random_id = "gen_random_uuid()" if postgres else "lower(hex(randomblob(16)))"
    number_as_bytes = "convert_to(n::text, 'UTF8')" if postgres else "CAST(n AS BLOB)"
    now = f"'{timezone.now():%Y-%m-%d %H:%M:%S}'"
    silent = f"'{timezone.now() - timedelta(hours=1):%Y-%m-%d %H:%M:%S}'"
    copied = (
        "consumer, auth_hash, session_key_hash, instance, attempt, generation, resumable, present,"
        " acked_seq, last_client_seq, tries, started_at, attached_at, seen_at, remote_address,"
        " user_agent, connection_state, close_reason, cause, resumes"
    )
    database.sql(
        "INSERT INTO graceful_ws_session"
        f" (uuid, token_hash, state, node_id, last_seq, left_at, ended_at, {copied})"
        f" SELECT {random_id}, {number_as_bytes},"
        " CASE n % 3 WHEN 0 THEN 'attached' WHEN 1 THEN 'detached' ELSE 'ended' END,"
        " CASE n % 3 WHEN 0 THEN node_id END, n % 10,"
        " CASE WHEN n % 3 > 0 THEN started_at END,"
        f" CASE n % 3 WHEN 2 THEN started_at END, {copied}"
        f" FROM graceful_ws_session, ({sessions}) AS series WHERE id = {first.session}"
    )
    session = f"{first.session} + 1 + n % {SESSIONS}"
    for table, columns, values in (
        ("outboundmessage", "session_id, seq, data, created_at", f"{session}, n, 'x', {now}"),
        ("inboundresult", "session_id, client_seq, outcome", f"{session}, n, 'x'"),
        (
            "streammessage",
            "uuid, stream, seq, data, created_at",
            f"{random_id}, 'stream ' || n % 100, n, 'x', {now}",
        ),
        (
            "subscription",
            "session_id, stream, epoch, from_seq, acked_seq",
            f"{session}, 'stream ' || n, 'e', 1, 1",
        ),
        ("presence", "session_id, stream", f"{session}, 'stream ' || n"),
        (
            "stream",
            "name_hash, name, epoch, head, used_at",
            f"{number_as_bytes}, 'stream ' || n, 'e', 1, {silent}",
        ),
        ("auditentry", "at, node, actor, event, reason", f"{now}, '', '', 'x', ''"),
    ):
        database.sql(
            f"INSERT INTO graceful_ws_{table} ({columns}) SELECT {values} FROM ({many}) AS series"
        )
    if postgres:
        for table in LARGE:
            database.sql(f"VACUUM ANALYZE graceful_ws_{table}")
    return attached(node=node("mine"))


def work(owner: Attached) -> dict[str, Callable[[], Any]]:
    who = (owner.session, owner.generation)
    mine = row(owner).node_id
    assert mine is not None
    return {
        "page": lambda: rounds.page(owner.session, 0, 256),
        "round": lambda: rounds.commit(
            [
                append(owner, "1"),
                complete(owner, 1, "{}", keep=1),
                Note(*who, acked_seq=1, streams={"s": ("e", 1)}),
                TakePending(*who),
            ]
        ),
        "claim": lambda: rounds.claim(*who, 2, ["1"], "{}", 1),
        "standing": lambda: rounds.standing(owner.session, 1),
        "send_to_session": lambda: pending.leave(owner.uuid, "1"),
        "stream page": lambda: streams.page("stream 7", 0, 256),
        "tips": lambda: streams.tips(["stream 7", "stream 8"]),
        "streams waiting": streams.waiting,
        "number": lambda: streams.number("stream 7"),
        "follow": lambda: rounds.commit(
            [
                Subscribe(*who, stream="stream 7", joined="1"),
                Publish(*who, stream="stream 7", data="1"),
                Audience(*who, streams=["stream 8"], joined="1", left="1"),
                Unsubscribe(*who, stream="stream 7", left="1"),
            ]
        ),
        "online": lambda: presence.online("stream 7"),
        "exits": lambda: presence.announce_exits(absences=True),
        "hand_out": lambda: pending.hand_out("user:7"),
        "waiting": lambda: pending.waiting(mine),
        "attached": lambda: nodes.attached(mine),
        "detach_dead": nodes.detach_dead,
        "expire": retention.expire,
        "purge": retention.purge,
        "attach": lambda: attach([hello(token=owner.token, attempt=2, pending_from=0), hello()]),
        "attach of a user": lambda: attach([hello(identity=Identity(user_id=7))]),
        "end of a user": lambda: credentials.end_all(7, "closed"),
        "end of a login": lambda: credentials.end_login(7, "closed", "key", "hash"),
    }


def reads_a_whole_table(plan: str) -> bool:
    tables = "|".join(LARGE)
    partial = r"(?! USING INDEX graceful_\w+_pending)"  # of a part that is small
    if re.search(rf"(Seq Scan on|^SCAN) graceful_ws_({tables})\b{partial}", plan, re.MULTILINE):
        return True
    # By the primary key from one end to the other, in the hope of a LIMIT
    return bool(re.search(r"Index (Only )?Scan using \w+_pkey.*\n(?!\s+Index Cond)", plan))


def test_nothing_reads_a_whole_table(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # The caps compare two columns of every session, which an index would make dear to write.
    monkeypatch.setattr(retention, "cap", lambda: 0)
    owner = fill(database)
    plans = {name: explain(database, function) for name, function in work(owner).items()}
    assert all(plans.values())
    bad = [
        f"{name}: {plan}"
        for name, explained in plans.items()
        for plan in explained
        if reads_a_whole_table(plan)
    ]
    assert not bad, "\n\n".join(bad)


def test_a_plan_that_reads_a_whole_table_is_recognised(database: Database) -> None:
    """Lest the test above passes for another reason."""
    fill(database)
    for field in ("data", "created_at"):
        rows = OutboundMessage.objects.filter(data__gt="x").order_by(field)
        [plan] = explain(database, lambda rows=rows: list(rows[:10]))
        assert reads_a_whole_table(plan), plan


def test_the_oldest_unacknowledged_is_not_looked_for_among_what_ended_sessions_left(
    database: Database,
) -> None:
    fill(database)
    [plan] = explain(database, samples.oldest_unacked)
    assert "graceful_outbound_age" not in plan  # everything, in the order of age
