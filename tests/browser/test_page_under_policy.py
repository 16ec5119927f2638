"""The module as a production site serves it: hashed names, a strict Content-Security-Policy."""

from __future__ import annotations

import re

from tests.browser.conftest import PageSite
from tests.browser.kit import complaints_of, ledger_of, open_page, page_url
from tests.support.browser import Browser

HASHED = r"/static/graceful_ws/graceful-ws\.[0-9a-f]{12}\.js"


async def test_page_connects_under_a_strict_policy_with_static_files_of_hashed_names(
    browser: Browser, page_site: PageSite
) -> None:
    site = page_site(nodes=2)
    await open_page(browser, page_url(site))
    await browser.evaluate("page.send()")
    await browser.until("page.echoes === 1")
    loaded = await browser.evaluate(
        "performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname)"
    )
    assert re.fullmatch(HASHED, await browser.evaluate("page.client"))
    assert [path for path in loaded if re.fullmatch(HASHED, path)], loaded
    assert await browser.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    (await ledger_of(browser)).assert_whole()
    assert complaints_of(browser) == []


async def test_what_the_policy_refuses_would_be_seen(browser: Browser, page_site: PageSite) -> None:
    site = page_site()
    await open_page(browser, page_url(site))
    await browser.evaluate("fetch('http://127.0.0.1:9/').catch(() => {}), 0")
    await browser.until("page.count('violation') > 0")
    assert "violates the following Content Security Policy" in complaints_of(browser)[0]
