"""docs/protocol.md says what the code says: frames, fields, codes, reasons, numbers."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from typing import Any

import msgspec
import pytest

from graceful_ws.client import connection, link, migration, session, socket
from graceful_ws.client.connector import OVERLOADED_ATTEMPT
from graceful_ws.conf import Defaults
from graceful_ws.core import frames
from graceful_ws.core.close_codes import MAX_REASON_BYTES, Advice, advice
from graceful_ws.core.connection import Limits
from graceful_ws.core.retry import Backoff
from graceful_ws.node import attaching, inbox, reader, subscriptions
from graceful_ws.store import presence, streams
from tests.test_docs import ROOT, tables, value_of

PAGE = (ROOT / "docs/protocol.md").read_text()
TABLES = tables(PAGE)

# Frames

TO_SERVER, TO_CLIENT = "Client to server", "Server to client"
BUILT_BY_HAND = {"message": {"stream", "seq", "data"}, "volatile": {"data"}}
TYPES = {
    "int": "int",
    "int | None": "int or null",
    "float": "number",
    "float | None": "number or null",
    "str": "text",
    "str | None": "text or null",
    "bool": "bool",
    "Any": "any",
}


def frames_of(kinds: Any) -> dict[str, set[str]]:
    """Each frame's type and the names of its fields on the wire."""
    return {
        kind.__struct_config__.tag: {field.encode_name for field in msgspec.structs.fields(kind)}
        for kind in typing.get_args(kinds)
    }


def written_fields(heading: str) -> dict[str, dict[str, str]]:
    """Frame to field to type, as the table of a direction has them."""
    found: dict[str, dict[str, str]] = {}
    for row in TABLES[heading]:
        if len(row) == 4:
            if row[0]:
                found[row[0].strip("`")] = {}
            list(found.values())[-1][row[1].strip("`")] = row[2]
    return found


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (TO_SERVER, frames_of(frames.ClientFrame)),
        (TO_CLIENT, frames_of(frames.ServerFrame) | BUILT_BY_HAND),
    ],
)
def test_page_has_exactly_the_frames_and_fields_of_the_code(
    heading: str, expected: dict[str, set[str]]
) -> None:
    written = written_fields(heading)
    assert {kind: set(fields) for kind, fields in written.items()} == expected


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        *((TO_SERVER, kind) for kind in typing.get_args(frames.ClientFrame)),
        *((TO_CLIENT, kind) for kind in typing.get_args(frames.ServerFrame)),
    ],
)
def test_page_has_the_type_of_each_field_and_what_may_be_missing(heading: str, kind: Any) -> None:
    written = written_fields(heading)[kind.__struct_config__.tag]
    for field in msgspec.structs.fields(kind):
        annotation = str(inspect.get_annotations(kind)[field.name])
        expected = TYPES.get(annotation, "object")
        assert expected != "object" or annotation.startswith("dict[")
        always = field.required or (
            heading == TO_CLIENT and not kind.__struct_config__.omit_defaults
        )
        assert written[field.encode_name] == expected + ("" if always else ", optional"), field.name


def test_page_says_when_each_frame_of_a_client_may_come_and_what_answers_it() -> None:
    rows = [row[0].strip("`") for row in TABLES[TO_SERVER] if len(row) == 3]
    assert rows[1:] == list(written_fields(TO_SERVER))


@pytest.mark.parametrize("name", ["heartbeat", "limits"])
def test_page_has_the_keys_of_the_welcomes(name: str) -> None:
    tree = ast.parse(inspect.getsource(attaching._welcome_frame))
    (given,) = [
        keyword.value
        for keyword in ast.walk(tree)
        if isinstance(keyword, ast.keyword) and keyword.arg == name
    ]
    assert isinstance(given, ast.Dict)
    keys = {ast.literal_eval(key) for key in given.keys if key is not None}
    (row,) = [row for row in TABLES[TO_CLIENT] if row[1] == f"`{name}`"]
    assert set(re.findall(r"`(\w+)`", row[3])) == keys


# Words


