"""Pages that are left and come back, freeze, are hidden, and lose their network."""

from __future__ import annotations

from collections.abc import Callable

from tests.browser.conftest import PageSite
from tests.browser.kit import Traffic, complaints_of, open_page, page_url
from tests.support.browser import Browser, Tab
from tests.support.proxy import Proxy
from tests.support.servers import Site
from tests.support.waiting import eventually

MakeTraffic = Callable[..., Traffic]
FAR = 60_000  # ms, a delay that nobody waits for
AT_ONCE = 1000.0  # ms, for a busy machine
PROBE = 300  # ms until a connection that does not answer is given up
SLOW = 3000  # ms, the slow lane of the hidden tab


async def test_page_that_comes_back_from_the_back_forward_cache_goes_on_where_it_was(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site))
    travelling = traffic(site, browser.tab)
    await travelling.start()
    session = await browser.evaluate("page.socket.sessionId")
    await browser.evaluate("globalThis.isTheSame = true")
    for times in (1, 2):
        await browser.open(site.url("/elsewhere/"))
        await browser.tab.back()
        assert await browser.evaluate("globalThis.isTheSame"), why_it_was_not_kept(browser.tab)
        await browser.until(f"page.count('restored') === {times}")
        await browser.until(f"page.count('open') === {times + 1}")
        await travelling.more()
    [ledger] = await travelling.settle()
    assert ledger.session_id == session
    assert [socket.get("closedWith") for socket in ledger.sockets] == [4000, 4000, None]
    assert complaints_of(browser) == []


def why_it_was_not_kept(tab: Tab) -> str:
    name = "Page.backForwardCacheNotUsed"
    reasons = [parameters for method, parameters in tab.events if method == name]
    return f"the browser did not keep the page: {reasons}"


async def test_frozen_page_lets_go_of_its_connection_and_goes_on_when_it_thaws(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site))
    travelling = traffic(site, browser.tab)
    await travelling.start()
    await hide(browser, site)
    await browser.tab.freeze()
    await eventually(lambda: states_of_sessions(site) == ["detached"], 10.0)
    await browser.tab.unfreeze()
    await browser.until("page.count('open') === 2")
    await browser.tab.show()
    await travelling.more()
    [ledger] = await travelling.settle()
    assert ledger.sockets[0]["closedWith"] == 4000
    [resume] = ledger.of_type("resume")
    assert ledger.sockets[1]["dialledAt"] - resume["at"] < AT_ONCE
    assert complaints_of(browser) == []


async def test_page_that_is_online_again_does_not_wait_for_its_back_off(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    async with Proxy(site.port) as proxy:
        url = proxy.ws("/counter/")
        await open_page(browser, page_url(site, url, baseDelay=FAR, maxDelay=FAR, parkedDelay=FAR))
        travelling = traffic(site, browser.tab)
        await travelling.start()
        await browser.tab.set_offline(True)
        await proxy.cut()
        await browser.until("page.count('retry') > 0")
        await browser.tab.set_offline(False)
        await browser.until("page.count('open') === 2")
        await travelling.more()
        [ledger] = await travelling.settle()
    [retry], [online] = ledger.of_type("retry"), ledger.of_type("online")
    assert retry["delayMs"] >= FAR / 2
    assert retry["lane"] == "slow"
    assert ledger.sockets[1]["dialledAt"] - online["at"] < AT_ONCE
    assert complaints_of(browser, url) == []


async def test_connection_that_died_unnoticed_is_replaced_when_the_page_is_online_again(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    async with Proxy(site.port) as one, Proxy(site.port) as other:
        urls = [proxy.ws("/counter/") for proxy in (one, other)]
        await open_page(browser, page_url(site, *urls, wakeProbe=PROBE))
        travelling = traffic(site, browser.tab)
        await travelling.start()
        await browser.tab.set_offline(True)
        dead = urls.index(await browser.evaluate("page.socket.endpoint"))
        (one, other)[dead].swallow()
        await browser.tab.set_offline(False)
        await browser.until("page.count('open') === 2", 10.0)  # by itself after 14 seconds
        await travelling.more()
        [ledger] = await travelling.settle()
    [online] = ledger.of_type("online")
    assert [socket["url"] for socket in ledger.sockets] == [urls[dead], urls[1 - dead]]
    assert ledger.sockets[0]["closedWith"] == 4001
    assert PROBE <= ledger.sockets[0]["closedAt"] - online["at"] < PROBE + AT_ONCE
    assert complaints_of(browser, *urls) == []


async def test_hidden_page_dials_in_the_slow_lane_and_at_once_when_it_is_seen(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    async with Proxy(site.port) as proxy:
        url = proxy.ws("/counter/")
        await open_page(browser, page_url(site, url, baseDelay=10, parkedDelay=SLOW))
        travelling = traffic(site, browser.tab)
        await travelling.start()
        await hide(browser, site)
        proxy.refuse()
        await proxy.cut()
        await browser.until("page.count('retry') === 2")
        proxy.resume()
        await browser.tab.show()
        await browser.until("page.count('open') === 2")
        await travelling.more()
        [ledger] = await travelling.settle()
    retries = ledger.of_type("retry")
    assert {retry["lane"] for retry in retries} == {"slow"}
    assert min(retry["delayMs"] for retry in retries) >= SLOW / 2
    assert ledger.sockets[1]["dialledAt"] - retries[0]["at"] >= SLOW / 2
    seen = ledger.of_type("visible")[-1]
    assert ledger.sockets[2]["dialledAt"] - seen["at"] < AT_ONCE
    assert complaints_of(browser, url) == []


async def hide(browser: Browser, site: Site) -> None:
    await browser.new_tab(site.url("/elsewhere/"))
    await browser.until("document.visibilityState === 'hidden'")


def states_of_sessions(site: Site) -> list[str]:
    return [state for (state,) in site.sql("SELECT state FROM graceful_ws_session ORDER BY id")]
