"""Streams: numbers from 1 without a gap for what was committed, and nobody waits for anybody."""

from __future__ import annotations

import time
import unicodedata
from concurrent.futures import Future
from threading import Barrier

import psycopg
import pytest
from django.db import transaction

from graceful_ws.models import Stream
from graceful_ws.publishing import publish
from graceful_ws.store import streams
from graceful_ws.store.streams import Tip
from tests.store.kit import (
    WITHIN,
    Elsewhere,
    filled,
    number_all,
    stream_rows,
    unnumbered,
    wait_for_waiters,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


class Undone(Exception):
    pass


def tip(name: str) -> Tip:
    return streams.tips([name])[name]


def numbers(name: str) -> list[int]:
    return [seq for seq, _ in stream_rows(name)]


# --- order ------------------------------------------------------------------------------------


def test_messages_are_numbered_from_one_in_the_order_of_the_inserts() -> None:
    for data in ("first", "second", "third"):
        streams.leave("room", data)
    numbered = streams.number("room")
    assert numbered is not None
    assert (numbered.first, numbered.head) == (1, 3)
    assert numbered.data == ["first", "second", "third"]
    streams.leave("room", "fourth")
    numbered = streams.number("room")
    assert numbered is not None
    assert (numbered.first, numbered.data) == (4, ["fourth"])
    assert stream_rows("room") == [(1, "first"), (2, "second"), (3, "third"), (4, "fourth")]
    assert tip("room") == Tip(numbered.epoch, 4)
    assert numbered.epoch


def test_nothing_to_number_is_nothing_and_streams_do_not_mix() -> None:
    assert streams.number("room") is None
    streams.leave("room", "1")
    streams.leave("other", "2")
    assert streams.waiting() in (["room", "other"], ["other", "room"])
    assert streams.number("room") is not None
    assert streams.waiting() == ["other"]
    assert streams.number("room") is None
    assert unnumbered("other") == ["2"]


def test_published_message_has_its_number_when_publish_returns() -> None:
    publish("room", {"n": 1})
    publish("room", [None, "é"])
    assert stream_rows("room") == [(1, '{"n":1}'), (2, '[null,"é"]')]


def test_message_of_a_transaction_that_was_rolled_back_has_no_number_and_leaves_no_gap() -> None:
    publish("room", "before")
    with pytest.raises(Undone), transaction.atomic():
        publish("room", "rolled back")
        publish("never", "rolled back")
        raise Undone
    with transaction.atomic():
        publish("room", "committed")
        with pytest.raises(Undone), transaction.atomic():
            publish("room", "rolled back to a savepoint")
            raise Undone
    number_all("room")
    assert stream_rows("room") == [(1, '"before"'), (2, '"committed"')]
    assert streams.tips(["never"]) == {}


def test_message_is_not_numbered_before_its_transaction_commits(elsewhere: Elsewhere) -> None:
    streams.create(["room"])
    with transaction.atomic():
        publish("room", 1)
        assert unnumbered("room") == ["1"]
        assert elsewhere.run(streams.waiting) == []
    assert stream_rows("room") == [(1, "1")]


@pytest.mark.postgres_only
def test_transactions_that_commit_in_reverse_order_are_both_numbered(database: Database) -> None:
    """SQLite lets one transaction write at a time."""
    insert = (
        "INSERT INTO graceful_ws_streammessage (uuid, stream, data, created_at)"
        " VALUES (gen_random_uuid(), 'room', %s, now())"
    )
    with psycopg.connect(database.url) as early, psycopg.connect(database.url) as late:
        early.execute(insert, ("early",))
        late.execute(insert, ("late",))
        late.commit()
        assert [one.data for one in number_all("room")] == [["late"]]
        early.commit()
    assert [one.data for one in number_all("room")] == [["early"]]
    assert stream_rows("room") == [(1, "late"), (2, "early")]


def test_more_than_a_batch_waits(elsewhere: Elsewhere) -> None:
    count = 2 * streams.BATCH + 7
    with transaction.atomic():
        for n in range(count):
            streams.leave("room", str(n))
    found = number_all("room")
    assert [len(one.data) for one in found] == [streams.BATCH, streams.BATCH, 7]
    assert stream_rows("room") == [(n + 1, str(n)) for n in range(count)]
    assert streams.page("room", 10, 3) == [(11, "10"), (12, "11"), (13, "12")]


def test_publisher_without_a_node_numbers_more_than_a_batch() -> None:
    with transaction.atomic():
        for n in range(streams.BATCH + 3):
            publish("room", n)
    assert numbers("room") == list(range(1, streams.BATCH + 4))
    assert streams.waiting() == []


# --- several at once --------------------------------------------------------------------------


def test_concurrent_publishers_and_sequencers_leave_no_gap(elsewhere: Elsewhere) -> None:
    start = Barrier(5)
    told: list[tuple[int, str]] = []

    def publishes(who: int) -> None:
        start.wait(WITHIN)
        for n in range(10):
            streams.leave("room", f"{who}:{n}")

    def sequences() -> None:
        start.wait(WITHIN)
        deadline = time.monotonic() + WITHIN
        while len(told) < 30 and time.monotonic() < deadline:
            for one in number_all("room"):
                told.extend(enumerate(one.data, one.first))
            time.sleep(0.005)  # on SQLite one that asks without a pause keeps the others out

    work = [elsewhere.start(publishes, who) for who in range(3)]
    work += [elsewhere.start(sequences) for _ in range(2)]
    for future in work:
        future.result(WITHIN)
    rows = stream_rows("room")
    assert [seq for seq, _ in rows] == list(range(1, 31))
    assert sorted(told) == rows  # each number was told once, with the message that has it
    for who in range(3):
        mine = [data for _, data in rows if data.startswith(f"{who}:")]
        assert mine == [f"{who}:{n}" for n in range(10)]


@pytest.mark.postgres_only
def test_sequencers_that_waited_for_each_other_number_nothing_twice(
    database: Database, elsewhere: Elsewhere
) -> None:
    """What a statement reads that waits for a lock may be older than the lock."""
    filled("room", 2)
    with psycopg.connect(database.url) as other:
        other.execute("SELECT 1 FROM graceful_ws_stream FOR NO KEY UPDATE")
        streams.leave("room", "3")
        streams.leave("room", "4")
        work = [elsewhere.start(number_all, "room") for _ in range(3)]
        wait_for_waiters(database, 3)
        streams.leave("room", "5")
        other.rollback()
    told = [
        seq
        for one in work
        for found in one.result(WITHIN)
        for seq, _ in enumerate(found.data, found.first)
    ]
    assert sorted(told) == [3, 4, 5]
    assert stream_rows("room") == [(n, str(n)) for n in range(1, 6)]
    assert tip("room").head == 5


def test_first_messages_of_a_new_stream_from_two_transactions_at_once(
    elsewhere: Elsewhere,
) -> None:
    start = Barrier(2)

    def first(who: str) -> None:
        start.wait(WITHIN)
        with transaction.atomic():
            publish("new", who)

    for future in [elsewhere.start(first, who) for who in ("a", "b")]:
        future.result(WITHIN)
    assert numbers("new") == [1, 2]
    assert {data for _, data in stream_rows("new")} == {'"a"', '"b"'}
    assert Stream.objects.filter(name="new").count() == 1


@pytest.mark.postgres_only
def test_first_messages_of_a_new_stream_from_two_transactions_open_at_once(
    elsewhere: Elsewhere,
) -> None:
    both_inserted = Barrier(2)

    def first(who: str) -> None:
        with transaction.atomic():
            publish("new", who)
            both_inserted.wait(WITHIN)

    for future in [elsewhere.start(first, who) for who in ("a", "b")]:
        future.result(WITHIN)
    assert numbers("new") == [1, 2]


@pytest.mark.postgres_only
@pytest.mark.parametrize("known", [False, True], ids=["new streams", "known streams"])
def test_long_transactions_that_publish_in_opposite_orders_wait_for_nobody(
    known: bool, elsewhere: Elsewhere
) -> None:
    if known:
        streams.create(["a", "b"])
    publishers = 20
    all_published, looked = Barrier(publishers + 1), Barrier(publishers + 1)

    def publishes(who: int) -> None:
        with transaction.atomic():
            for name in ("a", "b") if who % 2 else ("b", "a"):
                publish(name, who)
            # Everybody comes here, with all transactions open, or nobody does.
            all_published.wait(WITHIN)
            looked.wait(WITHIN)

    work: list[Future[None]] = [elsewhere.start(publishes, who) for who in range(publishers)]
    all_published.wait(WITHIN)
    # Whoever numbers meanwhile sees nothing of them, and does not wait for them either.
    assert elsewhere.run(number_all, "a") == elsewhere.run(number_all, "b") == []
    streams.leave("a", '"meanwhile"')
    assert [one.data for one in elsewhere.run(number_all, "a")] == [['"meanwhile"']]
    looked.wait(WITHIN)
    for future in work:
        future.result(WITHIN)
    number_all("a")
    number_all("b")
    assert numbers("a") == list(range(1, publishers + 2))
    assert numbers("b") == list(range(1, publishers + 1))
    everybody = {str(who) for who in range(publishers)}
    assert {data for _, data in stream_rows("a")} == everybody | {'"meanwhile"'}
    assert {data for _, data in stream_rows("b")} == everybody


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a", "a" * 100, "é" * 50, "🚪" * 25, "a room / with: ünïcode\n", "session", "user", " "],
)
def test_any_text_up_to_a_hundred_bytes_is_a_name(name: str) -> None:
    publish(name, 1)
    assert stream_rows(name) == [(1, "1")]
    assert tip(name).head == 1


