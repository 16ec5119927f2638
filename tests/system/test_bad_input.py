"""Input that no honest client sends: one close code for its sender, nothing for anybody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.consumers import POISON
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.system.conftest import MakeSite

LIMIT = 64 * 1024  # bytes of a message
HELLO_LIMIT = 128 * 1024


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(server=request.param)


@pytest.fixture
def daphne(shared_site: MakeSite) -> Site:
    return shared_site(server="daphne")


def message(seq: int, size: int, filler: str = "x") -> str:
    """The text of a message frame that is so many bytes long."""
    empty = json.dumps({"type": "message", "seq": seq, "data": ""})
    room, rest = divmod(size - len(empty), len(filler.encode()))
    return empty[:-2] + filler * room + "x" * rest + '"}'


def nested(depth: int) -> str:
    """A frame that is so many brackets deep."""
    data = "[" * (depth - 1) + "]" * (depth - 1)
    return f'{{"type":"message","seq":1,"data":{data}}}'


@pytest.mark.parametrize("filler", ["x", "é", "😀"])
async def test_message_at_the_limit_is_fine_and_one_byte_over_it_is_1009(
    site: Site, filler: str
) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        text = message(1, LIMIT, filler)
        assert len(text.encode()) == LIMIT
        await raw.send_text(text)
        await raw.expect("ack", seq=1)
        assert raw.messages == [json.loads(text)["data"]]
        await raw.send_text(message(2, LIMIT + 1, filler))
        assert (await raw.closed())[0] == 1009
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=1))["last_client_seq"] == 1
        await later.bye()


async def test_an_instance_with_a_nul_is_a_protocol_error(site: Site) -> None:
    """PostgreSQL refuses the character, and the whole round with it."""
    async with Raw(site.ws("/echo/"), instance="a\0b") as raw:
        await raw.hello(later=True)
        assert (await raw.closed())[0] == 1002


async def test_hello_has_a_limit_of_its_own(site: Site) -> None:
    for size, code in ((HELLO_LIMIT, None), (HELLO_LIMIT + 1, 1009)):
        hello = {"type": "hello", "version": 1, "instance": "i", "attempt": 1, "unknown key": ""}
        hello["unknown key"] = "x" * (size - len(json.dumps(hello)))
        async with Raw(site.ws("/echo/")) as raw:
            await raw.send_text(json.dumps(hello))
            if code is None:
                await raw.welcome()
                await raw.bye()
            else:
                assert (await raw.closed())[0] == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 1007),
        ("{", 1007),
        ("hello?", 1007),
        ('{"type":"message","seq":1,"data":NaN}', 1007),
        ('{"type":"message","seq":1,"data":[Infinity]}', 1007),
        (r'{"type":"message","seq":1,"data":"\ud83d"}', 1007),
        (r'{"type":"message","seq":1,"data":"\ude00\ud83d"}', 1007),
        (r'{"type":"message","seq":1,"data":{"\udc00":1}}', 1007),
        ('{"type":"message","seq":1,"data":"\t"}', 1007),
        ('{"type":"message","seq":1,"data":1} x', 1007),
        (nested(65), 1007),
        (nested(20_000), 1007),
        ("[" * 30_000, 1007),
        ('{"a":' * 1000, 1007),
        ("1", 1002),
        ("null", 1002),
        ("[]", 1002),
        ("{}", 1002),
        ('["message"]', 1002),
        ('{"type":"unheard of"}', 1002),
        ('{"type":"welcome","session_id":"x"}', 1002),
        ('{"type":"message","data":1}', 1002),
        ('{"type":"message","seq":"1","data":1}', 1002),
        ('{"type":"message","seq":1.5,"data":1}', 1002),
        ('{"type":"message","seq":true,"data":1}', 1002),
        ('{"type":"message","seq":0,"data":1}', 1002),
        ('{"type":"message","seq":-1,"data":1}', 1002),
        ('{"type":"message","seq":2,"data":1}', 1002),
        ('{"type":"message","seq":9007199254740993,"data":1}', 1002),
        ('{"type":"message","seq":99999999999999999999,"data":1}', 1002),
        ('{"type":"ack","seq":1}', 1002),
        ('{"type":"ack","seq":99999999999999999999}', 1002),
        ('{"type":"pong","sent_at":1,"seq":1}', 1002),
        ('{"type":"pong"}', 1002),
        ('{"type":"ping"}', 1002),
        ('{"type":"ping","sent_at":1.5}', 1002),
        ('{"type":"ping","sent_at":9007199254740992}', 1002),
        ('{"type":"ping","sent_at":-99999999999999999999}', 1002),
        ('{"type":"hello","version":1,"instance":"again","attempt":2}', 1002),
        ("[" + ",".join(['{"type":"ack"}'] * 65) + "]", 1002),
    ],
)
async def test_bad_frame_is_answered_with_the_code_of_the_table(
    daphne: Site, text: str, code: int
) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        await raw.send_text(text)
        seen, reason = await raw.closed()
        assert seen == code, reason
        assert reason
        assert raw.messages == []


@pytest.mark.parametrize(
    ("data", "text", "code"),
    [
        (b"\xff\xfe", True, 1007),
        (b'{"type":"message","seq":1,"data":"\xc3"}', True, 1007),
        (b'{"type":"message","seq":1,"data":"\xed\xa0\x80"}', True, 1007),  # a surrogate in UTF-8
        (b'{"type":"message","seq":1,"data":1}', False, 1003),
        (b"", False, 1003),
    ],
)
async def test_bytes_that_are_no_text_are_1007_and_binary_is_1003(
    site: Site, data: bytes, text: bool, code: int
) -> None:
    if site.node.server == "granian" and code == 1007:
        code = 1002  # it keeps to itself what was wrong
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.send_bytes(data, text=text)
        assert (await raw.closed())[0] == code
    async with again(raw) as later:
        assert (await later.hello())["resumed"]
        await later.bye()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"version": 2}, 4505),
        ({"version": 0}, 4505),
        ({"instance": ""}, 1002),
        ({"instance": "x" * 65}, 1002),
        ({"attempt": -1}, 1002),
        ({"attempt": 2**60}, 1002),
        ({"last_seq_id": -1}, 1002),
        ({"last_seq_id": 2**53}, 1002),
        ({"pending_from": -5}, 1002),
        ({"positions": {"room": 1}}, 1002),
        ({"session_token": 5}, 1002),
    ],
)
async def test_bad_hello_is_refused_before_any_row(
    daphne: Site, fields: dict[str, Any], code: int
) -> None:
    rows = daphne.sql("SELECT count(*) FROM graceful_ws_session")
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello(later=True, **fields)
        assert (await raw.closed())[0] == code
    assert daphne.sql("SELECT count(*) FROM graceful_ws_session") == rows


@pytest.mark.parametrize("kind", ["message", "ack", "pong", "volatile", "bye"])
async def test_hello_comes_first(daphne: Site, kind: str) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.send({"type": kind, "seq": 1, "data": 1, "sent_at": 1})
        assert (await raw.closed())[0] == 1002


async def test_sixty_four_deep_and_sixty_four_in_an_array_are_fine(site: Site) -> None:
    async with Raw(site.ws("/light/")) as raw:
        await raw.hello()
        await raw.send_text(nested(64))
        await raw.expect("ack", seq=1)
        await raw.send([{"type": "message", "seq": 2 + n, "data": {"n": n}} for n in range(64)])
        await raw.expect("ack", seq=65)
        await raw.bye()


@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
async def test_nul_characters_travel_and_are_replayed_and_harm_nobody(
    shared_site: MakeSite, vendor: str
) -> None:
    site = shared_site(database=vendor, server="daphne")
    nasty = {"\u0000": "a\u0000b", "result": ["\u0000", "\u2028", "\U0010ffff", "\ufffe"]}
    async with Raw(site.ws("/echo/")) as raw, Raw(site.ws("/transaction/")) as other:
        await raw.hello()
        await other.hello()
        assert await raw.ask(nasty) == nasty["result"]
        assert await other.ask(nasty) == nasty["result"]
        assert raw.messages == other.messages == [nasty]
        await other.bye("\u0000")
    async with again(raw) as later:
        await later.hello(last_seq_id=0, pending_from=1)
        assert await later.got(1) == nasty
        assert (await later.expect("ack", seq=1))["results"] == {"1": nasty["result"]}
        await later.bye("\u0000")


@pytest.mark.parametrize("name", list(POISON))
async def test_send_json_refuses_what_no_browser_could_read_and_the_connection_lives(
    daphne: Site, name: str
) -> None:
    async with Raw(daphne.ws("/echo/")) as raw:
        await raw.hello()
        assert str(await raw.ask({"poison": name})).startswith("ValueError")
        await raw.ask("next")
        assert raw.numbers == [1]
        await raw.bye()


async def test_foreign_origin_is_refused_with_403(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with Raw(site.ws("/echo/"), origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    for origin in (f"http://127.0.0.1:{site.port}", "https://localhost"):
        async with Raw(site.ws("/echo/"), origin=origin) as raw:
            await raw.hello()
            await raw.bye()
