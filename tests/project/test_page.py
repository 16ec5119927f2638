"""The demo's page: what it is made of, what it counts, and what it shows in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graceful_ws.client import GracefulClient
from tests.conftest import missing
from tests.support.browser import Browser, BrowserUnavailable
from tests.support.demo import Demo, both_answer, need_servers, running_demo
from tests.support.processes import ROOT
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


# --- what it is made of ---------------------------------------------------------------------------


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
        f"http://127.0.0.1:{demo.port}",
        f"http://127.0.0.1:{demo.port + 1}",
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


# --- what it counts -------------------------------------------------------------------------------


def run_in_node(script: str) -> str:
    return subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


@pytest.mark.usefixtures("node_installed")
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


@pytest.mark.usefixtures("node_installed")
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


# --- in a browser ---------------------------------------------------------------------------------

COUNTS = "['lost', 'duplicated', 'out_of_order'].map((id) => document.getElementById(id).innerText)"
TICKS = "Number(document.getElementById('now').textContent.replace(',', ''))"
CONNECTED = "document.getElementById('pill').dataset.state === 'open'"
WAY = (
    "[...document.querySelectorAll('#endpoints li')].map((each) => "
    "[each.ariaCurrent, each.querySelector('.rtt').innerText.endsWith(' ms') || !each.ariaCurrent, "
    "each.querySelector('.breaker').innerText].join())"
)
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
        ways = [["true,true,works", ",true,works"], [",true,works", "true,true,works"]]
        await browser.until(f"{json.dumps(ways)}.some((way) => `${{way}}` === `${{{WAY}}}`)")
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
            async with GracefulClient(demo.urls, on_event=lambda event: None) as zelda:
                await zelda.send({"type": "enter", "name": "Zelda"})
                for browser in (ada, grace):
                    await browser.until(f"{people}.includes('Zelda')")
            for browser in (ada, grace):  # it said bye: at once
                await browser.until(f"{hears('Zelda left')} && !{people}.includes('Zelda')")
            await click(grace, "offline")
            await say(ada, "said while Grace was away")
            await ada.until(hears("said while Grace was away"))
            await grace.until("document.getElementById('lane').dataset.lane === 'fast'")
            await grace.until(f"{CONNECTED} && {hears('said while Grace was away')}")
            await grace.until("document.getElementById('lane').dataset.lane === 'none'")
            late = "document.querySelector('.lines .late .said').textContent"
            assert await grace.evaluate(late) == "Ada said while Grace was away"
            for browser in (ada, grace):
                assert await browser.evaluate(COUNTS) == ["0", "0", "0"]
                assert await browser.evaluate(NARROW)
                assert browser.complaints == []


async def test_page_outlives_the_servers_that_it_kills(tmp_path: Path) -> None:
    need_servers()
    with running_demo(tmp_path, "--redis", "--postgres") as demo:
        async with browsers(tmp_path, 360) as [browser]:
            await browser.open(f"http://127.0.0.1:{demo.port}/")
            await browser.until(f"{CONNECTED} && {TICKS} > 0")
            for name in ("redis", "postgres"):
                await click(browser, name)
                await eventually(partial(demo.said, f"{name} was ended by SIGKILL"), 20.0)
                await say(browser, f"said without {name}")
                await browser.until(hears(f"said without {name}"), 40.0)
            ticks = await browser.evaluate(TICKS)
            await browser.until(f"{TICKS} > {ticks + 5}")
            assert await browser.evaluate(COUNTS) == ["0", "0", "0"]
            assert await browser.evaluate(NARROW)
