"""One call for all connections that have something to send, at the end of the loop's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from graceful_ws.core import frames
from graceful_ws.node import flusher as under_test
from graceful_ws.node.flusher import AT_ONCE, Flusher
from tests.support.waiting import eventually

WITHIN = 5.0


class Sender:
    """Notes in which order it was served, and does something then."""

    def __init__(self, served: list[Sender], does: Callable[[], None] | None = None) -> None:
        self.served = served
        self.does = does

    def flush(self) -> None:
        self.served.append(self)
        if self.does is not None:
            self.does()


def counted_turns(flusher: Flusher, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many senders wait at the beginning of each call by the loop."""
    turns: list[int] = []
    flush = flusher._flush

    def counted() -> None:
        turns.append(len(flusher._due))
        flush()

    monkeypatch.setattr(flusher, "_flush", counted)
    return turns


async def test_who_asks_is_served_in_order_and_not_before_the_turn_is_over() -> None:
    flusher, served = Flusher(), list[Sender]()
    senders = [Sender(served) for _ in range(3)]
    for sender in senders:
        flusher.ask(sender)
    assert served == []
    assert flusher
    await asyncio.sleep(0)
    assert served == senders
    assert not flusher


async def test_a_sender_that_fails_keeps_nobody_from_being_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    flusher, served = Flusher(), list[Sender]()
    senders = [Sender(served, fail), Sender(served)]
    for sender in senders:
        flusher.ask(sender)
    await asyncio.sleep(0)
    assert served == senders
    assert "a connection could not be served" in caplog.text
    flusher.ask(senders[1])
    await asyncio.sleep(0)
    assert served == [*senders, senders[1]]


async def test_others_have_their_turn_while_very_many_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "AT_ONCE", 10)
    flusher, served, seen = Flusher(), list[Sender](), list[int]()
    for _ in range(25):
        flusher.ask(Sender(served))
    while flusher:
        await asyncio.sleep(0)
        seen.append(len(served))
    assert seen == [10, 20, 25]
    assert AT_ONCE >= 100


async def test_a_sender_that_asks_again_while_it_is_served_comes_again_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flusher, served = Flusher(), list[Sender]()
    turns = counted_turns(flusher, monkeypatch)

    def again() -> None:
        if len(served) < 10:
            flusher.ask(sender)

    sender = Sender(served, again)
    flusher.ask(sender)
    await eventually(lambda: len(served) == 10, WITHIN)
    await asyncio.sleep(0)
    assert turns == [1] * 10


async def test_what_goes_to_many_is_encoded_once_and_not_kept() -> None:
    flusher, encoded = Flusher(), list[bytes]()

    def encode(texts: list[str]) -> Callable[[], None]:
        return lambda: encoded.append(flusher.encoded(texts))

    for texts in (["{}"], ["{}"], ["{}", "[]"], ["{}"], ["ü"]):
        flusher.ask(Sender([], encode(texts)))
    await asyncio.sleep(0)
    same, again, both, once_more, other = encoded
    assert same is again
    assert same == once_more == frames.wire("{}")
    assert both == frames.wire("[{},[]]")
    assert other == frames.wire("ü")
    flusher.ask(Sender([], encode(["ü"])))
    await asyncio.sleep(0)
    assert encoded[-1] == other
    assert encoded[-1] is not other


async def test_text_and_bytes_that_look_alike_are_not_taken_for_each_other() -> None:
    flusher = Flusher()
    assert flusher.encoded(["{}"]) == b"\x81\x02{}"
    assert flusher.encoded([b"{}"]) == b"\x82\x02{}"


@pytest.mark.filterwarnings("error")
async def test_what_cannot_be_encoded_is_not_taken_for_what_was_encoded_before() -> None:
    flusher = Flusher()
    flusher.encoded(["{}"])
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            flusher.encoded(["\ud800"])


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_says_how_long_it_is_as_rfc_6455_wants_it(size: int, head: bytes) -> None:
    assert frames.wire("x" * size) == head + b"x" * size