def strings_in(path: str, *calls: str) -> set[str]:
    """The literal text arguments of calls by these names in a module, and their keywords'."""
    tree = ast.parse((ROOT / path).read_text())
    return {
        value.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", None)) in calls
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


STATES = {"new", "resumed", "gap", "denied"}


def first_words(heading: str, columns: int) -> list[str]:
    return [
        row[0].strip("`")
        for row in TABLES[heading]
        if len(row) == columns and re.fullmatch(r"`\w+`", row[0])
    ]


def test_page_has_every_reason_of_a_gap() -> None:
    found = {"trimmed"} | strings_in("graceful_ws/node/attaching.py", "Gap")
    for module in ("hub", "outbox"):
        found |= strings_in(f"graceful_ws/node/{module}.py", "gap")
    found |= strings_in("graceful_ws/node/subscriptions.py", "Resumed") - STATES - {""}
    assert found >= {"expired", "ahead", "epoch", "too_far"}
    assert set(first_words("Gaps", 2)) == found


def test_page_has_every_code_of_a_nack() -> None:
    told = strings_in("graceful_ws/node/inbox.py", "_nack", "Nack")
    tree = ast.parse(inspect.getsource(inbox))
    assigned = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code"
    ]
    told |= {
        part.value
        for value in assigned
        for part in ast.walk(value)
        if isinstance(part, ast.Constant)
    }
    codes = {word for word in told if re.fullmatch(r"[a-z_]+", word)}
    assert set(first_words("Messages of the client", 2)) - {"code"} == codes
    (row,) = [row for row in TABLES[TO_CLIENT] if row[1] == "`code`" and "try_again" in row[3]]
    assert set(re.findall(r"`(\w+)`", row[3])) == codes


def test_page_has_every_state_of_a_resumed_stream() -> None:
    states = strings_in("graceful_ws/node/subscriptions.py", "Resumed") & STATES
    assert states == STATES
    rows = {row[0].strip("`"): row[1] for row in TABLES["Streams"] if len(row) == 3}
    assert rows.keys() == states
    for state in states:
        told = subscriptions.Resumed("room", streams.Tip("e", 7), 3, state).told()
        told.pop("state")
        assert set(re.findall(r"`(\w+)`", rows[state])) == told.keys()


def test_page_has_every_cause_of_an_exit() -> None:
    causes = {"timeout", "unsubscribed", "denied", *presence.CAUSES.values()}
    causes |= strings_in("graceful_ws/node/subscriptions.py", "unsubscribe")
    listed = PAGE[PAGE.index("Causes: ") :].partition(";")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == causes
    guarantees = (ROOT / "docs/guarantees.md").read_text()
    told = tables(guarantees)["G5: who left is told once"]
    assert {row[1].strip("`") for row in told} == causes


def test_page_says_of_every_close_code_what_a_client_does() -> None:
    """The first row that names a code, or its range, counts."""
    rows = [row for row in TABLES["Closing"] if len(row) == 3]
    said = dict(zip([row[0] for row in rows], [row[2] for row in rows], strict=True))
    parked, first, other, new_session, refresh, stop, own = said
    assert parked == "4106"
    assert first == "1000 without a `bye`, 1001, 1012, every other 41xx, its own 4000 and 4001"
    assert "every other code below 3000; 42xx" in other
    assert (new_session, refresh, stop) == ("43xx", "44xx", "45xx")
    assert own == "3000 to 3999, 46xx to 49xx"
    resumed = {1000, 1001, 1012, 4000, 4001, *range(4100, 4200)}
    expected = dict.fromkeys(range(1000, 3000), Advice.BACK_OFF)
    expected |= dict.fromkeys(range(3000, 4000), Advice.STOP)
    expected |= dict.fromkeys(range(4200, 4300), Advice.BACK_OFF)
    expected |= dict.fromkeys(range(4300, 4400), Advice.NEW_SESSION)
    expected |= dict.fromkeys(range(4400, 4500), Advice.REFRESH) | {4403: Advice.NEW_SESSION}
    expected |= dict.fromkeys(range(4500, 5000), Advice.STOP)
    expected |= dict.fromkeys(resumed, Advice.RESUME) | {4106: Advice.PARK}
    assert {code: advice(code) for code in expected} == expected


# Numbers


def amount(cell: str) -> tuple[float, str]:
    """``"5 s"`` as (5, "s")."""
    number, _, unit = cell.partition(" ")
    return float(value_of(number)), unit  # type: ignore[arg-type]


def rows_of_numbers(columns: int) -> list[list[str]]:
    rows = [row for row in TABLES["Numbers"] if len(row) == columns]
    return [row for row in rows if row[0] != "what"]


@pytest.mark.parametrize("row", rows_of_numbers(3), ids=lambda row: row[2].strip("`"))
def test_page_has_the_default_of(row: list[str]) -> None:
    assert amount(row[1])[0] == getattr(Defaults(), row[2].strip("`"))


def keyword_default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


