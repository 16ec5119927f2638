"""``python -m graceful_ws.client``: lines in, lines out, and the rest on the side."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client.telling import as_text, meaning
from graceful_ws.client.terminal import MAX_LINE, lines, parse_headers, parse_line, url_problem
from tests.client.peers import Visit, serving
from tests.soak.running import Running
from tests.support.processes import ROOT
from tests.support.servers import Site
from tests.support.waiting import eventually

ENV = {key: value for key, value in os.environ.items() if "DJANGO" not in key}
SETTINGS = {"reconnect_window": 0.2, "drain_window": 0.2, "drain_deadline": 3.3}


def terminal(*arguments: str, **options: Any) -> Running:
    return Running("-m", "graceful_ws.client", *arguments, env=ENV, **options)


async def site_of(make_site: Callable[..., Site]) -> Site:
    site = make_site(start=False, settings=SETTINGS)
    await site.astart()
    return site


async def sessions_ended(site: Site, *endings: tuple[str, str]) -> None:
    rows = "SELECT state, cause FROM graceful_ws_session"
    await eventually(lambda: site.sql(rows) == list(endings))


# Against real servers


async def test_lines_go_out_and_come_back_and_the_end_of_the_input_is_a_bye(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/soak/")) as session:
        session.write('hello world\n\n{"a": [1, "é"]}\n42\n  "quoted"\nNaN\nlast, without an end')
        session.end_input()
        assert await session.ends() == 0
    said = ["hello world", '{"a": [1, "é"]}', "42", "quoted", "NaN", "last, without an end"]
    assert session.out.splitlines() == said
    assert re.search(r"connected, new session [\w-]+ at ws://.*/soak/ \(node node-1\)", session.err)
    assert re.search(r"round trip \d+\.\d ms", session.err)
    assert [line for line in session.err.splitlines() if line.startswith("= ")] == [
        f"= {line}" for line in said
    ]
    assert session.err.splitlines()[-1] == "bye: 1000"
    await sessions_ended(site, ("ended", "bye"))


async def test_kill_of_the_server_is_told_and_what_is_typed_meanwhile_arrives(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/soak/")) as session:
        session.write("one\n")
        await session.says("(?m)^one$")
        site.node.kill()
        await session.says(r"connection ended: 1006, the connection was lost")
        await session.says(r"waiting: try 1 in \d\.\d s")
        session.write("two\n")
        await asyncio.to_thread(site.node.start)
        await session.says(r"resumed [\w-]+ at ws://")
        await session.says("(?m)^two$")
        session.end_input()
        assert await session.ends() == 0
    assert session.out == "one\ntwo\n"


async def test_drain_is_told(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/soak/"), "--json") as session:
        await session.says('"new": "connected"')
        site.node.terminate()
        await session.says('"type": "draining"')
        await session.says('"type": "disconnected", "code": 1012')
        session.signal(signal.SIGINT)
        assert await session.ends() == 130


async def test_ctrl_c_says_bye(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/soak/")) as session:
        await session.says("round trip")
        session.signal(signal.SIGINT)
        assert await session.ends() == 130
    assert "bye: 1000" in session.err
    await sessions_ended(site, ("ended", "bye"))


async def test_final_close_ends_it_though_the_input_goes_on(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/echo/"), "--quiet") as session:
        session.write('{"close": null, "reason": "enough"}\n')
        assert await session.ends() == 1
    assert session.err == "closed for good: 4507, the consumer called close() (enough)\n"


async def test_message_that_was_not_handled_makes_status_1(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/echo/"), "--quiet") as session:
        session.write('{"fail": "on purpose"}\nfine\n')
        session.end_input()
        assert await session.ends() == 1
    assert session.out == "fine\n"
    assert session.err == "message 1 was not handled: error the handler failed\n"


async def test_message_over_the_limit_is_not_sent(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/soak/"), "--quiet") as session:
        session.write("x" * 70_000 + "\nfine\n")
        session.end_input()
        assert await session.ends() == 1
    assert session.out == "fine\n"
    assert session.err.startswith("not sent: 70")


async def test_file_is_read_to_its_end(make_site: Callable[..., Site], tmp_path: Path) -> None:
    site = await site_of(make_site)
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(300)))
    with path.open("rb") as file:
        async with terminal(site.ws("/soak/"), "--quiet", stdin=file) as session:
            assert await session.ends() == 0
    assert session.out == path.read_text()


async def test_json_has_a_line_for_everything(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with terminal(site.ws("/room/?stream=r"), "--json") as session:
        session.write('{"publish": "r", "data": "hi"}\n')
        session.end_input()
        assert await session.ends() == 0
    assert session.err == ""
    told = {event.pop("type"): event for event in map(json.loads, session.out.splitlines())}
    assert told["message_received"] == {"seq": 1, "stream": "r", "data": "hi"}
    assert told["message_acknowledged"] == {"seq": 1, "result": ["r"]}
    assert told["welcomed"]["endpoint"] == site.ws("/room/?stream=r")
    assert told["disconnected"] == {"code": 1000, "reason": "bye", "final": True}
    assert told["state_changed"]["new"] == "closed"


# Against scripted peers


async def test_listener_without_input_waits_for_its_connection_and_lingers() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await asyncio.sleep(0.2)
        await visit.say("message", seq=1, data="news\x1b[2J")
        await visit.read("bye")

    async with serving(script) as peer:
        peer.refusing = 1
        nothing = asyncio.subprocess.DEVNULL
        async with terminal(peer.url, "--linger", "3", stdin=nothing) as session:
            assert await session.ends() == 0
    assert session.out == '"news\\u001b[2J"\n'
    assert "not connected: refused with HTTP 503" in session.err


async def test_end_of_the_input_waits_for_every_outcome() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await visit.ws.close(1012, "restart")

    async def second(visit: Visit) -> None:
        await visit.welcome()
        frame = await visit.read("message")
        await asyncio.sleep(0.3)
        await visit.say("ack", seq=frame["seq"], results={"1": "done"})
        await visit.read("bye")

    async def each(visit: Visit) -> None:
        await (script(visit) if visit.number == 1 else second(visit))

    async with serving(each) as peer, terminal(peer.url, "--linger", "0") as session:
        session.write("hello\n")
        session.end_input()
        assert await session.ends() == 0
    assert "= done\n" in session.err


async def test_headers_and_origin_are_sent() -> None:
    seen: list[Any] = []

    async def script(visit: Visit) -> None:
        seen.append(visit.ws.request.headers)  # type: ignore[union-attr]
        await visit.welcome()
        await visit.read("bye")

    async with serving(script) as peer:
        options = ["--header", "Cookie: sessionid=abc", "--origin", "https://example.com"]
        async with terminal(peer.url, *options, "--linger", "0") as session:
            session.end_input()
            assert await session.ends() == 0
    assert (seen[0]["Cookie"], seen[0]["Origin"]) == ("sessionid=abc", "https://example.com")


async def test_gap_is_told() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("gap", reason="trimmed", head=7)
        await visit.read("bye")

    async with serving(script) as peer, terminal(peer.url, "--quiet") as session:
        await session.says("GAP: messages of the session are missing")
        session.end_input()
        assert await session.ends() == 0


async def test_output_that_nobody_reads_ends_it() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        for seq in range(1, 1000):
            await visit.say("message", seq=seq, data="x" * 1000)
        await visit.read("bye")

    async with serving(script) as peer:
        read, write = os.pipe()
        os.close(read)
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "graceful_ws.client", peer.url, "--linger", "inf"],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write,
            stderr=asyncio.subprocess.PIPE,
            env=ENV,
            cwd=ROOT,
        )
        os.close(write)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err and b"BrokenPipe" not in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: URL"),
        (["http://a/"], "WebSockets begin with ws://"),
        (["ws://a/", "--header", "x"], "write it as 'Name: value'"),
        (["ws://a/", "--linger", "nan"], "--linger has to be 0 or more"),
    ],
)
async def test_options_that_make_no_sense(arguments: list[str], text: str) -> None:
    async with terminal(*arguments) as session:
        assert await session.ends() == 2
    assert text in session.err.splitlines()[-1]


async def test_help_teaches_with_examples() -> None:
    async with terminal("--help") as session:
        assert await session.ends() == 0
    assert "examples:" in session.out and "exit status:" in session.out


# The pure parts


@pytest.mark.parametrize(
    ("line", "data"),
    [("hello", "hello"), ('{"a": 1}', {"a": 1}), ("null", None), ("1e3", 1000.0), (" 7 ", 7)],
)
def test_line_is_json_when_it_parses(line: str, data: Any) -> None:
    assert parse_line(line) == data
    assert parse_line(line, as_text=True) == line


@pytest.mark.parametrize("line", ["NaN", "-Infinity", "[" * 100_000, "{", "'a'"])
def test_line_that_is_no_json_is_a_string(line: str) -> None:
    assert parse_line(line) == line


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("plain é", "plain é"),
        ({"a": "é"}, '{"a": "é"}'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("two\nlines", '"two\\nlines"'),
        (["\x9b1m"], '["\\u009b1m"]'),
    ],
)
def test_text_has_nothing_that_a_terminal_would_obey(data: Any, text: str) -> None:
    assert as_text(data) == text


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (4506, "", "4506, closed in the admin or by a command"),
        (1012, "deploy", "1012, the node drains: resume, here or elsewhere (deploy)"),
        (4601, "", "4601, a code of the application's own"),
        (4199, "", "4199, a code that this client does not know; it goes by its range: resume"),
    ],
)
def test_close_code_is_explained(code: int, reason: str, text: str) -> None:
    assert meaning(code, reason) == text


def test_headers_are_parsed() -> None:
    typed = ["Cookie: a=b; c=d:e", "X-Token:t"]
    assert parse_headers(typed) == {"Cookie": "a=b; c=d:e", "X-Token": "t"}


@pytest.mark.parametrize("typed", [["no"], [": x"], ["a b: c"], ["a: b\x00c"], ["a: b", "A: c"]])
def test_headers_that_are_none_are_refused(typed: list[str]) -> None:
    with pytest.raises(ValueError):
        parse_headers(typed)


@pytest.mark.parametrize("url", ["ws://a/", "wss://user:pw@a:1/x?y=z", "ws://[::1]:80/"])
def test_url_of_a_websocket_is_taken(url: str) -> None:
    assert url_problem(url) == ""


@pytest.mark.parametrize("url", ["", "a", "http://a/", "ws://", "ws://a:99999/", "ftp://a/"])
def test_url_of_something_else_is_not(url: str) -> None:
    assert url_problem(url)


async def test_line_without_an_end_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * (3 * MAX_LINE))
    with path.open("rb") as file:
        pieces = [piece async for piece in lines(file.fileno())]
    assert b"".join(pieces) == path.read_bytes()
    assert max(len(piece) for piece in pieces) < 1.2 * MAX_LINE
