"""The demo: what it counts, what its page is made of, and what both show."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client import GracefulClient
from project.demo.check import EACH_WAY, complaints
from project.demo.tally import Tally, tally
from tests.conftest import missing
from tests.support.browser import Browser, BrowserUnavailable
from tests.support.demo import Demo, both_answer, environment, processes_of, start_demo
from tests.support.processes import ROOT, ChildProcess
from tests.support.waiting import eventually, eventually_sync

CHECK_WITHIN = 90.0  # seconds; twenty on an idle machine
RESULT = {
    **{"sent": EACH_WAY, "received": EACH_WAY, "lost": 0, "duplicated": 0, "out_of_order": 0},
    **{"replayed": 1, "resent": 1, "resumed": 1, "close_codes": {"1006": 1, "1012": 1}},
}


# --- the count ---------------------------------------------------------------------------------


def test_demo_check_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    env = {**environment(), "TMPDIR": str(tmp_path)}
    process = ChildProcess("demo --check", tmp_path / "check.log")
    process.spawn([sys.executable, "manage.py", "demo", "--check"], env=env)
    try:
        status = process.wait(CHECK_WITHIN)
    finally:
        process.kill()
    result = json.loads(next(line for line in process.log().splitlines() if line[0] == "{"))
    assert complaints(result) == []
    assert list(result) == [*RESULT, "seconds"]
    assert result["seconds"] < 40
    assert status == 0
    assert not list(tmp_path.glob("graceful_ws_demo_*"))
    assert processes_of(f"TMPDIR={tmp_path}") == []


@pytest.mark.parametrize(
    ("arrived", "due", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], Tally()),
        ([1, 2, 3, 4], [1, 2], Tally()),  # what was only tried may arrive
        ([1, 3], [1, 3], Tally()),  # a number that was never accepted is no hole
        ([1, 3], [1, 2, 3], Tally(lost=1)),
        ([], [1, 2], Tally(lost=2)),
        ([1, 2, 2, 3, 1], [1, 2, 3], Tally(duplicated=2)),
        ([1, 3, 2, 4], [1, 2, 3, 4], Tally(out_of_order=1)),
        ([2, 1, 1], [1, 2, 3], Tally(1, 1, 1)),
    ],
)
def test_numbers_that_are_missing_twice_or_late_are_counted(
    arrived: list[int], due: list[int], expected: Tally
) -> None:
    assert tally(arrived, due) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lost": 1}, "lost is 1, not 0"),
        ({"duplicated": 2}, "duplicated is 2, not 0"),
        ({"out_of_order": 1}, "out_of_order is 1, not 0"),
        ({"replayed": 0}, "replayed is 0"),
        ({"resent": 0}, "resent is 0"),
        ({"resumed": 0}, "resumed is 0"),
        ({"sent": 999}, "sent is 999, less than 1000"),
        ({"received": 999}, "received is 999, less than 1000"),
        ({"close_codes": {"1006": 1}}, "no connection ended with 1012"),
        ({"close_codes": {"1012": 1}}, "no connection ended with 1006"),
    ],
)
def test_demo_check_complains_of_each_thing_that_was_not_shown(
    change: dict[str, Any], complaint: str
) -> None:
    assert complaints(RESULT) == []
    assert complaints({**RESULT, **change}) == [complaint]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_page_counts_as_the_check_does() -> None:
    module = (ROOT / "project/static/demo/ledger.js").as_uri()
    script = f"""
      import {{ Ledger }} from {json.dumps(module)};
      const ledger = new Ledger();
      for (const number of [1, 2, 2, 5, 4, 1, 7]) ledger.receive(number);
      const {{ received, lost, duplicated, outOfOrder, highest }} = ledger;
      console.log(JSON.stringify([received, lost, duplicated, outOfOrder, highest]));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout) == [5, 2, 2, 1, 7]


# --- the site ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = start_demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.process.signal(signal.SIGTERM)
    try:
        demo.process.wait(40)
    finally:
        demo.process.kill()