BACKOFF = Backoff()
FIXED = {
    "`version`": (frames.VERSION, ""),
    "frames in an array": (frames.MAX_ARRAY, ""),
    "brackets in each other": (frames.MAX_DEPTH, ""),
    "the largest number": (frames.MAX_SEQ, ""),
    "characters of `instance`": (64, ""),
    "bytes of a stream's name": (streams.NAME_BYTES, ""),
    "bytes of a close reason": (MAX_REASON_BYTES, ""),
    "a `ping` at least every": (Limits().rtt_interval, "s"),
    "a resume waits for a handler of the connection before": (attaching.LET_FINISH, "s"),
    "`retry_after` of a server that is busy": (inbox.RETRY_AFTER, "ms"),
    "`retry_after` before a 4201, at least": (reader.RETRY_AFTER * 1000, "ms"),
    "handshake": (keyword_default(connection.GracefulClient, "open_timeout"), "s"),
    "from `hello` to `welcome`": (
        keyword_default(connection.GracefulClient, "welcome_timeout"),
        "s",
    ),
    "`ack` after": (link.ACK_INTERVAL, "s"),
    "or messages": (link.ACK_MESSAGES, ""),
    "or bytes": (link.ACK_BYTES, "bytes"),
    "first delay after a `nack` with `retry`": (link.RETRY_FIRST * 1000, "ms"),
    "the longest after a `nack`": (link.RETRY_MOST * 1000, "ms"),
    "before `close_in`: waits no longer for outcomes": (migration.MARGIN, "s"),
    "close handshake of a connection that is given up": (socket.CLOSE_WITHIN, "s"),
    "first delay before a try": (BACKOFF.base_delay, "s"),
    "the longest before a try": (BACKOFF.max_delay, "s"),
    "tries until it is parked": (BACKOFF.max_retries, ""),
    "parked: between tries, give or take half": (BACKOFF.parked_delay, "s"),
    "welcomed so long, the count starts afresh": (BACKOFF.min_uptime, "s"),
    "after 1013 the count is at least": (OVERLOADED_ATTEMPT, ""),
    "closes 1002 or 1008 until the token is dropped": (session.REFUSALS, ""),
    "WebSocket message of the server": (connection.MAX_SIZE, "bytes"),
    "`Retry-After` and `retry_after` are believed up to": (link.MOST_RETRY_AFTER, "s"),
    "`reconnect_window` is believed up to": (link.MOST_WINDOW, "s"),
    "times of `drain` and of the heartbeat are believed up to": (link.MOST_NOTICE, "s"),
}


def test_page_has_exactly_these_numbers() -> None:
    assert {row[0]: amount(row[1]) for row in rows_of_numbers(2)} == FIXED
    assert link.MOST_NOTICE == link.MOST_SILENCE


def test_an_instance_of_the_length_that_the_page_says_is_taken_and_a_longer_one_is_not() -> None:
    most = int(FIXED["characters of `instance`"][0])
    reader._check_hello(frames.Hello(1, "x" * most, 1))
    with pytest.raises(frames.ProtocolError):
        reader._check_hello(frames.Hello(1, "x" * (most + 1), 1))


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    default = Defaults()
    silence = default.heartbeat_interval + default.max_missed * default.heartbeat_timeout
    assert f"`interval + max_missed * timeout`\n({silence:g} s)" in PAGE
    assert f"says `hello` within {default.connecting_timeout:g} s" in PAGE
    assert f"at most {default.hello_bytes // 1024} KiB" in PAGE
    assert f"after {link.ACK_INTERVAL:g} s, {link.ACK_MESSAGES} messages or 64 KiB" in PAGE
    assert f"at most {default.send_window} messages or 1 MiB" in PAGE
    assert default.send_window_bytes == default.send_bytes == 1024**2
    assert f"takes nothing for {default.progress_timeout:g} s" in PAGE
    assert f"more than {default.replay_rows} messages behind" in PAGE
    assert f"WebSocket messages of {connection.MAX_SIZE // 1024**2} MiB" in PAGE
    assert f"until {migration.MARGIN:g} s before `close_in`" in PAGE
    assert "min(30, 2^n)" in PAGE and "From n = 5 on" in PAGE and "every 30 s, give" in PAGE
    assert f"1 to {frames.MAX_ARRAY} frames" in PAGE
    assert f"the server drops the connection after {default.closing_timeout:g} s" in PAGE
    assert f"`GET {connection.PROBE_PATH}`" in PAGE
    assert f"lives for {default.anonymous_unused:g} s" in PAGE


# Links


def test_links_within_the_page_lead_to_its_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    linked = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert linked and set(linked) <= anchors
