from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.frames import MAX_SEQ, ProtocolError
from graceful_ws.core.window import (
    Arrival,
    Cursor,
    Hole,
    Intake,
    Pending,
    Position,
    SendWindow,
    check_page,
)


def code_of(call: Callable[[], object]) -> int:
    with pytest.raises(ProtocolError) as caught:
        call()
    return caught.value.code


# --- SendWindow and Cursor ----------------------------------------------------------------------


def test_one_message_may_always_go() -> None:
    window = SendWindow(1, 10)
    assert window.has_room(1_000_000)
    Cursor(window).advance(1, 1_000_000)
    assert not window.has_room(0)


def test_window_closes_at_either_bound_and_opens_with_the_ack() -> None:
    window = SendWindow(3, 100)
    cursor = Cursor(window)
    cursor.advance(1, 40)
    assert window.has_room(60)
    assert not window.has_room(61)
    cursor.advance(2, 1)
    cursor.advance(3, 1)
    assert not window.has_room(1)
    assert cursor.ack(2)
    assert (window.messages, window.bytes) == (1, 1)
    assert window.has_room(1)


def test_cursor_takes_only_the_next_number() -> None:
    cursor = Cursor(SendWindow(10, 10), position=5, acked=5)
    for wrong in (5, 7):
        with pytest.raises(AssertionError):
            cursor.advance(wrong, 1)
    cursor.advance(6, 1)


def test_ack_of_a_number_that_was_never_sent_is_a_protocol_error() -> None:
    cursor = Cursor(SendWindow(10, 10))
    cursor.advance(1, 1)
    assert code_of(lambda: cursor.ack(2)) == 1002
    assert cursor.ack(1)
    assert not cursor.ack(1)
    assert not cursor.ack(0)


def test_gap_moves_the_cursor_and_frees_the_window() -> None:
    window = SendWindow(10, 100)
    cursor = Cursor(window)
    cursor.advance(1, 50)
    cursor.jump(9)
    assert (cursor.position, cursor.acked, window.messages, window.bytes) == (9, 9, 0, 0)
    cursor.advance(10, 1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.booleans()), max_size=60))
def test_window_counts_exactly_what_is_unacknowledged(
    steps: list[tuple[int, int, bool]],
) -> None:
    window = SendWindow(8, 200)
    cursors = [Cursor(window) for _ in range(3)]
    travelling: dict[tuple[int, int], int] = {}
    for which, size, send in steps:
        cursor = cursors[which]
        if send and window.has_room(size):
            cursor.advance(cursor.position + 1, size)
            travelling[which, cursor.position] = size
        elif not send:
            upto = min(cursor.position, cursor.acked + size % 3)
            cursor.ack(upto)
            travelling = {
                key: value for key, value in travelling.items() if key[0] != which or key[1] > upto
            }
        assert window.messages == len(travelling) <= 8
        assert window.bytes == sum(travelling.values())


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "head", "seqs"),
    [(0, 0, []), (3, 3, []), (0, 3, [1, 2, 3]), (2, 9, [3, 4]), (4, 2, [])],
)
def test_page_that_continues_is_complete(position: int, head: int, seqs: list[int]) -> None:
    check_page(position, head, seqs)


@pytest.mark.parametrize(
    ("position", "head", "seqs", "oldest"),
    [(0, 1, [], None), (0, 3, [2, 3], 2), (0, 4, [1, 2, 4], 1), (2, 3, [2, 3], 2)],
)
def test_page_with_a_hole_is_never_replayed_in_part(
    position: int, head: int, seqs: list[int], oldest: int | None
) -> None:
    with pytest.raises(Hole) as caught:
        check_page(position, head, seqs)
    assert caught.value.oldest == oldest


# --- Intake -------------------------------------------------------------------------------------


def test_copies_are_told_from_news() -> None:
    intake = Intake(8, 1000, done=4, received=4)
    assert intake.receive(4, 1) is Arrival.DONE
    assert intake.receive(5, 1) is Arrival.NEW
    assert intake.receive(5, 1) is Arrival.PENDING
    intake.complete(5)
    assert intake.receive(5, 1) is Arrival.DONE


def test_hole_in_the_numbers_is_a_protocol_error() -> None:
    intake = Intake(8, 1000)
    assert code_of(lambda: intake.receive(2, 1)) == 1002
    assert code_of(lambda: intake.receive(0, 1)) == 1002
    assert code_of(lambda: intake.receive(-3, 1)) == 1002


