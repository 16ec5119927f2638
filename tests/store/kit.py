"""Sessions, second connections and broken commits for the tests of the store and the journal."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import psycopg
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from graceful_ws.models import InboundResult, OutboundMessage, Session, StreamMessage
from graceful_ws.store import nodes, streams
from graceful_ws.store.attach import Attach, Attached, Identity, attach
from graceful_ws.store.base import connection, forget_connection
from graceful_ws.store.entries import Append, Complete, Detach, Entry
from graceful_ws.store.rounds import commit_all
from graceful_ws.store.streams import Numbered, Tip
from tests.support.databases import Database
from tests.support.waiting import eventually_sync

T = TypeVar("T")

CONSUMER = "tests.consumers.Echo"
WITHIN = 30.0  # seconds that anything may take before it counts as stuck

# What every database refuses (text that is not UTF-8), and what PostgreSQL alone does.
SURROGATE = '"\ud800"'
NUL = '"\x00"'


def refused_by(database: Database) -> str:
    """Data that cannot be written: PostgreSQL says so, for SQLite already the driver does."""
    return NUL if database.vendor == "postgres" else SURROGATE


def node(name: str = "node") -> uuid.UUID:
    return nodes.register(nodes.Identity(name, "host", 1, "daphne", "0"))


def hello(**changes: Any) -> Attach:
    """A hello of a new client, or of one that comes back if it has a ``token``."""
    fields: dict[str, Any] = {
        "node": uuid.uuid4(),
        "consumer": CONSUMER,
        "identity": Identity(),
        "instance": "one",
        "attempt": 1,
    }
    return Attach(**(fields | changes))


def attached(**changes: Any) -> Attached:
    """What a hello, alone in its round, comes to; raises what is refused."""
    [outcome] = attach([hello(**changes)])
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Attached)
    return outcome


def append(owner: Attached, *data: str) -> Append:
    return Append(owner.session, owner.generation, data)


def complete(owner: Attached, seq: int, outcome: str | None = None, keep: int = 64) -> Complete:
    return Complete(owner.session, owner.generation, seq, outcome, keep)


def detach(owner: Attached, *, end: bool = False) -> Detach:
    return Detach(owner.session, owner.generation, end=end, cause="bye" if end else "lost")


def done(*entries: Entry) -> list[Any]:
    """The outcomes of a round in which nothing may go wrong."""
    outcomes = commit_all(entries)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def row(owner: Attached) -> Session:
    return Session.objects.get(pk=owner.session)


def messages(owner: Attached) -> list[tuple[int, str]]:
    rows = OutboundMessage.objects.filter(session=owner.session, seq__isnull=False)
    return list(rows.order_by("seq").values_list("seq", "data"))


def outcomes_kept(owner: Attached) -> dict[int, str]:
    rows = InboundResult.objects.filter(session=owner.session)
    return dict(rows.order_by("client_seq").values_list("client_seq", "outcome"))


def kinds(outcomes: Iterable[Any]) -> list[str]:
    """Names of the exceptions among outcomes, "" for the others."""
    return [type(one).__name__ if isinstance(one, BaseException) else "" for one in outcomes]


def ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)


# --- second connections -----------------------------------------------------------------------


class Elsewhere:
    """Runs functions in threads with database connections of their own."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, function: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return future

    def run(self, function: Callable[..., T], *args: Any) -> T:
        return self.start(function, *args).result(WITHIN)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WITHIN)
            assert not thread.is_alive(), "a thread is stuck"


@contextmanager
def locked_elsewhere(database: Database, owner: Attached) -> Iterator[psycopg.Connection]:
    """Another transaction holds the session's row, until the block ends (rolled back)."""
    with psycopg.connect(database.url) as other:
        # Whoever waits for the row though it should not, waits with a deadline.
        other.execute(f"SET idle_in_transaction_session_timeout = '{WITHIN:g}s'")
        other.execute(
            "SELECT id FROM graceful_ws_session WHERE id = %s FOR NO KEY UPDATE", (owner.session,)
        )
        yield other
        other.rollback()


def wait_for_waiters(database: Database, count: int = 1) -> None:
    """Return when so many connections of the database wait for a lock."""
    eventually_sync(
        lambda: (
            database.sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )[0][0]
            >= count
        ),
        WITHIN,
        f"{count} connections wait for a lock",
    )


# --- broken commits ---------------------------------------------------------------------------

BEFORE, AFTER = "before", "after"