class Page(HTMLParser):
    """What a Content-Security-Policy without 'unsafe-inline' would refuse, and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.loaded: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name.startswith("on")]
        self.inline += [tag for name in given if name == "style"]
        if tag == "style":
            self.inline.append(tag)
        self._script = tag == "script"
        if self._script and "src" not in given:
            self.inline.append(tag)
        if tag in ("script", "link", "img"):
            self.loaded.append(given.get("src") or given.get("href") or "")


def test_page_obeys_its_own_strict_content_security_policy(demo: Demo) -> None:
    status, headers, body = demo.request("GET", "/")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert status == 200
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"].split() == [
        "'self'",
        f"ws://127.0.0.1:{demo.port}",
        f"ws://127.0.0.1:{demo.port + 1}",
    ]
    assert "unsafe" not in headers["content-security-policy"]
    page = Page(body)
    assert page.inline == []
    assert page.loaded
    assert all(url.startswith("/static/demo/") for url in page.loaded)
    for url in [*page.loaded, "/static/graceful_ws/graceful-ws.js"]:
        assert demo.request("GET", url)[0] == 200, url


def test_nothing_on_the_page_comes_from_another_host() -> None:
    for path in (ROOT / "project/static/demo").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w-]+\.\w", text), path.name


def test_printed_password_opens_the_admin_and_is_stored_nowhere(demo: Demo) -> None:
    form = {"username": "admin", "password": demo.password}
    form["csrfmiddlewaretoken"] = demo.cookies["csrftoken"]
    status, headers, _ = demo.request("POST", "/admin/login/?next=/admin/", form)
    assert (status, headers["location"]) == (302, "/admin/")
    for path in demo.directory.iterdir():
        assert demo.password.encode() not in path.read_bytes(), path.name


def test_state_of_the_demo_is_in_its_own_directory(demo: Demo) -> None:
    names = {path.name for path in demo.directory.iterdir()}
    assert {"db.sqlite3", "node-1.log", "node-2.log", "clock.log"} <= names


@pytest.mark.parametrize(
    ("action", "node", "order", "status"),
    [
        ("kill", "node-3", "1", 404),
        ("kill", "clock", "1", 404),
        ("stop", "node-1", "1", 404),
        ("kill", "node-1", "1 \nkill node-2 2", 404),
        ("kill", "node-1", "", 404),
    ],
)
def test_only_the_demo_nodes_can_be_hurt(
    demo: Demo, action: str, node: str, order: str, status: int
) -> None:
    assert demo.order(action, node, order) == status


def test_orders_need_a_token_of_the_page(demo: Demo) -> None:
    assert demo.order("kill", "node-1", csrf=False) == 403
    assert demo.request("GET", "/order/")[0] == 405


@pytest.mark.parametrize("action", ["kill", "drain", "cut"])
async def test_ticks_and_answers_have_no_hole_after(demo: Demo, action: str) -> None:
    ticks: list[int] = []
    answers: list[int] = []

    def receive(message: Any) -> None:
        data = message.data
        if "tick" in data:
            ticks.append(data["tick"])
        else:
            answers.append(data["note"])

    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    async with GracefulClient(demo.urls, on_message=receive, on_event=lambda event: None) as client:
        await eventually(lambda: len(ticks) > 3, 20.0)
        note = asyncio.create_task(client.send({"note": 1, "text": action}))
        if action == "cut":
            client.abort()
        else:
            order = str(time.time())
            assert await asyncio.to_thread(demo.order, action, str(client.node), order) == 202
        await eventually(lambda: client.resumes == 1, 20.0)
        await asyncio.wait_for(note, 20.0)
        seen = len(ticks)
        await eventually(lambda: answers and len(ticks) > seen + 3, 20.0)
    assert ticks == list(range(1, len(ticks) + 1))
    assert answers == [1]


def test_an_order_that_is_repeated_is_carried_out_once(demo: Demo) -> None:
    kills, drains = "a visitor sends SIGKILL to node-2", "a visitor sends SIGTERM to node-2"
    before = demo.said(kills), demo.said(drains)
    for action, order in (("kill", "2000"), ("kill", "2000"), ("drain", "2001")):
        assert demo.order(action, "node-2", order) == 202
    eventually_sync(lambda: demo.said(drains) == before[1] + 1, 10.0)
    assert demo.said(kills) == before[0] + 1


# --- the page in a browser ----------------------------------------------------------------------

COUNTS = "['lost', 'duplicated', 'out-of-order'].map((id) => document.getElementById(id).innerText)"
TICKS = "Number(document.getElementById('now').textContent.replace(',', ''))"
CONNECTED = "document.getElementById('pill').dataset.state === 'open'"


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    try:
        browser = Browser(tmp_path, width=390, height=844)
    except BrowserUnavailable as error:
        missing(error)
    async with browser:
        yield browser


async def test_page_shows_that_nothing_is_lost_when_its_node_is_killed(
    demo: Demo, browser: Browser
) -> None:
    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    await browser.open(f"http://127.0.0.1:{demo.port}/")
    await browser.until(f"{CONNECTED} && {TICKS} > 5")
    assert browser.complaints == []  # what the policy refuses would be among them
    for action in ("drain", "cut", "kill"):
        before = await browser.evaluate("Number(document.getElementById('resumes').innerText)")
        await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
        await browser.evaluate(f"document.getElementById('{action}').click()")
        await browser.evaluate("document.getElementById('burst').click()")
        await browser.until(f"document.getElementById('resumes').innerText === '{before + 1}'")
    ticks = await browser.evaluate(TICKS)
    await browser.until(f"{CONNECTED} && {TICKS} > {ticks + 5}")
    await browser.until("document.querySelectorAll('.mark.answered').length === 30")
    assert await browser.evaluate(COUNTS) == ["0", "0", "0"]
    assert await browser.evaluate("document.documentElement.scrollWidth") <= 390  # no sideways