def test_numbers_end_where_javascript_stops_counting_exactly() -> None:
    intake = Intake(8, 1000, done=MAX_SEQ - 1, received=MAX_SEQ - 1)
    assert intake.receive(MAX_SEQ, 1) is Arrival.NEW
    assert code_of(lambda: intake.receive(MAX_SEQ + 1, 1)) == 1002


def test_client_that_sends_past_its_credit_is_closed() -> None:
    intake = Intake(2, 100)
    intake.receive(1, 500)  # one message may always come
    assert code_of(lambda: intake.receive(2, 1)) == 4201
    intake.complete(1)
    intake.receive(2, 50)
    intake.receive(3, 50)
    assert code_of(lambda: intake.receive(4, 0)) == 4201
    intake.complete(2)
    assert intake.receive(4, 1) is Arrival.NEW


def test_numbers_are_done_in_order() -> None:
    intake = Intake(8, 1000)
    intake.receive(1, 1)
    intake.receive(2, 1)
    with pytest.raises(AssertionError):
        intake.complete(2)


def test_nack_with_retry_consumes_nothing_and_later_numbers_wait_for_it() -> None:
    intake = Intake(8, 1000)
    for seq in (1, 2, 3):
        intake.receive(seq, 10)
    intake.complete(1)
    intake.ask_again(2)
    assert intake.bytes == 0
    assert intake.receive(4, 1) is Arrival.SKIPPED
    assert intake.receive(3, 1) is Arrival.SKIPPED
    assert intake.receive(2, 1) is Arrival.NEW
    assert intake.receive(3, 1) is Arrival.NEW
    assert code_of(lambda: intake.receive(5, 1)) == 1002
    with pytest.raises(AssertionError):
        intake.ask_again(3)


# --- Pending ------------------------------------------------------------------------------------


def test_client_sends_within_its_credit_and_the_rest_in_order() -> None:
    pending = Pending(max_messages=2, max_bytes=1000)
    assert [pending.add(f'"{n}"') for n in range(4)] == [1, 2, 3, 4]
    assert [seq for seq, _ in pending.sendable()] == [1, 2]
    assert pending.sendable() == []
    assert pending.resolve_upto(1) == [1]
    assert [seq for seq, _ in pending.sendable()] == [3]


def test_large_message_goes_alone() -> None:
    pending = Pending(max_messages=8, max_bytes=10)
    pending.add("x" * 50)
    pending.add("y")
    assert [seq for seq, _ in pending.sendable()] == [1]
    pending.resolve_upto(1)
    assert [seq for seq, _ in pending.sendable()] == [2]


def test_after_a_resume_what_is_done_is_settled_and_the_rest_is_sent_again() -> None:
    pending = Pending()
    for n in range(4):
        pending.add(str(n))
    pending.sendable()
    assert pending.reconnected(2) == [1, 2]
    pending.resolve_upto(2)
    assert [seq for seq, _ in pending.sendable()] == [3, 4]


def test_nack_settles_one_number_or_asks_for_it_again() -> None:
    pending = Pending()
    for n in range(3):
        pending.add(str(n))
    pending.sendable()
    assert pending.resolve(1)
    assert not pending.resolve(1)
    pending.send_again(2)
    assert [seq for seq, _ in pending.sendable()] == [2, 3]


def test_in_a_new_session_the_waiting_messages_are_numbered_anew() -> None:
    pending = Pending()
    for n in range(5):
        pending.add(str(n))
    pending.sendable()
    pending.resolve_upto(3)
    assert pending.renumber(0) == {4: 1, 5: 2}
    assert pending.sendable() == [(1, "3"), (2, "4")]
    assert pending.add("5") == 3


# --- Position -----------------------------------------------------------------------------------


def test_client_delivers_each_number_once_and_never_over_a_hole() -> None:
    position = Position()
    assert position.receive(1)
    assert not position.receive(1)
    assert code_of(lambda: position.receive(3)) == 4000
    assert position.seq == 1


def test_gap_moves_the_client_to_the_head_even_backwards() -> None:
    position = Position(seq=50, epoch="a", acked=50)
    position.jump(7, "b")
    assert (position.seq, position.epoch, position.acked) == (7, "b", 7)
    position.jump(9, None)
    assert (position.seq, position.epoch) == (9, "b")