@contextmanager
def breaking_commits(
    database: Database, faults: Iterator[str | None], *, thread: str | None = None
) -> Iterator[None]:
    """Each commit of this thread, or of one with a name, breaks as the next of ``faults`` says.

    "before": the connection is lost and nothing was kept; "after": it is lost when all was kept.
    None and the end of ``faults``: the commit goes well. With PostgreSQL the backend really dies.
    """
    original, execute = BaseDatabaseWrapper._commit, CursorWrapper.execute
    name = thread or threading.current_thread().name

    def next_fault() -> str | None:
        return next(faults, None) if threading.current_thread().name == name else None

    def commit(self: BaseDatabaseWrapper) -> Any:
        if self.vendor == "postgresql" and self.connection.info.transaction_status == 0:
            return original(self)  # a statement has done it
        fault = next_fault()
        if fault is None:
            return original(self)
        if fault == AFTER:
            original(self)
        if self.vendor == "postgresql":
            _terminate(database, self.connection.info.backend_pid)
            with self.wrap_database_errors:
                return self.connection.execute("COMMIT")
        if fault == BEFORE:
            self.connection.rollback()
        raise OperationalError("disk I/O error")

    def execute_and_commit(self: CursorWrapper, sql: str, params: Any = None) -> Any:
        """COMMIT may travel with the last statements."""
        fault = next_fault() if sql.endswith(";\nCOMMIT") else None
        if fault is None:
            return execute(self, sql, params)
        if fault == AFTER:
            execute(self, sql, params)
        _terminate(database, self.db.connection.info.backend_pid)
        return execute(self, sql, params)

    BaseDatabaseWrapper._commit = commit  # type: ignore[method-assign]
    CursorWrapper.execute = execute_and_commit  # type: ignore[method-assign]
    try:
        yield
    finally:
        BaseDatabaseWrapper._commit = original  # type: ignore[method-assign]
        CursorWrapper.execute = execute  # type: ignore[method-assign]


def _terminate(database: Database, pid: int) -> None:
    """Return when the backend is gone; the function's own wait sleeps for 0.1 s."""
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        deadline = time.monotonic() + WITHIN
        while other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            assert time.monotonic() < deadline, "the backend lives on"


def settle(entries: Sequence[Entry]) -> list[Any]:
    """Outcomes of entries that are given again as the journal does it, until each is known."""
    outcomes: dict[Entry, Any] = {}
    left = list(entries)
    for _ in range(20):
        for entry, outcome in zip(left, commit_all(left), strict=True):
            if not isinstance(outcome, OperationalError):
                outcomes[entry] = outcome
        left = [entry for entry in entries if entry not in outcomes]
        if not left:
            return [outcomes[entry] for entry in entries]
        forget_connection()
    raise AssertionError(f"no outcome after 20 rounds: {left}")


# --- statements -------------------------------------------------------------------------------


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collects the SQL that this thread runs, transactions aside; executemany counts once."""
    seen: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection().execute_wrapper(note):
        yield seen


def explain(database: Database, function: Callable[[], Any]) -> list[str]:
    """The plans of all statements that ``function`` runs on tables: one text for each."""
    plans: list[str] = []
    prefix = "EXPLAIN " if database.vendor == "postgres" else "EXPLAIN QUERY PLAN "

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        given = iter(params[0] if many else params or ())
        for part in sql.split(";\n"):  # several go to PostgreSQL in one message
            mine = list(given) if many else list(islice(given, part.count("%s")))
            if part.startswith(("SELECT", "UPDATE", "DELETE")):
                with connection().cursor() as cursor:
                    cursor.execute(prefix + part, mine)
                    plan = "\n".join(str(line[-1]) for line in cursor.fetchall())
                plans.append(f"{part}\n{plan}")
        return execute(sql, params, many, context)

    with connection().execute_wrapper(note):
        function()
    return plans


# --- streams ----------------------------------------------------------------------------------


def stream_rows(name: str) -> list[tuple[int, str]]:
    """What was numbered in a stream."""
    rows = StreamMessage.objects.filter(stream=name, seq__isnull=False)
    return list(rows.order_by("seq").values_list("seq", "data"))


def unnumbered(name: str) -> list[str]:
    """What waits for its number, in the order of the inserts."""
    rows = StreamMessage.objects.filter(stream=name, seq__isnull=True)
    return list(rows.order_by("pk").values_list("data", flat=True))


def number_all(name: str) -> list[Numbered]:
    """Numbers until nothing waits."""
    found = []
    while (numbered := streams.number(name)) is not None:
        found.append(numbered)
    return found


def filled(name: str, count: int) -> Tip:
    """A stream with so many numbered messages, "1", "2", …; where it stands then."""
    streams.create([name])
    for n in range(count):
        streams.leave(name, str(n + 1))
    number_all(name)
    return streams.tips([name])[name]
