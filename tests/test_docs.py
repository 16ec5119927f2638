"""The docs and the code say the same."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from graceful_ws import admin_streams, envelopes
from graceful_ws.conf import Defaults
from graceful_ws.core.close_codes import (
    CLOSE_CODES,
    NEVER_SENT,
    Advice,
    CloseCode,
    advice,
    is_application_code,
    plain_code,
)
from graceful_ws.node import backplane, hub, reader, sequencer, shared_layer, source
from graceful_ws.node import credentials as node_credentials
from graceful_ws.node.limits import LIMITS
from graceful_ws.servers import daphne, flow
from graceful_ws.store import base, credentials, presence, retention, streams

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/*.md"))
SETTINGS = (ROOT / "docs/settings.md").read_text()
CODES = (ROOT / "docs/close-codes.md").read_text()


def tables(text: str) -> dict[str, list[list[str]]]:
    """Each section's table rows below its header, by the section's heading."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^#+ ", text, flags=re.M)[1:]:
        heading, _, body = section.partition("\n")
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in body.splitlines()
            if line.startswith("|") and not line.startswith("|---")
        ]
        found[heading] = rows[1:]
    return found


def groups_of_conf() -> dict[str, list[str]]:
    """The settings under each comment of its own line in conf.Defaults."""
    source = (ROOT / "graceful_ws/conf.py").read_text()
    body = source[source.index("class Defaults") : source.index("NAMES =")]
    groups: dict[str, list[str]] = {}
    for line in body.splitlines():
        if line.startswith("    # "):
            groups[line.removeprefix("    # ")] = []
        elif match := re.match(r"    (\w+): ", line):
            groups[list(groups)[-1]].append(match[1])
    return groups


def settings_rows() -> list[list[str]]:
    documented = tables(SETTINGS)
    return [row for group in groups_of_conf() for row in documented.get(group, [])]


def test_settings_page_has_the_groups_and_names_of_conf_in_their_order() -> None:
    documented = {
        heading: [row[0].split("`")[1] for row in rows]
        for heading, rows in tables(SETTINGS).items()
        if heading in groups_of_conf()
    }
    assert documented == groups_of_conf()


@pytest.mark.parametrize("field", fields(Defaults), ids=lambda field: field.name)
def test_settings_page_has_the_default_of(field: object) -> None:
    name, default = field.name, field.default  # type: ignore[attr-defined]
    (row,) = [row for row in settings_rows() if row[0].split("`")[1] == name]
    written = value_of(row[1].strip("`"))
    assert (type(written), written) == (type(default), default)
    assert len(row) == 5


def value_of(expression: str) -> object:
    """A literal, or a product of numbers."""
    tree = ast.parse(expression, mode="eval").body
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Mult):
        left, right = (value_of(ast.unparse(part)) for part in (tree.left, tree.right))
        return left * right  # type: ignore[operator]
    return ast.literal_eval(tree)


def test_settings_page_marks_what_a_consumer_class_can_set() -> None:
    marked = {row[0].split("`")[1] for row in settings_rows() if row[0].endswith("°")}
    assert marked == set(LIMITS)


def test_settings_page_says_what_happens_at_each_bound() -> None:
    silent = {row[0].split("`")[1] for row in settings_rows() if not row[4]}
    # Intervals, which bound nothing but themselves.
    assert silent == {
        *("beat_interval", "live_url", "purge_interval", "reclaim_idle", "sample_interval"),
    }


