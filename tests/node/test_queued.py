"""What waits for one client: frames in their order, several at once, acknowledgements merged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.frames import MAX_ARRAY, join
from graceful_ws.node.queued import ARRAY_BYTES, Queued


def filled(count: int, *, raw: bool = False, application: bool = True) -> Queued:
    queued = Queued(raw=raw)
    for number in range(count):
        queued.put(json.dumps(number), application)
    return queued


def nack(seq: int) -> str:
    return json.dumps({"type": "nack", "seq": seq})


def takes(queued: Queued) -> list[list[Any]]:
    """All messages until nothing is left, decoded."""
    taken = []
    while queued:
        frames, _ = queued.take()
        assert 1 <= len(frames) <= MAX_ARRAY
        text = json.loads(join(frames))
        taken.append(text if len(frames) > 1 else [text])
    return taken


def test_what_waits_goes_together_in_order() -> None:
    queued = filled(3)
    assert takes(queued) == [[0, 1, 2]]
    assert not queued
    assert (len(queued), queued.bytes, queued.control) == (0, 0, 0)


def test_no_more_than_an_array_takes_goes_together() -> None:
    assert [len(frames) for frames in takes(filled(MAX_ARRAY * 2 + 1))] == [
        MAX_ARRAY,
        MAX_ARRAY,
        1,
    ]


def test_a_large_frame_goes_and_what_follows_it_waits() -> None:
    queued = Queued(raw=False)
    for text in ("a", "b" * ARRAY_BYTES, "c"):
        queued.put(text, True)
    assert [frame[:1] for frame in queued.take()[0]] == ["a", "b"]
    assert queued.bytes == 1
    assert queued.take()[0] == ["c"]


def test_to_a_plain_client_each_message_goes_for_itself() -> None:
    queued = filled(2, raw=True)
    queued.put(b"bytes", True)
    assert [queued.take()[0] for _ in range(3)] == [["0"], ["1"], [b"bytes"]]
    assert not queued


def test_it_says_whether_an_application_message_is_among_what_goes() -> None:
    queued = filled(2, application=False)
    assert queued.control == 2
    assert queued.take()[1] is False
    assert queued.control == 0
    queued = filled(1, application=False)
    queued.put("message", True)
    assert queued.take()[1] is True
    queued.acknowledge(1, None)
    assert queued.take()[1] is False


def test_acknowledgements_are_merged_and_go_behind_what_waited() -> None:
    queued = filled(1)
    for seq in (3, 5, 4):
        queued.acknowledge(seq, None)
    queued.result(4, {"a": 1})
    queued.result(5, None)
    assert takes(queued) == [[0, {"type": "ack", "seq": 5, "results": {"4": {"a": 1}, "5": None}}]]
    queued.acknowledge(6, None)
    assert takes(queued) == [[{"type": "ack", "seq": 6}]]


def test_an_acknowledgement_alone_is_something_that_waits() -> None:
    queued = Queued(raw=False)
    queued.acknowledge(0, None)
    assert queued
    assert len(queued) == 0


def test_no_acknowledgement_overtakes_a_nack_and_none_is_crowded_out() -> None:
    queued = filled(MAX_ARRAY * 2)
    for seq in range(1, MAX_ARRAY + 1):
        queued.acknowledge(seq, nack(seq))
    taken = takes(queued)
    assert [frame for frames in taken for frame in frames if isinstance(frame, int)] == list(
        range(MAX_ARRAY * 2)
    )
    said = [frame for frames in taken for frame in frames if isinstance(frame, dict)]
    assert [frame["seq"] for frame in said] == [*range(1, MAX_ARRAY + 1), MAX_ARRAY]
    assert [frame["type"] for frame in said] == ["nack"] * MAX_ARRAY + ["ack"]


def test_nothing_is_left_when_the_connection_is_over() -> None:
    queued = filled(3, application=False)
    queued.acknowledge(1, nack(1))
    queued.clear()
    assert not queued
    assert (len(queued), queued.bytes, queued.control) == (0, 0, 0)
    queued.acknowledge(2, None)
    assert takes(queued) == [[{"type": "ack", "seq": 2}]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("frame"), st.integers(1, ARRAY_BYTES)),
            st.tuples(st.sampled_from(["ack", "nack", "take"]), st.just(0)),
        ),
        max_size=150,
    ),
)
def test_whatever_is_queued_goes_once_in_order_and_is_counted(
    events: list[tuple[str, int]],
) -> None:
    queued = Queued(raw=False)
    put: list[str] = []
    gone: list[str] = []
    acked = told = 0
    for kind, size in [*events, *[("take", 0)] * (len(events) + 1)]:
        if kind == "frame":
            frame = f"{len(put)}".ljust(size, "x")
            put.append(frame)
            queued.put(frame, False)
        elif kind != "take":
            acked += 1
            queued.acknowledge(acked, nack(acked) if kind == "nack" else None)
        elif queued:
            frames, _ = queued.take()
            for frame in frames:
                if not frame.startswith("{"):
                    gone.append(frame)
                    continue
                seq = json.loads(frame)["seq"]
                assert told <= seq <= acked
                told = seq
        waits = put[len(gone) :]
        assert (len(queued), queued.control) == (len(waits), len(waits))
        assert queued.bytes == sum(map(len, waits))
    assert gone == put
    assert told == acked
    assert not queued
