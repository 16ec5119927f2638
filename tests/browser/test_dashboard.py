"""The live dashboard in a browser, on real nodes, under a strict Content-Security-Policy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client import GracefulClient
from tests.browser.kit import SETTINGS, complaints_of
from tests.support.browser import Browser
from tests.support.commands import environment, run_django
from tests.support.servers import Site

MakeSite = Callable[..., Site]
PATH = "/admin/graceful_ws/live/"
PASSWORD = "only for the tests"
KEYS = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36}

# What the page says, as expressions of its own.
STATUS = "document.getElementById('gws-status').textContent"
SAID = "document.getElementById('gws-said').textContent"
FOCUSED = "document.activeElement.ariaLabel ?? document.activeElement.textContent"
WATCH = """
  globalThis.heard = []; // numbers of the nodes' figures, over all connections
  globalThis.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        for (const { type, stream, seq } of [JSON.parse(data)].flat()) {
          if (type === "message" && stream === "graceful_ws.live") heard.push(seq);
        }
      });
    }
  };
  globalThis.violations = [];
  addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
    violations.push(`${violatedDirective} ${blockedURI}`);
  });
"""


def row(name: str, table: str = "nodes") -> str:
    """The row of a node or a session, by what it begins with."""
    rows = f"[...document.querySelectorAll('#gws-{table} tbody tr')]"
    return f"{rows}.find((row) => row.innerText.trim().startsWith({json.dumps(name)}))"


def state_of(name: str) -> str:
    return f"{row(name)}?.querySelector('.gws-badge').textContent"


def shown(id_: str) -> str:
    return f"document.getElementById('gws-{id_}').checkVisibility()"


@pytest.fixture(scope="session")
def dashboard_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of the dashboard's site, with static files under hashed names."""
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.browser.dashboard_settings",
        "GRACEFUL_TEST_STATIC": str(tmp_path_factory.mktemp("static")),
    }
    arguments = ("--noinput", "--verbosity=0", "--skip-checks")
    run_django("collectstatic", *arguments, env=environment("sqlite://:memory:", extra=env))
    return env


@pytest.fixture
def dashboard_site(
    browser: Browser, make_site: MakeSite, dashboard_env: dict[str, str]
) -> Callable[..., Site]:
    """A site whose page knows all nodes, and has somebody who may do everything."""

    def make(nodes: int = 1, *, env: dict[str, str] | None = None, **settings: Any) -> Site:
        site = make_site(
            nodes=nodes,
            start=False,
            settings={**SETTINGS, "drain_window": 3.0, **settings},
            env={**dashboard_env, **(env or {})},
            application="tests.browser.dashboard_asgi:application",
        )
        urls = " ".join(node.ws("/ws/graceful/live/") for node in site.nodes)
        for node in site.nodes:
            given = json.loads(node.env["GRACEFUL_TEST_SETTINGS"])
            node.env["GRACEFUL_TEST_SETTINGS"] = json.dumps({**given, "live_url": urls})
        site.django(
            *("shell", "--command"),
            "from django.contrib.auth.models import User;"
            f"User.objects.create_superuser('admin', password={PASSWORD!r})",
        )
        site.start()
        return site

    return make


@contextlib.asynccontextmanager
async def clients(site: Site, count: int) -> AsyncIterator[list[GracefulClient]]:
    """Clients that say something each 100 ms, shared by the nodes."""

    async def talk(client: GracefulClient) -> None:
        while True:
            with contextlib.suppress(Exception):
                await client.send("hello")
            await asyncio.sleep(0.1)

    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(count):
            urls = [node.ws("/echo/") for node in site.nodes]
            first = number % len(urls)
            client = GracefulClient(
                [*urls[first:], *urls[:first]],
                on_message=lambda message: None,
                on_event=lambda event: None,
                probe=None,
                random=lambda: 0.4,  # of two the first
            )
            made.append(await stack.enter_async_context(client))
        talking = [asyncio.create_task(talk(client)) for client in made]
        try:
            yield made
        finally:
            for task in talking:
                task.cancel()
            await asyncio.wait(talking)


# --- what a person does -------------------------------------------------------------------------


async def press(browser: Browser, key: str, times: int = 1) -> None:
    for _ in range(times):
        given = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        await browser.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        await browser.call("Input.dispatchKeyEvent", type="keyUp", **given)


async def tab_to(browser: Browser, name: str) -> None:
    """With the Tab key alone, from wherever the focus is; AssertionError if it never gets there."""
    for _ in range(100):
        if await browser.evaluate(FOCUSED) == name:
            return
        await press(browser, "Tab")
    raise AssertionError(f"the Tab key does not reach {name!r}")


async def type_in(browser: Browser, text: str) -> None:
    await browser.call("Input.insertText", text=text)


