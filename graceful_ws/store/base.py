"""Transactions of the store: which database, in which mode, and what an error means."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import InterfaceError, InternalError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from graceful_ws.conf import settings

from .sql import BETWEEN, is_whole, takes_many


class JournalUnavailable(Exception):
    """The database does not answer, so nothing can be promised; try again later."""


def alias() -> str:
    """The database alias that holds the tables."""
    return str(settings.database)


def connection() -> BaseDatabaseWrapper:
    return connections[alias()]


STOPPED = 10  # seconds that PostgreSQL lets a process which was stopped hold its locks
LIMIT = "SET LOCAL idle_in_transaction_session_timeout = '%ss'"


@contextmanager
def writing(*, long: bool = False, joined: bool = False) -> Iterator[BaseDatabaseWrapper]:
    """A write transaction on this thread's own connection; ``long`` when code of the application
    runs in it, ``joined`` when its first statement begins with what ``begin`` says.

    On SQLite it is IMMEDIATE: a deferred one that read first gets SQLITE_BUSY at once when it
    comes to write, whatever the timeout. PostgreSQL runs READ COMMITTED: numbering relies on each
    statement seeing what was committed before it. There a process that stands still between two
    statements (SIGSTOP, a frozen machine) loses its transaction, lest the others wait for it.
    """
    using = connection()
    using.ensure_connection()
    outermost = not using.in_atomic_block
    mode = getattr(using, "transaction_mode", None)
    if using.vendor == "sqlite" and outermost:
        using.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
    try:
        with transaction.atomic(using=using.alias):
            if outermost and not long and not joined:
                _limit(using)
            yield using
    finally:
        if using.vendor == "sqlite" and outermost:
            using.transaction_mode = mode  # type: ignore[attr-defined]


def begin(using: BaseDatabaseWrapper) -> str:
    """Begins the first statement of a ``joined`` transaction, so that what PostgreSQL must be told
    before costs no round trips of its own."""
    if using.vendor != "postgresql" or len(using.atomic_blocks) > 1:
        return ""
    if not takes_many(using):
        _limit(using)
        return ""
    sql = LIMIT % STOPPED + BETWEEN
    if is_whole(using) and using.connection.pgconn.transaction_status == 0:  # none yet
        using.connection.autocommit = True  # psycopg sends no BEGIN then
        sql = f"BEGIN ISOLATION LEVEL READ COMMITTED{BETWEEN}{sql}"
    return sql


def _limit(using: BaseDatabaseWrapper) -> None:
    if using.vendor == "postgresql":
        with using.cursor() as cursor:
            cursor.execute(LIMIT % STOPPED)


def one_writer() -> bool:
    """True when the database lets one write at a time (SQLite): writers of one process then share
    a thread, rather than wait for each other in steps of up to 0.1 s."""
    return connection().vendor == "sqlite"


@contextmanager
def reading() -> Iterator[BaseDatabaseWrapper]:
    """Autocommit reads: a long transaction would hold back PostgreSQL's clean-up."""
    yield connection()


def forget_connection() -> None:
    """After an error of the connection: the next use of this thread opens a new one."""
    using = connection()
    if not using.in_atomic_block:
        using.close()


def close_connections() -> None:
    """At the end of a thread: all that it has. Django leaves one to SQLite in memory open, because
    the database ends with the last of them; which is that of whoever made it, not ours."""
    for using in connections.all(initialized_only=True):
        using.close()
        if using.connection is not None:
            BaseDatabaseWrapper.close(using)


def prepare() -> None:
    """Once a process: puts a SQLite file into WAL mode, so that nobody reading waits."""
    using = connection()
    if using.vendor == "sqlite" and settings.sqlite_wal and not using.in_atomic_block:
        with using.cursor() as cursor:
            mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
            if mode not in ("wal", "memory"):
                cursor.execute("PRAGMA journal_mode=WAL")


def probe() -> None:
    """Asks the database for nothing; raises what it raises when it is away."""
    forget_connection()
    with connection().cursor() as cursor:
        cursor.execute("SELECT 1")


def is_outage(error: object) -> bool:
    """True when the database is away or stuck; the entry is not to blame and is tried again."""
    if isinstance(error, InternalError):
        # read_only_sql_transaction: the server has become a standby.
        # idle_in_transaction_session_timeout: this process stood still, see STOPPED.
        return getattr(error.__cause__, "sqlstate", None) in ("25006", "25P03")
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    # SQLite's name for a statement that it will never run; elsewhere that is a ProgrammingError.
    return getattr(error.__cause__, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR


def is_lost(error: BaseException) -> bool:
    """True when the connection itself broke, so that a commit under way may have happened: SQLSTATE
    classes 08 and 57P, or no SQLSTATE at all. Not for a statement that was cancelled or refused."""
    state = getattr(error.__cause__, "sqlstate", None)
    if state is None:
        return is_outage(error)
    return str(state)[:2] == "08" or str(state)[:3] == "57P"


def is_conflict(error: BaseException) -> bool:
    """True for a deadlock or a serialization failure: all was rolled back and may run again."""
    return str(getattr(error.__cause__, "sqlstate", None) or "")[:2] == "40"


def is_locked(error: BaseException) -> bool:
    """True for SQLite's "database is locked": another writer is slow, the database is not down."""
    return isinstance(error, OperationalError) and "locked" in str(error)


def locked_rows(queryset, *, skip_locked: bool):  # type: ignore[no-untyped-def]
    """The session rows of ``queryset``, locked in id order (a no-op on SQLite, whose write
    transactions exclude each other)."""
    return queryset.order_by("pk").select_for_update(
        of=("self",), no_key=True, skip_locked=skip_locked
    )
