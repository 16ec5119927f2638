"""docs/clients.md names what the clients have, with the defaults that they have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from graceful_ws.client import GracefulClient, errors, events
from graceful_ws.client.connection import PROBE_PATH, REQUEST_TIMEOUT, REQUEST_TRIES
from graceful_ws.core import breaker, endpoints
from graceful_ws.core.client_states import ClientState
from graceful_ws.core.retry import Backoff
from tests.test_docs import tables

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/clients.md").read_text()
MODULE = (ROOT / "graceful_ws/static/graceful_ws/graceful-ws.js").read_text()
BROWSER, PYTHON = PAGE.split("\n## Python\n")
EVENTS = re.findall(r"`([A-Z]\w+)`(?:,|…)", PYTHON.split("### Errors")[0])
IN_TESTS = {"abort", "pause_reading", "resume_reading", "urls", "session"}  # for demonstrations


def named(cell: str) -> list[str]:
    """The names that a table's first cell begins its code with."""
    return [re.match(r"\w+", code)[0] for code in re.findall(r"`([^`]+)`", cell)]  # type: ignore[index]


def first_cells(page: str, heading: str) -> set[str]:
    return {name for row in tables(page)[heading] for name in named(row[0])}


def test_states_are_those_of_the_core_in_their_order() -> None:
    rows = [row for row in tables(BROWSER)["What both do"] if row[0].startswith("`")]
    assert [named(row[0])[0] for row in rows[: len(ClientState)]] == list(ClientState)


def test_every_public_name_of_the_python_client_is_there() -> None:
    public = {name for name in dir(GracefulClient) if not name.startswith("_")}
    documented = first_cells("## x\n" + PYTHON, "Methods and properties") - {"async"}
    assert documented == public - IN_TESTS


def test_every_argument_of_connect_is_there_with_its_default() -> None:
    arguments = inspect.signature(GracefulClient.__init__).parameters
    keywords = {name: one for name, one in arguments.items() if one.kind is one.KEYWORD_ONLY}
    assert first_cells(PYTHON, "Arguments of `connect`") == keywords.keys() - {"random", "session"}
    for row in tables(PYTHON)["Arguments of `connect`"]:
        defaults = [text.strip("` ").strip('"') for text in row[1].split(", ")]
        for name, default in zip(named(row[0]), defaults * 2, strict=False):
            if name != "backoff":
                assert str(keywords[name].default) == default, name
    text = ", ".join(f"{f}={getattr(Backoff(), f)!r}" for f in Backoff.__dataclass_fields__)
    assert text.replace("'", '"') in PYTHON


def test_every_error_is_there() -> None:
    raised = {name for name, one in vars(errors).items() if inspect.isclass(one)}
    assert first_cells(PYTHON, "Errors") >= raised - {"GracefulError"}


@pytest.mark.parametrize("name", EVENTS)
def test_event_that_is_named_exists(name: str) -> None:
    assert hasattr(events, name)


def test_numbers_are_those_of_the_code() -> None:
    backoff, circuit = Backoff(), breaker.Breaker()
    waits = [backoff.delay(n, lambda: 0.0) for n in range(backoff.max_retries)]
    assert waits == [1, 2, 4, 8, 16] and "after 1, 2, 4, 8 and 16 s" in PAGE
    assert f"{endpoints.NEAR * 1000:.0f} ms or a fifth" in PAGE and endpoints.NEAR_PART == 0.2
    assert f"within {endpoints.PROBE_TIMEOUT} s" in PAGE
    assert f"probes every {endpoints.PROBE_EVERY:.0f} s (give or take a fifth)" in PAGE
    assert f"alpha {endpoints.ALPHA}" in PAGE
    assert f"{circuit.failures} failures in a row" in PAGE
    assert f"{circuit.open_for:.0f} s, give or take a fifth" in PAGE
    assert f"its welcome and {circuit.probes - 1} pongs are {circuit.probes} probes" in PAGE
    assert f"timeout={REQUEST_TIMEOUT}, tries={REQUEST_TRIES}" in PAGE
    assert PAGE.count(f'`"{PROBE_PATH}"`') == 2
    codes = [int(code) for code in re.findall(r"`(\d{4})`", tables(PAGE)["What both do"][-3][2])]
    assert set(codes) == endpoints.FAILURE_CODES


def test_events_and_options_of_the_browser_are_in_the_module() -> None:
    for name in first_cells(BROWSER, "Events"):
        assert f'"{name}"' in MODULE, name
    for name in first_cells(BROWSER, "Options"):
        assert re.search(rf"\b{name}\b", MODULE), name
    for name in first_cells(BROWSER, "Methods and properties") - {"for"}:
        assert re.search(rf"\b{name}\b", MODULE), name
