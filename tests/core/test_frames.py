from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core import frames
from graceful_ws.core.frames import ProtocolError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


def code_of(text: str) -> int:
    with pytest.raises(ProtocolError) as caught:
        frames.decode(text)
    assert len(caught.value.reason) > 0
    return caught.value.code


def test_frames_of_a_client_are_read_one_by_one_or_as_an_array() -> None:
    hello = '{"type":"hello","version":1,"instance":"a","attempt":1}'
    assert frames.decode(hello) == [frames.Hello(1, "a", 1)]
    both = frames.decode('[{"type":"ack","seq":3},{"type":"message","seq":1,"data":{"a":[1]}}]')
    assert both == [frames.ClientAck(3), frames.ClientMessage(1, {"a": [1]})]


def test_unknown_keys_are_ignored() -> None:
    assert frames.decode('{"type":"bye","reason":"x","later":1}') == [frames.Bye("x")]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "nope", '"', '{"type":"bye"', '{"type":"volatile","data":NaN}', "[1,]"),
        *("\ud83d", '{"type":"volatile","data":"\\ud83d"}', "[" * 65 + "]" * 65, "[" * 5000),
    ],
)
def test_what_is_not_json_or_too_deep_is_invalid_data(text: str) -> None:
    assert code_of(text) == 1007


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "1", "null", "{}", '{"type":"nope"}', '{"type":"message","seq":"1","data":1}'),
        *('{"type":"message","seq":1}', '{"type":"message","data":1}', '[[{"type":"bye"}]]'),
        *("[" + ",".join(['{"type":"bye"}'] * 65) + "]", '{"type":"welcome"}'),
    ],
)
def test_json_that_is_no_frame_is_a_protocol_error(text: str) -> None:
    assert code_of(text) == 1002


def test_depth_counts_nesting_and_not_brackets_in_strings() -> None:
    deep = '{"type":"volatile","data":' + "[" * 63 + "]" * 63 + "}"
    assert len(frames.decode(deep)) == 1
    assert code_of('{"type":"volatile","data":' + "[" * 64 + "]" * 64 + "}") == 1007
    text = json.dumps({"type": "volatile", "data": '["' * 100 + "\\"})
    assert len(frames.decode(text)) == 1


@given(JSON)
def test_data_comes_back_as_it_was(data: Any) -> None:
    text = frames.message_frame(7, frames.encode_data(data))
    assert json.loads(text) == {"type": "message", "seq": 7, "data": data}
    assert frames.decode(text) == [frames.ClientMessage(7, data)]


@pytest.mark.parametrize(
    "data", [float("nan"), float("inf"), -float("inf"), "\ud83d", ["\udc00"], {"\ud800": 1}]
)
def test_data_that_a_browser_could_not_read_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        frames.encode_data(data)


def test_circular_and_foreign_data_are_refused() -> None:
    circular: list[Any] = []
    circular.append(circular)
    with pytest.raises(ValueError):
        frames.encode_data(circular)
    with pytest.raises(TypeError):
        frames.encode_data({1, 2})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError):
        frames.encode_data(deep)
    while deep:
        deep = deep[0]  # or Python's own deallocation of it may overflow


def test_nul_characters_are_escaped_so_that_a_text_column_takes_them() -> None:
    assert "\x00" not in frames.encode_data("\x00")
    assert json.loads(frames.encode_data("\x00")) == "\x00"


def test_text_from_elsewhere_is_checked() -> None:
    assert frames.check_data('{"a": 1}') == '{"a": 1}'
    for text in ("nope", "NaN", '"\\ud800"', "\ud800", "[" * 5000):
        with pytest.raises(ValueError):
            frames.check_data(text)


def test_plain_text_is_decoded_with_the_same_bounds() -> None:
    assert frames.decode_plain('{"a":1}') == {"a": 1}
    for text in ("nope", "[" * 65 + "]" * 65, "\ud800"):
        with pytest.raises(ProtocolError) as caught:
            frames.decode_plain(text)
        assert caught.value.code == 1007


def test_waiting_frames_travel_as_one() -> None:
    assert frames.join(['{"a":1}']) == '{"a":1}'
    assert json.loads(frames.join(['{"a":1}', '{"b":2}'])) == [{"a": 1}, {"b": 2}]


def test_stream_and_volatile_frames_are_json() -> None:
    assert json.loads(frames.stream_frame('"room.7"', 3, "[1]")) == {
        "type": "message",
        "stream": "room.7",
        "seq": 3,
        "data": [1],
    }
    assert json.loads(frames.volatile_frame("1")) == {"type": "volatile", "data": 1}


@pytest.mark.parametrize(
    "frame",
    [
        frames.Ack(3, {"2": {"x": 1}}),
        frames.Nack(3, "error", "why", True, 500),
        frames.Gap("trimmed", 9, None, 3, 5, None),
        frames.Ping(12, 0.25),
        frames.Subscribed("s", "e", 3),
        frames.Unsubscribed("s"),
        frames.Drain(10, 20, "deploy"),
        frames.Superseded("b"),
        frames.Error("x", "y", 3),
        frames.Welcome("i", None, True, 1, 2, {"interval": 5.0}, 3600.0, 5.0, {}, {}, "n"),
    ],
)
def test_client_reads_what_the_server_writes(frame: frames.Frame) -> None:
    text = frames.encode(frame)
    assert frames.decode_server(text) == [(json.loads(text)["type"], frame)]


def test_client_ignores_types_it_does_not_know() -> None:
    text = '[{"type":"later","x":1},{"type":"message","seq":1,"data":2}]'
    assert frames.decode_server(text) == [("message", {"type": "message", "seq": 1, "data": 2})]


@pytest.mark.parametrize("text", ["nope", "[1]", "{}", '{"type":"ack"}', "\ud800", "[" * 5000])
def test_client_answers_nonsense_with_invalid_data(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        frames.decode_server(text)
    assert caught.value.code == 1007