KIB = 1024
BOUNDS = {
    "messages that Daphne has read and the consumer has not taken": f"{flow.MOST}",
    "bytes that Daphne reads before the handshake is answered": f"{daphne.EARLY // KIB} KiB",
    "`retry_after` of a client that is closed 4201": (
        f"{reader.RETRY_AFTER:g} s to {reader.LONGEST:g} s"
    ),
    "users whose rows one round of a node asks for": f"{node_credentials.AT_ONCE}",
    "sessions of a user ended by one transaction": f"{credentials.BATCH}",
    "a stream's name": f"{streams.NAME_BYTES} bytes",
    "last messages of one stream that a node keeps in memory": (
        f"{source.RING_BYTES // KIB} KiB, {source.RING_ROWS} messages"
    ),
    "last messages of all streams that a node keeps in memory": (
        f"{source.KEPT_BYTES // KIB**2} MiB"
    ),
    "a stream without followers that a node still listens to": f"{hub.LINGER:g} s",
    "messages of one stream numbered by one transaction": f"{streams.BATCH}",
    "messages without a number that one look sees": f"{streams.WAITING}",
    "streams that a node numbers at once": f"{sequencer.AT_ONCE}",
    "messages that travel with their wake-up": f"{envelopes.CARRIED // KIB} KiB",
    "what a node has to say over the layer": f"{backplane.QUEUE} envelopes",
    "one call of the layer": f"{shared_layer.TIMEOUT:g} s",
    "failures of the layer in a row until its breaker opens": f"{backplane.FAILURES}",
    "a wake-up from a process without a node": f"{envelopes.NUDGE_TIMEOUT:g} s",
    "exits announced by one transaction": f"{presence.BATCH} sessions",
    "age below which no stream message is cleared as acknowledged by all": (
        f"{retention.YOUNG:g} s"
    ),
    "time since its last message after which a stream is not trimmed any more": (
        f"{retention.USED:g} s"
    ),
    "a transaction of the store that stands still, on PostgreSQL": f"{base.STOPPED} s",
    "sessions and messages listed on a stream's page in the admin": (
        f"{admin_streams.LISTED}, {admin_streams.MESSAGES}"
    ),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_settings_page_has_the_bound_of(what: str) -> None:
    (row,) = [row for row in tables(SETTINGS)["Bounds that are no settings"] if row[0] == what]
    assert row[1] == BOUNDS[what]


# Close codes


def test_close_codes_page_is_the_table_of_the_code() -> None:
    rows = [row for row in tables(CODES)["Close codes"] if len(row) == 5][1:]
    assert rows == [
        [str(int(code)), f"`{code.name}`", str(meaning.sender), str(meaning.advice), meaning.text]
        for code, meaning in CLOSE_CODES.items()
    ]


def test_every_close_code_has_a_meaning() -> None:
    assert list(CLOSE_CODES) == list(CloseCode)


def test_close_codes_page_says_what_an_unknown_code_of_a_range_means() -> None:
    rows = [row for row in tables(CODES)["Close codes"] if len(row) == 2]
    told: dict[int, str] = {}
    for ranges, text in rows:
        for low, high in re.findall(r"(\d{4})-(\d{4})", ranges):
            told |= dict.fromkeys(range(int(low), int(high) + 1), text.split("`")[1])
    unknown = [code for code in range(1000, 5000) if code not in CLOSE_CODES]
    assert {code: str(advice(code)) for code in unknown} == {
        code: told.get(code, "back_off") for code in unknown
    }


def test_close_codes_page_explains_every_advice_once() -> None:
    assert re.findall(r"^\* \*\*(\w+)\*\*", CODES, flags=re.M) == [str(item) for item in Advice]


def test_close_codes_page_names_the_codes_that_are_never_sent() -> None:
    assert "1005 and 1006 describe" in CODES
    assert "like 1004 and 1015, are never sent" in CODES
    assert {int(code) for code in NEVER_SENT} == {1004, 1005, 1006, 1015}


def test_close_codes_page_says_what_plain_clients_get() -> None:
    """1000 for 4507, 1013 for 41xx, 1008 for other private codes, the application's as they are."""
    for code in range(4000, 5000):
        expected = 1008
        if is_application_code(code):
            expected = code
        elif code == CloseCode.ENDED_BY_APPLICATION:
            expected = 1000
        elif 4100 <= code <= 4199:
            expected = 1013
        assert plain_code(code) == expected
