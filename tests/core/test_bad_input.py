"""Ten thousand random messages of a client: frames, or a ProtocolError with a code of the table."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from graceful_ws.core.close_codes import CLOSE_CODES, CloseCode, Sender
from graceful_ws.core.frames import ClientMessage, ProtocolError, decode, decode_plain
from graceful_ws.core.window import Intake

TABLE = {
    code
    for code, meaning in CLOSE_CODES.items()
    if (meaning.sender in (Sender.SERVER, Sender.BOTH) and code < 3000) or code == 4201
}
TYPES = ["hello", "message", "ack", "pong", "volatile", "bye", "welcome", "", "MESSAGE", "\u0000"]
KEYS = ["seq", "data", "version", "instance", "attempt", "streams", "positions", "sent_at", "type"]
NUMBERS = [0, 1, 2, 3, -1, 63, 64, 65, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 2**200, 1.5, 1e308]
TEXTS = ["", "x", "\u0000", "é", "😀", '"', "\\", "\u2028", "x" * 900]
TEXTS += [*TEXTS, "\ud800", "\udfff\ud800"]


def value(rng: random.Random, depth: int = 0) -> Any:
    choice = rng.randrange(9 if depth < 4 else 5)
    if choice < 2:
        return rng.choice(NUMBERS)
    if choice == 2:
        return rng.choice(TEXTS)
    if choice < 5:
        return rng.choice([None, True, False] * 5 + [float("nan"), float("inf")])
    if choice < 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS + TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def frame(rng: random.Random, seq: int) -> dict[str, Any]:
    """A frame that is right but for some of its fields."""
    kind = rng.choice(["message"] * 6 + TYPES)
    right: dict[str, Any] = {"type": kind, "seq": seq, "data": value(rng), "sent_at": 1}
    if kind == "hello":
        right |= {"version": 1, "instance": "i", "attempt": 1}
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        right[rng.choice(KEYS)] = value(rng)
    return right


def mangled(rng: random.Random, text: str) -> str:
    """Cut, doubled, turned, or with other characters in it."""
    at = rng.randrange(len(text) + 1)
    match rng.randrange(5):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + rng.choice('{}[]",:\\\u0000\ud800x1-+.eE \t\n') + text[at + 1 :]
        case 2:
            return text + text
        case 3:
            return text[:at] + text[at + rng.randrange(5) :]
        case _:
            return rng.choice("[{") * rng.choice([1, 64, 65, 5000]) + text


def bad_message(rng: random.Random, seq: int) -> str:
    what: Any = frame(rng, seq)
    if rng.random() < 0.15:
        what = [frame(rng, seq + n) for n in range(rng.choice([0, 1, 3, 64, 65]))]
    elif rng.random() < 0.1:
        what = value(rng)
    text = json.dumps(what, ensure_ascii=rng.random() < 0.5)
    return mangled(rng, text) if rng.random() < 0.4 else text


def test_random_messages_are_frames_or_a_protocol_error_with_a_code_of_the_table() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    codes: Counter[int] = Counter()
    taken = 0
    intake = Intake(8, 4096)
    for _ in range(10_000):
        text = bad_message(rng, intake.received + rng.choice([1, 1, 1, 1, 0, 2, -1]))
        try:
            decode_plain(text)
        except ProtocolError as error:
            assert error.code == CloseCode.INVALID_DATA, text[:300]
        done, received, size = intake.done, intake.received, intake.bytes
        try:
            for found in decode(text):
                if isinstance(found, ClientMessage):
                    intake.receive(found.seq, len(text))
                    taken += 1
        except ProtocolError as error:
            assert error.code in TABLE, (error.code, text[:300])
            assert error.reason
            codes[error.code] += 1
        assert intake.done == done
        assert intake.received >= received
        assert intake.bytes >= size
        if intake.received > intake.done and rng.random() < 0.1:
            intake.complete(intake.done + 1)
    assert set(codes) == {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, 4201}, codes
    assert taken > 500
