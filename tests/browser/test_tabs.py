"""Several tabs of one page: each has a session of its own, which a reload keeps."""

from __future__ import annotations

from collections.abc import Callable

from tests.browser.conftest import PageSite
from tests.browser.kit import Traffic, complaints_of, ledger_of, open_page, page_url
from tests.support.browser import Browser, Tab

MakeTraffic = Callable[..., Traffic]


async def session_of(tab: Tab) -> str:
    return str(await tab.evaluate("page.socket.sessionId"))


async def duplicated(browser: Browser, tab: Tab) -> Tab:
    """Another tab with the same page and a copy of its sessionStorage, as "Duplicate" makes it."""
    await tab.evaluate("window.open(location.href), 0", clicked=True)
    copy = await browser.opened_tab()
    await copy.until("globalThis.page?.connected")
    return copy


async def assert_both_live(travelling: Traffic) -> None:
    """Each sends and receives, and neither has taken the session of the other."""
    for tab in travelling.tabs:
        await tab.show()  # the other one's timers are slow
        await tab.evaluate("page.keepSending(20)")
        await travelling.more_of(tab)
    ledgers = await travelling.settle()
    assert len({ledger.session_id for ledger in ledgers}) == len(travelling.tabs)
    for tab, ledger in zip(travelling.tabs, ledgers, strict=True):
        assert len(ledger.of_type("open")) == 1
        assert ledger.of_type("close") == []
        assert complaints_of(tab) == []


async def test_two_tabs_are_two_sessions(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    url = page_url(site)
    await open_page(browser, url)
    second = await browser.new_tab(url)
    await second.until("globalThis.page?.connected")
    await assert_both_live(traffic(site, browser.tab, second))


async def test_reloaded_tab_resumes_its_session_behind_the_last_message_it_saw(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site, storage=True))
    session = await session_of(browser.tab)
    travelling = traffic(site, browser.tab)
    for _ in range(2):
        await travelling.start()
        await travelling.rest(browser.tab)
        await browser.tab.reload()
        await browser.until("globalThis.page?.connected && page.tick > 0")
        ledger = await ledger_of(browser)
        assert ledger.session_id == session
        assert ledger.of_type("open")[0]["resumed"]
        assert ledger.ticks[0]["data"]["n"] == await browser.evaluate("page.leftAt + 1")
    await travelling.start()
    await travelling.settle()
    assert complaints_of(browser) == []


async def test_duplicate_of_a_tab_gets_a_session_of_its_own(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site, storage=True))
    session = await session_of(browser.tab)
    await browser.tab.reload()  # now there was something in its storage
    await browser.until("globalThis.page?.connected")
    copy = await duplicated(browser, browser.tab)
    assert await session_of(browser.tab) == session
    await assert_both_live(traffic(site, browser.tab, copy))


async def test_duplicate_of_a_tab_that_came_back_gets_a_session_of_its_own(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    """What the page stored when it was left is not to be found once it lives again."""
    site = page_site()
    await open_page(browser, page_url(site, storage=True))
    session = await session_of(browser.tab)
    await browser.open(site.url("/elsewhere/"))
    await browser.tab.back()
    await browser.until("page.count('open') === 2")
    copy = await duplicated(browser, browser.tab)
    assert await session_of(copy) != session
    assert await session_of(browser.tab) == session
    travelling = traffic(site, browser.tab, copy)
    for tab in travelling.tabs:
        await tab.show()
        await tab.evaluate("page.keepSending(20)")
        await travelling.more_of(tab)
    ledgers = await travelling.settle()
    assert [len(ledger.of_type("open")) for ledger in ledgers] == [2, 1]
