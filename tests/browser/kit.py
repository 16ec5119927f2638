"""What the tests of the page share: its site, its traffic, and its ledger."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tests.support.browser import Browser, Tab
from tests.support.processes import ChildProcess
from tests.support.servers import Site

APPLICATION = "tests.browser.asgi:application"

# Short limits, so that no test waits long for one to pass.
SETTINGS: dict[str, Any] = {
    "beat_interval": 0.5,
    "dead_after": 3.0,
    "round_interval": 0.5,
    "poll_interval": 0.02,  # there is no channel layer
    "drain_window": 0.2,
    "drain_deadline": 10.0,
    "reconnect_window": 0.2,
}

OPTIONS = {"baseDelay": 100, "parkedDelay": 1000, "queueMessages": 1000}  # of the client

# What a browser logs, whatever the page does, when an endpoint does not answer.
_NO_ANSWER = re.compile(
    r"WebSocket connection to '(?P<ws>[^']+)' failed: .*"
    r"|Failed to load resource: net::\w+ (?P<http>\S+)"
)


def page_url(site: Site, *urls: str, storage: bool = False, **options: Any) -> str:
    """The page on the first node, with a client of these endpoints: all nodes if there are none."""
    endpoints = urls or [node.ws("/counter/") for node in site.nodes]
    query = [("ws", url) for url in endpoints]
    query.append(("options", json.dumps({**OPTIONS, **options})))
    if storage:
        query.append(("storage", "1"))
    return site.url(f"/page/?{urlencode(query)}")


async def open_page(tab: Tab | Browser, url: str) -> None:
    await tab.open(url)
    await tab.until("globalThis.page?.connected")


def complaints_of(tab: Tab | Browser, *away: str) -> list[str]:
    """Errors that the tab logged, but for what it could not reach at the endpoints ``away``."""
    hosts = {url.split("/")[2] for url in away}

    def expected(complaint: str) -> bool:
        found = _NO_ANSWER.fullmatch(complaint.strip())
        return found is not None and (found["ws"] or found["http"]).split("/")[2] in hosts

    return [complaint for complaint in tab.complaints if not expected(complaint)]


class Publisher:
    """A process that publishes numbers to the page's stream every 20 ms, see ``publisher.py``."""

    def __init__(self, site: Site) -> None:
        self._process = ChildProcess("publisher", site.directory / "publisher.log")
        argv = [sys.executable, "-m", "tests.browser.publisher"]
        self._process.spawn(argv, env=site.env)

    def stop(self) -> int:
        """Ends it; returns the last number."""
        self._process.signal(signal.SIGTERM)
        assert self._process.wait(10.0) == 0, self._process.log_tail()
        return int(self._process.log().split()[-1])

    def kill(self) -> None:
        self._process.kill()


class Ledger:
    """What one page has seen, see ``page.js``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.session_id: str = values["sessionId"]
        self.time_origin: float = values["timeOrigin"]
        self.sent: list[int] = values["sent"]
        self.acked: list[int] = values["acked"]
        self.refused: list[tuple[int, str]] = values["refused"]
        self.received: list[dict[str, Any]] = values["received"]
        self.events: list[dict[str, Any]] = values["events"]
        self.life: list[dict[str, Any]] = values["life"]
        self.sockets: list[dict[str, Any]] = values["sockets"]

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        """Events of the client, or of the page."""
        return [event for event in [*self.events, *self.life] if event["type"] == type_]

    @property
    def echoes(self) -> list[int]:
        return [each["data"]["n"] for each in self.received if each["stream"] is None]

    @property
    def ticks(self) -> list[dict[str, Any]]:
        """Messages of the stream."""
        return [each for each in self.received if each["stream"] is not None]

    def assert_whole(self) -> None:
        """Nothing was lost, doubled or out of order, in both directions; one session all along."""
        assert self.refused == []
        assert self.of_type("gap") == []
        assert self.of_type("error") == []
        assert self.of_type("violation") == []
        assert self.acked == self.sent
        assert self.echoes == self.sent
        if self.ticks:
            numbers = [tick["data"]["n"] for tick in self.ticks]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert [event["resumed"] for event in self.of_type("open")[1:]].count(False) == 0


async def ledger_of(tab: Tab | Browser) -> Ledger:
    return Ledger(await tab.evaluate("page.ledger()"))


class Traffic:
    """Numbers from each page every 20 ms, and from a publisher to all, until ``settle``."""

    def __init__(self, site: Site, *tabs: Tab) -> None:
        self.tabs = tabs
        self.publisher = Publisher(site)

    async def start(self) -> None:
        for tab in self.tabs:
            await tab.evaluate("page.keepSending(20)")
        await self.more()

    async def more(self, count: int = 20) -> None:
        """Until every page has so many more of each kind."""
        for tab in self.tabs:
            await self.more_of(tab, count)

    async def more_of(self, tab: Tab, count: int = 20) -> None:
        echoes, tick = await tab.evaluate("[page.echoes, page.tick]")
        await tab.until(f"page.echoes > {echoes + count} && page.tick > {tick + count}")

    async def rest(self, tab: Tab) -> None:
        """No more numbers from this page; returns when all are acknowledged and back."""
        sent = await tab.evaluate("page.rest()")
        await tab.until(f"page.acks >= {sent} && page.echoes >= {sent}")

    async def settle(self) -> list[Ledger]:
        """Ends it, and returns the ledgers when all has arrived, and nothing but it."""
        for tab in self.tabs:
            await self.rest(tab)
        last = self.publisher.stop()
        for tab in self.tabs:
            await tab.until(f"page.tick >= {last}")
        ledgers = [await ledger_of(tab) for tab in self.tabs]
        for ledger in ledgers:
            ledger.assert_whole()
        return ledgers
