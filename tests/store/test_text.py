"""Data is kept as the text that was sent: replay equals live, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graceful_ws.core.frames import encode_data, message_frame
from graceful_ws.publishing import send_to_session
from graceful_ws.store.entries import TakePending
from graceful_ws.store.rounds import page
from tests.store.kit import append, attached, complete, done, outcomes_kept

TEXTS = [
    '"\\u0000"',
    '{"b":1,"a":2,"b":3}',  # jsonb would reorder and drop
    '{"n": 1.0, "e":1E400, "z":-0}',
    '"\U0001f600 \u2028 \ufeff \u00e9 e\u0301 \x7f"',
    '"%s %% {} \\\\ \' \\" ; -- \\n"',
    "null",
    '""',
    " [ 1 , 2 ] ",
]


@pytest.mark.usefixtures("database")
def test_replay_equals_what_was_sent_live() -> None:
    owner = attached()
    first = done(append(owner, *TEXTS))[0]
    live = [message_frame(seq, text) for seq, text in enumerate(TEXTS, first)]
    replay = [message_frame(seq, text) for seq, text in page(owner.session, 0, 100)]
    assert replay == live


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("data", ["\x00", {"\x00": ["\x00"]}, "😀", -0.0, 2**63, [[]], {}])
def test_what_the_application_sent_comes_back_from_the_journal(data: Any) -> None:
    owner = attached()
    send_to_session(owner.uuid, data)
    done(append(owner, encode_data(data)), TakePending(owner.session, owner.generation))
    done(complete(owner, 1, encode_data({"result": data})))
    kept = [json.loads(text) for _, text in page(owner.session, 0, 10)]
    assert [*kept, json.loads(outcomes_kept(owner)[1])["result"]] == [data] * 3


@pytest.mark.usefixtures("database")
def test_a_large_text_comes_back_byte_for_byte() -> None:
    owner = attached()
    large = encode_data("\x00é😀\\\"'%s" * 60_000)
    assert len(large.encode()) > 1_000_000
    done(append(owner, large, "1"), complete(owner, 1, large))
    assert page(owner.session, 0, 10) == [(1, large), (2, "1")]
    assert outcomes_kept(owner) == {1: large}


@pytest.mark.usefixtures("database")
def test_pages_are_read_in_order_from_behind_a_number() -> None:
    owner, other = attached(), attached()
    texts = [str(n) for n in range(1, 26)]
    done(*(entry for text in texts for entry in (append(owner, text), append(other, "-"))))
    send_to_session(owner.uuid, "not numbered yet")
    read: list[tuple[int, str]] = []
    for length in (10, 10, 5, 0):
        rows = page(owner.session, read[-1][0] if read else 0, 10)
        assert len(rows) == length
        read += rows
    assert read == list(enumerate(texts, 1))


@pytest.mark.parametrize(
    "data",
    ["\ud800", "\udc00 behind", {"\udfff": 1}, ["deep", {"a": "x\ud83d"}], "hi \ud83d"],
)
def test_ill_formed_unicode_is_refused_before_anything_is_kept(data: Any) -> None:
    with pytest.raises(ValueError, match="Unicode"):
        encode_data(data)


@pytest.mark.parametrize("data", [float("nan"), float("inf"), [-float("inf")], {"a": float("nan")}])
def test_numbers_that_json_has_no_form_for_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_data(data)


def test_circular_data_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match=r"nested|[Cc]ircular"):
        encode_data(circle)
