"""Random bad frames through a real Daphne."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

from graceful_ws.core.close_codes import CLOSE_CODES, CloseCode, Sender
from tests.support.raw import Raw
from tests.support.servers import Site
from tests.system.conftest import MakeSite

LIMIT = 64 * 1024  # bytes of a message
COUNT = 300


def frame(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def value(rng: random.Random) -> Any:
    return rng.choice([None, True, 1, -1, 1.5, "x", [], {}, [[]], {"a": [1]}, 2**70, "\u0000"])


# One function for each way of being wrong; its message must never happen to be right.


def noise(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits + ' ,:{}[]"\\/\u00e9\U0001f600\u2028'
    return "#" + "".join(rng.choice(letters) for _ in range(rng.randrange(200)))


def cut_short(rng: random.Random) -> str:
    text = frame("message", seq=1, data=value(rng))
    return text[: rng.randrange(1, len(text))]


def bad_escape(rng: random.Random) -> str:
    low = f"\\u{rng.randrange(0xDC00, 0xE000):04x}"
    high = f"\\u{rng.randrange(0xD800, 0xDC00):04x}"
    bad = rng.choice([low, high, low + high, high + "x", "\\x00", "\\u12", "\\"])
    return '{"type":"message","seq":1,"data":"' + bad + '"}'


def bad_number(rng: random.Random) -> str:
    return '{"type":"volatile","data":' + rng.choice(["NaN", "-Infinity", "+1", "01", "1."]) + "}"


def too_deep(rng: random.Random) -> str:
    depth = rng.randrange(64, 5000)
    return '{"type":"volatile","data":' + "[" * depth + "]" * depth + "}"


def not_utf8(rng: random.Random) -> bytes:
    return b'"' + bytes([rng.randrange(0xF8, 0x100)]) + b'"'


def binary(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(100))


def no_frame(rng: random.Random) -> str:
    return json.dumps(value(rng))


def wrong_type(rng: random.Random) -> str:
    kind = rng.choice(["message", "message", "mes\u0000sage", "Message", ""])
    return frame(kind, data=value(rng), seq=rng.choice(["1", None, [], 1.5, {}, True]))


def hole(rng: random.Random) -> str:
    return frame("message", data=1, seq=rng.choice([0, 2, 3, 64, 2**31, 2**53, -1, -(2**63)]))


def ack_of_nothing(rng: random.Random) -> str:
    return frame("ack", seq=1 + rng.getrandbits(50))


def second_hello(rng: random.Random) -> str:
    return frame("hello", version=1, instance="again", attempt=rng.randrange(9))


def bad_array(rng: random.Random) -> str:
    return "[" + ",".join(['{"type":"ack"}'] * rng.choice([0, 65, 200])) + "]"


def too_long(rng: random.Random) -> str:
    return frame("volatile", data="x" * (LIMIT + rng.randrange(9999)))


Make = Callable[[random.Random], str | bytes]
BAD: dict[Make, CloseCode] = {
    noise: CloseCode.INVALID_DATA,
    cut_short: CloseCode.INVALID_DATA,
    bad_escape: CloseCode.INVALID_DATA,
    bad_number: CloseCode.INVALID_DATA,
    too_deep: CloseCode.INVALID_DATA,
    not_utf8: CloseCode.INVALID_DATA,
    binary: CloseCode.UNSUPPORTED_DATA,
    no_frame: CloseCode.PROTOCOL_ERROR,
    wrong_type: CloseCode.PROTOCOL_ERROR,
    hole: CloseCode.PROTOCOL_ERROR,
    ack_of_nothing: CloseCode.PROTOCOL_ERROR,
    second_hello: CloseCode.PROTOCOL_ERROR,
    bad_array: CloseCode.PROTOCOL_ERROR,
    too_long: CloseCode.MESSAGE_TOO_BIG,
}


async def answers(site: Site) -> None:
    """The server answers the next client."""
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        assert await raw.ask({"result": 42}) == 42
        await raw.bye()


async def test_three_hundred_bad_frames_cost_their_senders_one_close_each(
    shared_site: MakeSite,
) -> None:
    site = shared_site()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    seen: set[int] = set()
    async with Raw(site.ws("/echo/")) as witness:
        await witness.hello()
        for n in range(COUNT):
            make = rng.choice(list(BAD))
            bad = make(rng)
            async with Raw(site.ws("/echo/")) as raw:
                await raw.hello()
                if isinstance(bad, bytes):
                    await raw.send_bytes(bad, text=make is not binary)
                else:
                    await raw.send_text(bad)
                code, reason = await raw.closed()
                assert code == BAD[make], (seed, n, make.__name__, code, reason, bad[:200])
                assert raw.messages == []
            seen.add(code)
            if n % 50 == 49:
                await answers(site)
        assert await witness.ask({"result": "undisturbed"}) == "undisturbed"
        await witness.bye()
    assert seen == set(BAD.values())
    assert all(CLOSE_CODES[CloseCode(code)].sender is not Sender.CLIENT for code in seen)
