"""Plain SQL writes and reads what the ORM would, and refuses what the database refuses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, DataError, IntegrityError, models, transaction
from django.test.utils import isolate_apps
from django.utils import timezone

from graceful_ws.models import (
    InboundResult,
    OutboundMessage,
    Presence,
    Session,
    StreamMessage,
    Subscription,
)
from graceful_ws.store import rounds, streams
from graceful_ws.store.base import connection, writing
from graceful_ws.store.sql import Batch, among, delete_many, insert_many, read, update_many
from tests.store.kit import (
    append,
    attached,
    complete,
    kinds,
    messages,
    node,
    refused_by,
    row,
    statements,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")

OUTBOUND = ("session_id", "seq", "data", "created_at")
PUBLISHED = ("uuid", "stream", "seq", "data", "created_at")

DIFFICULT = [
    '{"text": "quoted \\"twice\\""}',
    "back\\slash \\\\ and ' and %s and %% and {0} and {name}",
    "{curly,commas}",
    "",
    " ",
    "NULL",
    "None",
    "line\nbreak\ttab",
    "é € 😀",
    ";\nCOMMIT",
]


@pytest.mark.parametrize("together", [True, False])
def test_any_text_comes_back_as_it_was(together: bool) -> None:
    made = [(7, seq, text, timezone.now()) for seq, text in enumerate(DIFFICULT, 1)]
    for some in [made] if together else [[one] for one in made]:
        insert_many(connection(), OutboundMessage, OUTBOUND, some)
    kept = OutboundMessage.objects.order_by("pk").values_list("data", flat=True)
    assert list(kept) == DIFFICULT
    assert [text for _, text in rounds.page(7, 0, 100)] == DIFFICULT


@pytest.mark.parametrize("count", [1, 3])
def test_times_ids_and_nulls_are_what_the_orm_reads(count: int) -> None:
    now = timezone.now()
    made = [
        (uuid.uuid4(), "room", None if n % 2 else n, "x", now + timedelta(microseconds=n))
        for n in range(count)
    ]
    insert_many(connection(), StreamMessage, PUBLISHED, made)
    assert list(StreamMessage.objects.order_by("pk").values_list(*PUBLISHED)) == made
    assert read(connection(), StreamMessage, PUBLISHED, "ORDER BY id") == made


def test_every_column_of_a_session_is_read_as_the_orm_reads_it() -> None:
    owner = attached(node=node())
    columns = tuple(field.attname for field in Session._meta.concrete_fields)
    one_of, params = among(connection(), [owner.session])
    [found] = read(connection(), Session, columns, f"WHERE id{one_of}", params)
    session = row(owner)
    expected = tuple(getattr(session, name) for name in columns)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_an_empty_list_of_rows_is_no_statement() -> None:
    with statements() as seen:
        insert_many(connection(), OutboundMessage, OUTBOUND, [])
        update_many(connection(), OutboundMessage, ("seq",), ("id",), [])
        delete_many(connection(), OutboundMessage, ("id",), [])
        Batch(connection()).run()
    assert seen == []


@pytest.mark.parametrize("by_index", [True, False])
def test_of_updates_of_the_same_row_the_last_counts(database: Database, by_index: bool) -> None:
    one, other = attached(), attached()
    made = [(n, owner.session) for n in range(5) for owner in (one, other)]
    with transaction.atomic():
        if database.vendor == "postgres" and by_index:  # another plan takes another of them
            with connection().cursor() as cursor:
                cursor.execute("SET LOCAL enable_hashjoin = off")
                cursor.execute("SET LOCAL enable_mergejoin = off")
                cursor.execute("SET LOCAL enable_seqscan = off")
        update_many(connection(), Session, ("rtt_ms",), ("id",), [*made, (7, one.session)])
    assert (row(one).rtt_ms, row(other).rtt_ms) == (7, 4)


def test_rows_are_found_by_several_keys() -> None:
    insert_many(
        connection(), Presence, ("session_id", "stream"), [(n, s) for n in (1, 2) for s in "ab"]
    )
    delete_many(connection(), Presence, ("session_id", "stream"), [(1, "a"), (2, "b"), (3, "a")])
    left = Presence.objects.order_by("session_id").values_list("session_id", "stream")
    assert list(left) == [(1, "b"), (2, "a")]


@pytest.mark.parametrize("count", [1, 2])
def test_conditions_tell_the_values_of_a_row_from_those_of_the_table(count: int) -> None:
    insert_many(
        connection(),
        Subscription,
        ("session_id", "stream", "epoch", "from_seq", "acked_seq"),
        [(n, "room", "old", 3, 5) for n in range(count)],
    )
    Batch(connection()).update(
        Subscription,
        ("epoch", "acked_seq"),
        ("session_id",),
        [("new", 9 + n, n) for n in range(count)],
        sets="from_seq = acked_seq + {acked_seq}, epoch = {epoch}, acked_seq = {acked_seq}",
        where="session_id = {session_id} AND epoch <> {epoch} AND acked_seq < {acked_seq}",
    ).run()
    kept = Subscription.objects.order_by("session_id").values_list("epoch", "from_seq", "acked_seq")
    assert list(kept) == [("new", 14 + n, 9 + n) for n in range(count)]


class Label(models.CharField):  # type: ignore[type-arg]
    """A field of an application, whose values are not those of the database."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return None if value is None else f"<{value}>"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return None if value is None else value[1:-1]


