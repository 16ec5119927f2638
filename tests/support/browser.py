"""A headless Chromium, driven over its DevTools protocol with what is installed anyway."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from websockets.exceptions import ConnectionClosed

from tests.support.devtools import ANSWER_WITHIN, DevTools
from tests.support.processes import ChildProcess
from tests.support.waiting import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_WITHIN = 30.0  # seconds
END_WITHIN = 5.0  # seconds

# Answers to an expression that met a page on its way out.
GONE = ("Cannot find", "context was destroyed", "navigated or closed", "Not attached")


class BrowserUnavailable(Exception):
    """This machine has no Chromium."""


class Tab:
    """One tab: its page, and what happens to it."""

    def __init__(self, devtools: DevTools, target: str, session: str) -> None:
        self.target = target
        self.complaints: list[str] = []  # exceptions, and errors that were logged
        self.events: list[tuple[str, dict[str, Any]]] = []  # all of the protocol, since the start
        self._devtools = devtools
        self._session = session
        devtools.listen(self._heard, session)

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol. Raises AssertionError when the browser refuses it."""
        return await self._devtools.call(method, self._session, **parameters)

    async def set_up(self, width: int, height: int) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(  # a window would not be narrower than 500
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    # --- its page ---------------------------------------------------------------------------------

    async def open(self, url: str) -> None:
        answer = await self.call("Page.navigate", url=url)
        assert not answer.get("errorText"), f"{url}: {answer['errorText']}"
        await self.until("document.readyState === 'complete'")

    async def reload(self) -> None:
        """Returns with the new document, complete."""
        await self.evaluate("window.isOld = true")
        await self.call("Page.reload")
        await self.until("!window.isOld && document.readyState === 'complete'")

    async def back(self) -> None:
        """As its button does; returns when the entry before is the current one."""
        history = await self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        await self.call("Page.navigateToHistoryEntry", entryId=entry["id"])
        at_entry = f"location.href === {json.dumps(entry['url'])}"
        await self.until(f"{at_entry} && document.readyState === 'complete'")

    async def evaluate(self, expression: str, *, clicked: bool = False) -> Any:
        """The JSON value of an expression of the page. Raises AssertionError when it throws.

        ``clicked``: the page may do what needs a user's gesture, like opening a window.
        """
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, userGesture=clicked
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, within: float = ANSWER_WITHIN) -> None:
        """Returns when the expression is true; AssertionError after ``within`` seconds."""
        await eventually(lambda: self._evaluate_somewhere(expression), within, expression)

    async def _evaluate_somewhere(self, expression: str) -> Any:
        try:
            return await self.evaluate(expression)
        except AssertionError as error:
            if any(words in str(error) for words in GONE):
                return None  # between two pages
            raise

    # --- what happens to it -----------------------------------------------------------------------

    async def show(self) -> None:
        """In front of all other tabs: its page becomes visible, theirs hidden."""
        await self.call("Page.bringToFront")

    async def set_offline(self, offline: bool) -> None:
        """The device's network, for this tab: new connections fail until it is back, and
        ``navigator.onLine`` and the events ``offline`` and ``online`` tell. WebSockets go on."""
        await self.call("Network.enable")
        unlimited = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.call("Network.emulateNetworkConditions", offline=offline, **unlimited)

    async def freeze(self) -> None:
        """Hidden and frozen: no timer runs until ``unfreeze``. For a tab behind another one, as
        real ones are: one in front could not be shown again."""
        await self.call("Page.setWebLifecycleState", state="frozen")

    async def unfreeze(self) -> None:
        """Running again, and still hidden until ``show``."""
        await self.call("Page.setWebLifecycleState", state="active")

    async def close(self) -> None:
        await self._devtools.call("Target.closeTarget", targetId=self.target)

    def _heard(self, method: str, parameters: dict[str, Any]) -> None:
        self.events.append((method, parameters))
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            arguments = parameters["args"]
            said = [str(each.get("value", each.get("description"))) for each in arguments]
            self.complaints.append(" ".join(said))
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            if entry["level"] == "error":
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")


