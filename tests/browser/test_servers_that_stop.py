"""Servers that restart, are killed, or drain, under a page that sends and receives all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.browser.conftest import PageSite
from tests.browser.kit import Ledger, Traffic, complaints_of, ledger_of, open_page, page_url
from tests.support.browser import Browser

MakeTraffic = Callable[..., Traffic]
LONGEST_GAP = 250.0  # ms
DRAINS = 3  # a busy machine may spoil a measurement, not three of them


async def test_page_outlives_a_server_that_restarts(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site))
    travelling = traffic(site, browser.tab)
    await travelling.start()
    site.node.terminate()
    await site.node.await_exit()
    await asyncio.to_thread(site.node.start)
    await browser.until("page.count('open') === 2")
    await travelling.more()
    [ledger] = await travelling.settle()
    assert ledger.sockets[0]["code"] == 1012
    assert complaints_of(browser, site.ws()) == []


async def test_page_outlives_a_server_that_is_killed(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    site = page_site()
    await open_page(browser, page_url(site))
    travelling = traffic(site, browser.tab)
    await travelling.start()
    for life in (2, 3):
        site.node.kill()
        await asyncio.to_thread(site.node.start)
        await browser.until(f"page.count('open') === {life}")
        await travelling.more()
    [ledger] = await travelling.settle()
    welcomed = [socket for socket in ledger.sockets if "welcomedAt" in socket]
    assert [socket.get("code") for socket in welcomed] == [1006, 1006, None]
    assert complaints_of(browser, site.ws()) == []


async def test_page_moves_from_a_draining_node_before_it_leaves_it(
    browser: Browser, page_site: PageSite, traffic: MakeTraffic
) -> None:
    # Time enough for a busy machine: nodes close what has not moved by then.
    site = page_site(nodes=2, settings={"drain_window": 6.0})
    await open_page(browser, page_url(site))
    travelling = traffic(site, browser.tab)
    await travelling.start()
    for drains in range(1, DRAINS + 1):
        node = await browser.evaluate("page.socket.node")
        await site.adjango("drain_connections", f"--node={node}", "--timeout=20")
        await browser.until(f"page.count('open') === {drains + 1}")
        await travelling.more(60)  # a second and more
        if delay_around_move(await ledger_of(browser)) < LONGEST_GAP:
            break
        await site.adjango("drain_connections", f"--node={node}", "--undo")
    else:
        pytest.fail(f"no move without a gap of {LONGEST_GAP:g} ms")
    [ledger] = await travelling.settle()
    assert [socket["othersAtWelcome"] for socket in ledger.sockets] == [0] + [1] * drains
    assert [socket["closedWith"] for socket in ledger.sockets[:-1]] == [4000] * drains
    assert len({socket["url"] for socket in ledger.sockets[-2:]}) == 2
    assert complaints_of(browser) == []


def delay_around_move(ledger: Ledger) -> float:
    """The longest time, in ms, from publication to arrival of what was published in the second
    before the last welcome and the second after: a gap in delivery makes what waits in it late by
    as much, and a publisher that hesitates does not."""
    welcomed = ledger.sockets[-1]["welcomedAt"] + ledger.time_origin
    near = [tick for tick in ledger.ticks if abs(tick["data"]["at"] - welcomed) < 1000]
    assert near
    return max(tick["at"] + ledger.time_origin - tick["data"]["at"] for tick in near)