@pytest.mark.parametrize(
    "name",
    ["", "a" * 101, "é" * 50 + "a", "a\0b", "\ud83d", "user:1", "session:x", "user:", "session:"],
)
def test_other_names_are_refused_and_nothing_is_kept(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        publish(name, 1)
    assert streams.waiting() == []


@pytest.mark.parametrize("name", [None, 7, b"room"])
def test_what_is_no_text_is_no_name(name: object) -> None:
    with pytest.raises(TypeError, match="name is text"):
        publish(name, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names",
    [
        ("Room", "room"),
        (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
        ("room", "room "),
        ("straße", "strasse"),
        ("🚪", "🚪\ufe0f"),
    ],
    ids=["case", "normal forms", "trailing space", "sharp s", "variation selector"],
)
def test_names_that_look_alike_are_two_streams(names: tuple[str, str]) -> None:
    one, other = names
    publish(one, 1)
    publish(other, 2)
    publish(one, 3)
    assert stream_rows(one) == [(1, "1"), (2, "3")]
    assert stream_rows(other) == [(1, "2")]
    assert tip(one).epoch != tip(other).epoch


# --- epochs -----------------------------------------------------------------------------------


def test_created_twice_is_one_stream_with_one_epoch() -> None:
    streams.create(["a", "b"])
    before = streams.tips(["a", "b", "c"])
    assert {name: one.head for name, one in before.items()} == {"a": 0, "b": 0}
    streams.create(["b", "a", "c"])
    after = streams.tips(["a", "b", "c"])
    assert {"a": after["a"], "b": after["b"]} == before
    assert all(one.epoch for one in after.values())


def test_rotation_gives_all_streams_a_new_epoch_and_numbers_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "BATCH", 2)
    before = {name: filled(name, count) for name, count in (("a", 3), ("b", 1), ("c", 0))}
    assert streams.rotate_all() == 3
    after = streams.tips(["a", "b", "c"])
    assert {name: one.head for name, one in after.items()} == {"a": 3, "b": 1, "c": 0}
    assert all(after[name].epoch != before[name].epoch for name in before)
    assert len({one.epoch for one in after.values()}) == 3
    publish("a", "next")
    assert numbers("a") == [1, 2, 3, 4]
    assert tip("a") == Tip(after["a"].epoch, 4)


def test_stream_that_stands_behind_what_was_seen_is_rotated_once() -> None:
    old = filled("room", 3)
    streams.rotate_if_behind("room", old.epoch, 3)  # it is not behind
    assert tip("room") == old
    streams.rotate_if_behind("room", old.epoch, 5)
    new = tip("room")
    assert (new.head, new.epoch != old.epoch) == (3, True)
    streams.rotate_if_behind("room", old.epoch, 5)  # another node, that saw the same
    assert tip("room") == new
