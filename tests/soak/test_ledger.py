"""The books of one client: each kind of trouble, and none."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from graceful_ws.soak.histogram import Histogram
from graceful_ws.soak.ledger import MAX_OPEN, Counts, Ledger, Messages

MESSAGES = Messages("run", 7)


class Books:
    """A ledger with a clock that goes a second with each step."""

    def __init__(self, sent: int = 0) -> None:
        self.now = 0.0
        self.acks, self.echoes = Histogram(), Histogram()
        self.ledger = Ledger(MESSAGES, self.acks, self.echoes)
        for _ in range(sent):
            self.send()

    @property
    def counts(self) -> Counts:
        return self.ledger.counts

    def send(self) -> None:
        self.now += 1
        self.ledger.sent(self.now)

    def ack(self, *numbers: int, result: Any = None) -> None:
        for number in numbers:
            self.now += 1
            self.ledger.acknowledged(number, result, self.now)

    def echo(self, *numbers: int) -> None:
        for number in numbers:
            self.now += 1
            self.ledger.received(MESSAGES.make(number), self.now)

    def close(self) -> Counts:
        self.ledger.close(self.now)
        return self.ledger.counts


def trouble(counts: Counts) -> dict[str, Any]:
    quiet = ("sent", "acknowledged", "received", "longest_gap")
    values = {name: getattr(counts, name) for name in counts.__dataclass_fields__}
    return {name: value for name, value in values.items() if value and name not in quiet}


def test_all_is_well_whatever_comes_first() -> None:
    books = Books(sent=4)
    books.ack(1, 2)
    books.echo(1, 2, 3)
    books.ack(3)
    books.echo(4)
    assert not books.ledger.is_settled
    books.ack(4, result=MESSAGES.make(4))
    assert books.ledger.is_settled
    counts = books.close()
    assert (counts.sent, counts.acknowledged, counts.received) == (4, 4, 4)
    assert trouble(counts) == {}


def test_acknowledged_without_an_echo_is_lost() -> None:
    books = Books(sent=3)
    books.ack(1, 2, 3)
    books.echo(1, 3)
    assert books.ledger.missing == 1
    assert books.ledger.is_settled  # in order it cannot come any more
    assert trouble(books.close()) == {"lost": 1}


def test_last_echoes_are_waited_for_and_lost_in_the_end() -> None:
    books = Books(sent=2)
    books.ack(1, 2)
    books.echo(1)
    assert (books.ledger.is_settled, books.ledger.missing) == (False, 0)
    assert trouble(books.close()) == {"lost": 1}


@pytest.mark.parametrize("acked_first", [True, False])
def test_second_echo_is_a_duplicate(acked_first: bool) -> None:
    books = Books(sent=1)
    if acked_first:
        books.ack(1)
    books.echo(1, 1)
    if not acked_first:
        books.ack(1)
    assert trouble(books.close()) == {"duplicated": 1}


def test_echo_behind_a_later_one_is_out_of_order_and_not_lost() -> None:
    books = Books(sent=3)
    books.ack(1, 2, 3)
    books.echo(2, 1, 3)
    assert trouble(books.close()) == {"out_of_order": 1}


def test_no_outcome_is_unanswered_and_not_lost() -> None:
    books = Books(sent=2)
    books.ack(1)
    books.echo(1)
    assert trouble(books.close()) == {"unanswered": 1}


def test_nacked_message_needs_no_echo() -> None:
    books = Books(sent=3)
    books.ledger.nacked(2, "outcome_unknown", books.now)
    books.ack(1, 3)
    books.echo(1, 3)
    books.send()
    books.ledger.nacked(4, "error", books.now)
    assert books.ledger.is_settled
    assert trouble(books.close()) == {"nacks": {"outcome_unknown": 1, "error": 1}}


def test_nacked_message_may_have_an_echo() -> None:
    books = Books(sent=2)
    books.ledger.nacked(1, "outcome_unknown", books.now)
    books.ack(2)
    books.echo(1, 2)
    assert trouble(books.close()) == {"nacks": {"outcome_unknown": 1}}


@pytest.mark.parametrize(
    "data",
    [
        MESSAGES.make(2),  # not sent yet
        MESSAGES.make(0),
        {**MESSAGES.make(1), "pad": "other"},
        {**MESSAGES.make(1), "client": 8},
        {**MESSAGES.make(1), "number": True},
        {**MESSAGES.make(1), "more": 1},
        {"soak": "run"},
    ],
)
def test_echo_of_what_was_not_sent_like_that_is_unexpected(data: Any) -> None:
    books = Books(sent=1)
    books.ledger.received(data, books.now)
    books.ack(1)
    books.echo(1)
    assert trouble(books.close()) == {"unexpected": 1}


def test_result_of_another_message_is_unexpected() -> None:
    books = Books(sent=2)
    books.echo(1, 2)
    books.ack(1, result=MESSAGES.make(2))
    books.ack(2, result=MESSAGES.make(2))
    assert trouble(books.close()) == {"unexpected": 1}


@pytest.mark.parametrize("data", ["hello", None, 1, {"soak": "another run", "number": 1}, []])
def test_messages_of_others_are_counted_apart(data: Any) -> None:
    books = Books()
    books.ledger.received(data, 0.0)
    assert trouble(books.close()) == {"others": 1}


def test_gaps_are_counted_by_reason() -> None:
    books = Books()
    for reason in ("expired", "trimmed", "expired"):
        books.ledger.gap(reason)
    assert books.counts.gaps == {"expired": 2, "trimmed": 1}


def test_longest_gap_counts_only_while_an_echo_is_due() -> None:
    books = Books()
    ledger = books.ledger
    ledger.sent(10.0)
    ledger.received(MESSAGES.make(1), 11.0)
    ledger.sent(100.0)  # a quiet time before it is none
    ledger.sent(101.0)
    ledger.received(MESSAGES.make(2), 103.0)
    assert books.counts.longest_gap == 3.0
    ledger.received(MESSAGES.make(3), 108.0)
    assert books.counts.longest_gap == 5.0
    ledger.sent(200.0)
    ledger.close(206.0)  # it never came
    assert books.counts.longest_gap == 6.0


def test_no_echo_is_due_for_what_was_nacked() -> None:
    books = Books()
    books.ledger.sent(1.0)
    books.ledger.nacked(1, "error", 2.0)
    books.ledger.sent(50.0)
    books.ledger.received(MESSAGES.make(2), 51.0)
    assert books.counts.longest_gap == 1.0


def test_late_echo_of_what_was_nacked_ends_no_gap() -> None:
    books = Books()
    books.ledger.sent(1.0)
    books.ledger.nacked(1, "outcome_unknown", 2.0)
    books.ledger.received(MESSAGES.make(1), 60.0)
    assert books.counts.longest_gap == 0.0


def test_trips_are_from_the_sending_to_the_ack_and_to_the_echo() -> None:
    books = Books()
    books.ledger.sent(1.0)
    books.ledger.received(MESSAGES.make(1), 1.5)
    books.ledger.acknowledged(1, None, 3.0)
    assert (books.echoes.longest, books.acks.longest) == (0.5, 2.0)


def test_books_stay_small_when_all_is_well() -> None:
    books = Books()
    for number in range(1, 3 * MAX_OPEN):
        books.send()
        books.ack(number)
        books.echo(number)
    assert not books.ledger._open


def test_books_stay_small_when_much_is_lost() -> None:
    books = Books()
    for number in range(1, 6 * MAX_OPEN):
        assert not books.ledger.is_full
        books.send()
        books.ack(number)
        if number % 2:
            books.echo(number)
    assert len(books.ledger._open) <= MAX_OPEN
    assert trouble(books.close()) == {"lost": 3 * MAX_OPEN - 1}


def test_books_are_full_when_nothing_comes_back() -> None:
    books = Books(sent=MAX_OPEN)
    books.ack(*range(1, MAX_OPEN + 1))
    assert books.ledger.is_full


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_message_is_as_large_as_asked_for(size: int) -> None:
    data = Messages("run", 3, size).make(12)
    assert len(json.dumps(data, separators=(",", ":"))) == max(size, 46)


def test_any_faults_are_counted_exactly() -> None:
    generator = random.Random(11)
    for _ in range(300):
        books = Books(sent=20)
        numbers = list(range(1, 21))
        lost = set(generator.sample(numbers, generator.randrange(4)))
        copied = set(generator.sample(numbers, generator.randrange(4))) - lost
        echoes = [n for n in numbers if n not in lost for _ in range(1 + (n in copied))]
        steps = [("ack", n) for n in numbers]
        for number in echoes:  # anywhere, in their order
            steps.append(("echo", number))
        where = sorted(generator.sample(range(len(steps)), len(echoes)))
        mixed: list[tuple[str, int]] = [("ack", 0)] * len(steps)
        for place, number in zip(where, echoes, strict=True):
            mixed[place] = ("echo", number)
        acks = iter(numbers)
        for place, (kind, number) in enumerate(mixed):
            if (kind, number) == ("ack", 0):
                mixed[place] = ("ack", next(acks))
        for kind, number in mixed:
            (books.ack if kind == "ack" else books.echo)(number)
        expected = {"lost": len(lost), "duplicated": len(copied)}
        assert trouble(books.close()) == {name: n for name, n in expected.items() if n}
