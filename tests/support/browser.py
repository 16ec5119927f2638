"""A headless Chromium, driven over its DevTools protocol with what is installed anyway."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import shutil
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import ChildProcess
from tests.support.waiting import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_WITHIN = 30.0  # seconds
ANSWER_WITHIN = 20.0


class BrowserUnavailable(Exception):
    """This machine has no Chromium."""


class Browser:
    """One page of one browser.

    async with Browser(tmp_path) as browser:
        await browser.open("http://127.0.0.1:8000/")
        assert await browser.evaluate("document.title") == "..."
    """

    def __init__(self, directory: Path, *, width: int = 1280, height: int = 860) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            raise BrowserUnavailable(f"no browser: none of {', '.join(NAMES)}")
        self.complaints: list[str] = []  # exceptions, and errors that the browser logged
        self._size = (width, height)
        self._profile = directory / "profile"
        self._process = ChildProcess("chromium", directory / "chromium.log")
        self._argv = [
            *(found, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *(f"--user-data-dir={self._profile}", "--remote-debugging-port=0"),
            "about:blank",
        ]
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process.spawn(self._argv)
        try:
            port = await eventually(self._port, START_WITHIN)
            page = await eventually(lambda: _first_page(port), START_WITHIN)
            self._socket = await connect(page["webSocketDebuggerUrl"], max_size=None)
            self._reader = asyncio.create_task(self._read(self._socket))
            for domain in ("Page", "Runtime", "Log"):
                await self.call(f"{domain}.enable")
            width, height = self._size  # a window would not be narrower than 500
            await self.call(
                "Emulation.setDeviceMetricsOverride",
                **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if self._socket is not None:
            await self._socket.close()
        await asyncio.to_thread(self._process.kill)

    def _port(self) -> int | None:
        file = self._profile / "DevToolsActivePort"
        lines = file.read_text().split() if file.exists() else []
        return int(lines[0]) if lines else None

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol. Raises AssertionError when the browser refuses it."""
        assert self._socket is not None
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return await asyncio.wait_for(answer, ANSWER_WITHIN)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression of the page. Raises AssertionError when it throws."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, within: float = ANSWER_WITHIN) -> None:
        """Returns when the expression is true; AssertionError after ``within`` seconds."""
        await eventually(lambda: self.evaluate(expression), within, expression)

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            message = json.loads(text)
            if "id" in message:
                self._answered(message)
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    def _answered(self, message: dict[str, Any]) -> None:
        answer = self._answers.pop(message["id"])
        if answer.done():
            return
        if "error" in message:
            answer.set_exception(AssertionError(message["error"]))
        else:
            answer.set_result(message["result"])


def _first_page(port: int) -> dict[str, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/json/list")
        pages = json.loads(connection.getresponse().read())
    except OSError:
        return None
    finally:
        connection.close()
    return next((page for page in pages if page["type"] == "page"), None)