@pytest.fixture
def odd(database: Database) -> Iterator[type[models.Model]]:
    """A table whose names must be quoted, with bytes, nulls and an application's field."""
    with isolate_apps("graceful_ws"):

        class Odd(models.Model):
            order = models.IntegerField(db_column="Group")
            select = Label(max_length=5, null=True, db_column="select from")
            raw = models.BinaryField(default=b"")
            note = models.TextField(null=True)  # noqa: DJ001

            class Meta:
                app_label = "graceful_ws"
                db_table = "Odd table"

            def __str__(self) -> str:
                return str(self.pk)

        with connection().schema_editor() as editor:
            editor.create_model(Odd)
        yield Odd
        with connection().schema_editor() as editor:
            editor.delete_model(Odd)


@pytest.mark.parametrize("count", [1, 3])
def test_odd_names_and_fields_of_an_application_are_no_obstacle(
    odd: type[models.Model], count: int
) -> None:
    columns = ("order", "select", "note", "raw")
    null = [None, "0", "1"]
    made = [(n, null[n - 1], null[n], bytes([0, 92, 34, n])) for n in range(count)]
    insert_many(connection(), odd, columns, made)
    kept = odd._base_manager.order_by("pk").values_list(*columns)
    assert [(*rest, bytes(raw)) for *rest, raw in kept] == made
    update_many(connection(), odd, ("select",), ("order",), [("new", n) for n in range(count)])
    assert [found for (found,) in read(connection(), odd, ("select",), "")] == ["new"] * count
    delete_many(connection(), odd, ("order", "select"), [(n, "new") for n in range(count)])
    assert not odd._base_manager.exists()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 3])
def test_text_that_cannot_be_written_fails_its_own_entry_only(
    database: Database, others: int
) -> None:
    bad = attached()
    good = [attached() for _ in range(others)]
    entries = [append(bad, refused_by(database)), *(append(owner, "1") for owner in good)]
    outcomes = rounds.commit_all([*entries, complete(bad, 1)])
    assert isinstance(outcomes[0], ValueError | DataError)
    assert kinds(outcomes[1:]) == [""] * (others + 1)
    assert [messages(owner) for owner in good] == [[(1, "1")]] * others
    assert messages(bad) == []


@pytest.mark.postgres_only
@pytest.mark.parametrize("count", [1, 2])
def test_text_that_is_too_long_is_refused_and_not_cut(count: int) -> None:
    with pytest.raises(DataError):
        insert_many(
            connection(),
            StreamMessage,
            PUBLISHED,
            [(uuid.uuid4(), "x" * 101, None, "x", timezone.now()) for _ in range(count)],
        )


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_when_one_write_of_a_batch_fails_none_is_kept(broken: int) -> None:
    insert_many(connection(), InboundResult, ("session_id", "client_seq", "outcome"), [(1, 1, "x")])
    with pytest.raises(IntegrityError), writing() as using:
        batch = Batch(using)
        for n in range(3):
            what = (1, 1, "x") if n == broken else (2, n, "x")
            batch.insert(InboundResult, ("session_id", "client_seq", "outcome"), [what])
        batch.run(last=True)
    assert InboundResult.objects.count() == 1
    assert not connection().in_atomic_block
    assert connection().get_autocommit()


# --- whose transaction it is ----------------------------------------------------------------------


def test_in_the_transaction_of_somebody_else_nothing_commits_by_itself() -> None:
    owner = attached()
    streams.leave("room", "1")
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert kinds(rounds.commit([append(owner, "1")])) == [""]
        assert streams.number("room") is not None
        assert messages(owner) == [(1, "1")]
        raise ZeroDivisionError
    assert messages(owner) == []
    assert not StreamMessage.objects.filter(seq__isnull=False).exists()


def test_after_a_round_a_transaction_rolls_back_as_ever() -> None:
    owner = attached()
    rounds.commit([append(owner, "1")])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        OutboundMessage.objects.all().delete()
        raise ZeroDivisionError
    assert messages(owner) == [(1, "1")]


def test_an_error_between_lock_and_write_keeps_nothing_and_frees_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = attached()
    with monkeypatch.context() as patch:
        patch.setattr(rounds.Round, "write", lambda self, rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rounds.commit([append(owner, "1")])
    assert kinds(rounds.commit([append(owner, "2")])) == [""]
    assert messages(owner) == [(1, "2")]


@pytest.mark.postgres_only
def test_a_connection_that_binds_on_the_server_gets_one_statement_at_a_time(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    owner = attached()
    connection().close()
    monkeypatch.setitem(connection().settings_dict["OPTIONS"], "server_side_binding", True)
    try:
        streams.leave("room", DIFFICULT[0])
        streams.leave("room", DIFFICULT[1])
        assert streams.number("room") is not None
        assert kinds(rounds.commit([append(owner, *DIFFICULT), complete(owner, 1, "{}")])) == [
            "",
            "",
        ]
        with pytest.raises(DatabaseError):
            rounds.commit([append(owner, refused_by(database))])
    finally:
        connection().close()
    assert [text for _, text in messages(owner)] == DIFFICULT


@pytest.mark.postgres_only
def test_a_lone_round_is_two_messages() -> None:
    owner = attached()
    warned: list[Any] = []
    connection().connection.add_notice_handler(warned.append)
    with statements() as seen:
        rounds.commit([append(owner, "1"), complete(owner, 1)])
    assert len(seen) == 2
    assert seen[0].startswith("BEGIN")
    assert seen[1].endswith("COMMIT")
    assert warned == []  # that there is a transaction already


@pytest.mark.postgres_only
def test_somebody_elses_transaction_gets_no_time_limit() -> None:
    owner = attached()
    streams.leave("room", "1")
    with transaction.atomic(), connection().cursor() as cursor:
        rounds.commit([append(owner, "1")])
        streams.number("room")
        rounds.claim(owner.session, owner.generation, 1, ["2"], None, 64)
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("0",)