async def open_dashboard(browser: Browser, site: Site, *, connected: bool = True) -> None:
    """Logs in on the first node, under watch for what the policy refuses."""
    await browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    await browser.open(site.url(PATH))
    await browser.evaluate("document.getElementById('id_username').focus()")
    await type_in(browser, "admin")
    await press(browser, "Tab")
    await type_in(browser, PASSWORD)
    await press(browser, "Enter")
    page = "!!document.getElementById('gws-live') && document.readyState === 'complete'"
    await browser.until(page)
    if connected:
        await browser.until(f"{STATUS}.startsWith('live, by ') && !!{row('node-1')}")
        await browser.until("!!document.querySelector('.gws-svg path')")


async def assert_policy_was_obeyed(browser: Browser, *away: str) -> None:
    assert await browser.evaluate("violations") == []
    assert complaints_of(browser, *away) == []


# --- tests --------------------------------------------------------------------------------------


async def test_dashboard_drains_the_node_it_is_connected_to_by_keyboard_and_goes_on(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site(2, drain_rate=1.5)  # it takes a moment
    async with clients(site, 8):
        await open_dashboard(browser, site)
        await browser.until("Number(document.getElementById('gws-connections').textContent) >= 9")
        node = await browser.evaluate(f"{STATUS}.split(' ').at(-1)")
        other = {"node-1": "node-2", "node-2": "node-1"}[node]
        await browser.evaluate(  # each change of its progress, from now on
            "globalThis.isOld = true; globalThis.progress = [];"
            f"new MutationObserver(() => progress.push({row(node)}.innerText))"
            f".observe({row(node)}, {{ subtree: true, childList: true, attributes: true }})"
        )
        await tab_to(browser, f"Drain {node}")
        await press(browser, "Enter")
        await browser.until("document.getElementById('gws-dialog').open")
        await type_in(browser, "a new kernel")
        await press(browser, "Enter")
        await browser.until(f"{SAID}.startsWith('Drain {node}: Asked')")
        await browser.until(f"{state_of(node)} === 'drained' && {STATUS} === 'live, by {other}'")
        progress = await browser.evaluate("progress.join('\\n')")
        assert "notifying" in progress
        assert len(set(re.findall(r"\d+ of \d+ left", progress))) > 1, progress
        assert await browser.evaluate(FOCUSED) == f"Undo the drain of {node}"
        audit = "SELECT event, actor, node, reason FROM graceful_ws_auditentry ORDER BY id"
        assert site.sql(audit) == [("drain_node", "admin", node, "a new kernel")]

        # One page, one session, one snapshot: what came while it moved has been caught up.
        await browser.until(f"{row(other)}.cells[2].textContent === '9'")
        whose = "FROM graceful_ws_session WHERE consumer LIKE '%LiveConsumer'"
        assert site.sql(f"SELECT count(*), max(resumes) {whose}") == [(1, 1)]
        assert site.sql(
            "SELECT count(*) FROM graceful_ws_inboundresult WHERE session_id IN"
            f" (SELECT id {whose})"
        ) == [(1,)]
        assert await browser.evaluate("globalThis.isOld")
        numbers = await browser.evaluate("[...new Set(heard)]")
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        await browser.evaluate("document.querySelector('.gws-chart details').open = true")
        rows = "[...document.querySelectorAll('.gws-chart:first-child tbody tr')]"
        sum_of = "reduce((sum, cell) => sum + (Number(cell.textContent) || 0), 0)"
        sums = f"{rows}.map((row) => [...row.querySelectorAll('td')].{sum_of})"
        await browser.until(f"{sums}[0] === 9")  # the newest comes first
        values = await browser.evaluate(sums)
        first = max(index for index, value in enumerate(values) if value)
        assert 0 not in values[:first], values

        await press(browser, "Enter")  # the focus is on Undo
        await browser.until("document.getElementById('gws-dialog').open")
        await press(browser, "Enter")
        await browser.until(f"{state_of(node)} === 'up'")
        assert await browser.evaluate(FOCUSED) == f"Drain {node}"
        assert [line[0] for line in site.sql(audit)] == ["drain_node", "undo_drain"]
    await assert_policy_was_obeyed(browser)


async def test_dashboard_closes_a_session_that_it_has_searched_for(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site()
    async with clients(site, 2) as [first, second]:
        await open_dashboard(browser, site)
        await browser.until("document.querySelectorAll('#gws-sessions tbody tr').length === 3")
        await browser.evaluate("document.getElementById('gws-text').focus()")
        await type_in(browser, str(first.session_id))
        await browser.until("document.querySelectorAll('#gws-sessions tbody tr').length === 1")
        await tab_to(browser, f"Close session {str(first.session_id)[:8]} of an anonymous user")
        await press(browser, "Enter")
        await browser.until("document.getElementById('gws-dialog').open")
        await press(browser, "Enter")
        await browser.until(
            "document.getElementById('gws-dialog-error').textContent === 'A reason is needed.'"
        )
        await type_in(browser, "<b>too loud</b>")
        await press(browser, "Enter")
        await browser.until(f"{SAID}.includes('Closed;')")
        await browser.until("!document.querySelector('#gws-sessions tbody tr')")
        assert await browser.evaluate("document.activeElement.id") == "gws-sessions-title"
        ended = "SELECT close_code, close_reason FROM graceful_ws_session WHERE state = 'ended'"
        assert site.sql(ended) == [(4506, "<b>too loud</b>")]
        assert await second.send("still here") == "still here"
    await assert_policy_was_obeyed(browser)


async def test_charts_are_read_with_the_arrow_keys(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site()
    await open_dashboard(browser, site)
    label = "document.querySelector('.gws-svg').getAttribute('aria-label')"
    await browser.until(f"{label}.startsWith('Connections. Now node-1 1.')")
    await browser.evaluate("document.querySelector('.gws-svg').focus()")
    await press(browser, "ArrowLeft")
    spoken = "document.querySelector('.gws-chart [aria-live]').textContent"
    assert (await browser.evaluate(spoken)).endswith(": node-1 1")
    tip = "document.querySelector('.gws-tip')"
    assert await browser.evaluate(f"{tip}.checkVisibility() && {tip}.innerText.includes('node-1')")
    await press(browser, "Escape")
    assert await browser.evaluate(f"{tip}.checkVisibility()") is False
    await assert_policy_was_obeyed(browser)


async def test_dashboard_fits_a_phone_and_follows_the_theme(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site(2)
    async with clients(site, 3):
        await open_dashboard(browser, site)
        size = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
        for width in (360, 720, 1024):
            await browser.call("Emulation.setDeviceMetricsOverride", width=width, **size)
            await browser.until(f"innerWidth === {width}")
            wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert await browser.evaluate(wide), width
        colour = "getComputedStyle(document.querySelector('.gws-live')).getPropertyValue('--gws-0')"
        found = set()
        for theme in ("light", "dark"):
            while await browser.evaluate("document.documentElement.dataset.theme") != theme:
                await browser.evaluate("document.querySelector('.theme-toggle').click()")
            found.add(await browser.evaluate(colour))
        assert len(found) == 2
    await assert_policy_was_obeyed(browser)


async def test_dashboard_says_when_nothing_routes_it_and_connects_when_something_does(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site(env={"GRACEFUL_TEST_UNROUTED": "1"})
    await open_dashboard(browser, site, connected=False)
    await browser.until(shown("no-route"))
    text = await browser.evaluate("document.getElementById('gws-no-route').innerText")
    assert "graceful_ws.live.routing import websocket_urlpatterns" in text
    assert await browser.evaluate(STATUS) in ("connection lost", "connecting")
    del site.node.env["GRACEFUL_TEST_UNROUTED"]
    await site.node.arestart()
    # It may have come by itself just now: then there is no button to see.
    await browser.evaluate("document.getElementById('gws-reconnect').click()")
    await browser.until(f"{STATUS}.startsWith('live, by ')")
    assert await browser.evaluate(shown("no-route")) is False


async def test_dashboard_shows_who_may_watch_no_more_the_door(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site()
    await open_dashboard(browser, site)
    site.sql("UPDATE auth_user SET is_staff = %s", False)
    await browser.until(shown("refused"))
    await browser.until(f"{STATUS} === 'closed'")
    site.sql("UPDATE auth_user SET is_staff = %s", True)
    await browser.evaluate("document.getElementById('gws-reconnect').click()")
    await browser.until(f"{STATUS}.startsWith('live, by ')")
    assert await browser.evaluate(shown("refused")) is False
    await assert_policy_was_obeyed(browser)


async def test_dashboard_whose_own_session_is_closed_says_so_and_can_reconnect(
    browser: Browser, dashboard_site: Callable[..., Site]
) -> None:
    site = dashboard_site()
    await open_dashboard(browser, site)
    await tab_to(browser, "As a table")  # the page is there
    await browser.until("!!document.querySelector('#gws-sessions button')")
    await browser.evaluate("document.querySelector('#gws-sessions button').click()")
    await type_in(browser, "enough")
    await press(browser, "Enter")
    await browser.until(f"{STATUS} === 'closed' && {SAID} === 'Closed: enough.'")
    assert await browser.evaluate(shown("reconnect"))
    await browser.evaluate("document.getElementById('gws-reconnect').click()")
    await browser.until(f"{STATUS}.startsWith('live, by ') && !!{row('node-1')}")
    await assert_policy_was_obeyed(browser)


async def test_what_the_policy_refuses_on_the_dashboard_would_be_seen(
    browser: Browser, dashboard_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = dashboard_site()
    await open_dashboard(browser, site)
    await browser.evaluate("document.body.setAttribute('style', 'color: red')")
    await browser.until("violations.length === 1")
    assert "violates the following Content Security Policy" in complaints_of(browser)[0]
