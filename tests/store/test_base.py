"""What an error of the database means, and the transactions of the store."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction

from graceful_ws.models import Session
from graceful_ws.store import base
from graceful_ws.store.base import (
    connection,
    forget_connection,
    is_locked,
    is_lost,
    is_outage,
    prepare,
    probe,
    writing,
)
from tests.store.kit import Elsewhere, append, attached, done, hello
from tests.support.database_url import database_settings
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def test_a_statement_that_is_refused_is_no_outage() -> None:
    with pytest.raises(DatabaseError) as caught, connection().cursor() as cursor:
        cursor.execute("SELECT misspelt FROM nowhere")
    assert not is_outage(caught.value)
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        Session.objects.bulk_create([Session(**row) for row in twins()])
    assert not is_outage(caught.value)


def twins() -> list[dict[str, object]]:
    owner = attached()
    row = Session.objects.filter(pk=owner.session).values().get()
    return [row, row]


@pytest.mark.postgres_only
def test_a_connection_that_the_server_ends_is_an_outage_and_the_next_one_is_new(
    database: Database,
) -> None:
    with pytest.raises(OperationalError) as caught, writing() as using:
        pid = using.connection.info.backend_pid
        database.sql("SELECT pg_terminate_backend(%s, 10000)", pid)
        Session.objects.count()
    assert is_outage(caught.value)
    assert is_lost(caught.value)
    assert not is_locked(caught.value)
    forget_connection()
    assert attached().generation == 1


@pytest.mark.postgres_only
def test_a_statement_that_took_too_long_is_an_outage_of_a_connection_that_lives() -> None:
    with pytest.raises(OperationalError) as caught, writing() as using, using.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 20")
        cursor.execute("SELECT pg_sleep(20)")
    assert is_outage(caught.value)
    assert not is_lost(caught.value)


@pytest.mark.sqlite_only
def test_a_locked_file_is_an_outage_of_its_own_kind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections["default"].close()
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.05)
    other = sqlite3.connect(database_settings(database.url)["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError) as caught:
        attached()
    other.execute("ROLLBACK")
    other.close()
    assert is_outage(caught.value)
    assert is_locked(caught.value)


def test_ordinary_errors_are_no_outage() -> None:
    for error in (ValueError("locked"), RuntimeError(), IntegrityError("locked")):
        assert not is_outage(error)
        assert not is_locked(error)
    assert is_outage(OperationalError("disk I/O error"))


@pytest.mark.sqlite_only
def test_a_file_is_put_into_wal_mode_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    new = Database("sqlite", f"sqlite://{tmp_path}/new.sqlite3")
    assert new.sql("PRAGMA journal_mode") == [("delete",)]
    connection().close()
    with monkeypatch.context() as patch:
        patch.setitem(connection().settings_dict, "NAME", f"{tmp_path}/new.sqlite3")
        prepare()
        assert new.sql("PRAGMA journal_mode") == [("wal",)]
        prepare()
        connection().close()


@pytest.mark.sqlite_only
def test_in_wal_mode_nobody_who_reads_waits_for_a_writer(elsewhere: Elsewhere) -> None:
    owner = attached()
    read = threading.Event()

    def reads() -> int:
        found = Session.objects.filter(pk=owner.session).values_list("last_seq", flat=True).get()
        read.set()
        return found

    with writing():
        done(append(owner, "1"))
        assert elsewhere.run(reads) == 0
    assert elsewhere.run(reads) == 1


def test_a_probe_asks_over_a_new_connection() -> None:
    hello()
    connection().ensure_connection()
    before = connection().connection
    probe()
    assert connection().connection is not before


@pytest.mark.postgres_only
def test_a_process_that_stands_still_in_a_transaction_loses_it_as_in_an_outage(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Elsewhere
) -> None:
    """A stopped process must not keep the others from its sessions and streams for ever."""
    monkeypatch.setattr(base, "STOPPED", 1)
    owner = attached()
    with pytest.raises(DatabaseError) as raised, writing():
        done(append(owner, "1"))
        time.sleep(1.5)
        Session.objects.count()
    assert is_outage(raised.value), repr(raised.value.__cause__)
    forget_connection()
    assert done(append(owner, "2")) == [1]


@pytest.mark.postgres_only
def test_a_handler_may_take_its_time_in_its_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "STOPPED", 1)
    owner = attached()
    with writing(long=True):
        time.sleep(1.5)
        done(append(owner, "1"))