class Browser:
    """One browser with a fresh profile, and its tabs. What a tab can do, it does with the first.

        async with Browser(tmp_path) as browser:
            await browser.open("http://127.0.0.1:8000/")
            assert await browser.evaluate("document.title") == "..."

    As people have it: tabs in the background are hidden and throttled, and pages that were left
    are kept for the way back, unlike in a browser that Playwright or Selenium started.
    """

    def __init__(self, directory: Path, *, width: int = 1280, height: int = 860) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            raise BrowserUnavailable(f"no browser: none of {', '.join(NAMES)}")
        self.tabs: list[Tab] = []
        self._size = (width, height)
        self._profile = directory / "profile"
        self._process = ChildProcess("chromium", directory / "chromium.log")
        self._argv = [
            *(found, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *(f"--user-data-dir={self._profile}", "--remote-debugging-port=0"),
            "about:blank",
        ]
        self._devtools: DevTools | None = None

    async def __aenter__(self) -> Self:
        self._process.spawn(self._argv)
        try:
            port = await eventually(self._port, START_WITHIN)
            url = await eventually(lambda: asyncio.to_thread(_url, port), START_WITHIN)
            self._devtools = await DevTools.connect(url)
            await eventually(self._attach_new, START_WITHIN)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._devtools is not None:
            with suppress(AssertionError, ConnectionClosed):  # it may be gone
                await self._devtools.call("Browser.close")  # it takes what it has in /tmp with it
            await self._devtools.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        with suppress(AssertionError):
            self._process.wait(END_WITHIN)
        self._process.kill()

    def _port(self) -> int | None:
        file = self._profile / "DevToolsActivePort"
        lines = file.read_text().split() if file.exists() else []
        return int(lines[0]) if lines else None

    # --- its tabs ---------------------------------------------------------------------------------

    async def new_tab(self, url: str) -> Tab:
        """A tab in front of the others, with ``url`` in it."""
        assert self._devtools is not None
        answer = await self._devtools.call("Target.createTarget", url="about:blank")
        tab = await self._attach(answer["targetId"])
        await tab.open(url)
        return tab

    async def opened_tab(self) -> Tab:
        """The tab that a page has opened."""
        return await eventually(self._attach_new, ANSWER_WITHIN, "no page opened a tab")

    async def _attach_new(self) -> Tab | None:
        assert self._devtools is not None
        known = {tab.target for tab in self.tabs}
        for target in (await self._devtools.call("Target.getTargets"))["targetInfos"]:
            if target["type"] == "page" and target["targetId"] not in known:
                return await self._attach(target["targetId"])
        return None

    async def _attach(self, target: str) -> Tab:
        assert self._devtools is not None
        answer = await self._devtools.call("Target.attachToTarget", targetId=target, flatten=True)
        tab = Tab(self._devtools, target, answer["sessionId"])
        await tab.set_up(*self._size)
        self.tabs.append(tab)
        return tab

    # --- its first tab ----------------------------------------------------------------------------

    @property
    def tab(self) -> Tab:
        return self.tabs[0]

    @property
    def complaints(self) -> list[str]:
        return self.tab.complaints

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self.tab.call(method, **parameters)

    async def open(self, url: str) -> None:
        await self.tab.open(url)

    async def evaluate(self, expression: str) -> Any:
        return await self.tab.evaluate(expression)

    async def until(self, expression: str, within: float = ANSWER_WITHIN) -> None:
        await self.tab.until(expression, within)


def _url(port: int) -> str | None:
    """Where the browser itself is spoken to."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/json/version")
        return str(json.loads(connection.getresponse().read())["webSocketDebuggerUrl"])
    except OSError:
        return None
    finally:
        connection.close()
