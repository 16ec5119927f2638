"""``python -m project.screenshots``: the pictures of docs/images, of the demo as it runs.

It starts the demo, lets some clients talk for a few minutes while a node is drained and one is
killed, and looks at it with a real browser: nothing in the pictures is made up. It takes the
browser of the tests, so it runs in a checkout of the repository, with Chromium installed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from graceful_ws.client import GracefulClient
from project.demo.supervisor import Supervisor
from tests.support.browser import Browser
from tests.support.processes import ROOT, free_port

TALKERS = 36  # clients besides those in the pictures
LARGEST = 250_000  # bytes of a picture
DASHBOARD = "/admin/graceful_ws/live/"
SESSIONS = "/admin/graceful_ws/session/"

SAID = [
    ("Grace", "the release goes out at noon, both nodes"),
    ("Ada", "I'm in the middle of a call, will you drain them first?"),
    ("Grace", "one after the other"),
    ("Ada", "that was the first? nothing moved here"),
    ("Grace", "and the second: killed it, to be sure"),
    ("Ada", "still here, and so is everything you said"),
]


# --- who is there ---------------------------------------------------------------------------------


async def talker(urls: Sequence[str], pace: float) -> None:
    """A client of the echo that comes, talks, loses its connection now and then, and goes."""
    while True:
        with contextlib.suppress(Exception):
            async with GracefulClient(
                urls, on_message=lambda message: None, on_event=lambda event: None, probe=None
            ) as client:
                leaves = time.monotonic() + random.uniform(20, 150)
                while time.monotonic() < leaves:
                    await client.send({"at": time.time()})
                    await asyncio.sleep(random.expovariate(1 / pace))
                    if random.random() < 0.006:
                        client.abort()
        await asyncio.sleep(random.uniform(0, 8))


@contextlib.asynccontextmanager
async def crowd(ports: Sequence[int]) -> AsyncIterator[None]:
    urls = [f"ws://127.0.0.1:{port}/ws/soak/" for port in ports]
    tasks = []
    for number in range(TALKERS):
        turned = [*urls[number % 2 :], *urls[: number % 2]]
        tasks.append(asyncio.create_task(talker(turned, random.uniform(0.5, 3))))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


# --- what is seen ---------------------------------------------------------------------------------


class Camera:
    """A browser, and where its pictures go."""

    def __init__(self, browser: Browser, directory: Path, origin: str) -> None:
        self.browser = browser
        self.directory = directory
        self.origin = origin

    async def stand(self, width: int, height: int, scale: float = 1, *, dark: bool = False) -> None:
        await self.browser.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": scale},
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.browser.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.browser.call("Emulation.setScrollbarsHidden", hidden=True)

    async def look(self, path: str, until: str) -> None:
        await self.browser.open(self.origin + path)
        await self.browser.until(until)

    async def shoot(self, name: str) -> None:
        await self.browser.evaluate("document.activeElement?.blur()")
        await asyncio.sleep(1.0)  # transitions end, a layout settles
        sideways = "document.documentElement.scrollWidth > innerWidth"
        assert not await self.browser.evaluate(sideways), f"{name} scrolls sideways"
        answer = await self.browser.call("Page.captureScreenshot", format="png")
        content = base64.b64decode(answer["data"])
        (self.directory / f"{name}.png").write_bytes(content)
        print(f"{name}.png: {len(content)} bytes")
        assert len(content) <= LARGEST, f"{name}.png is larger than {LARGEST} bytes"

    async def log_in(self, password: str) -> None:
        await self.look("/admin/login/?next=/admin/", "!!document.getElementById('id_username')")
        await self.browser.evaluate(
            "document.getElementById('id_username').value = 'admin';"
            f"document.getElementById('id_password').value = {json.dumps(password)};"
            "document.querySelector('#login-form').submit()"
        )
        await self.browser.until(
            "!!document.getElementById('site-name') && !!document.querySelector('.app-graceful_ws')"
        )


CONNECTED = "document.getElementById('pill').dataset.state === 'open'"


async def talk_in_the_room(camera: Camera, site: Supervisor, minutes: float) -> None:
    """Ada in the browser, Grace in Python; meanwhile a node is drained and one is killed."""
    browser = camera.browser
    await camera.stand(1000, 1080, 1.25)
    await camera.look("/", f"{CONNECTED}")
    await browser.evaluate(
        "document.getElementById('name').value = 'Ada';"
        "document.getElementById('name').dispatchEvent(new Event('change'))"
    )
    urls = [f"ws://127.0.0.1:{port}/ws/" for port in site.ports]
    hurts = {3: signal.SIGTERM, 4: signal.SIGKILL}  # of the node that Ada is on
    here = "document.querySelector('.endpoints [aria-current] .endpoint').innerText"
    async with GracefulClient(
        urls, on_message=lambda message: None, on_event=lambda event: None, probe=None
    ) as grace:
        await grace.send({"type": "enter", "name": "Grace"})
        for number, (who, text) in enumerate(SAID):
            if number in hurts:
                process = site.node(await browser.evaluate(here))
                starts = process.starts
                process.send(hurts[number])
                await asyncio.sleep(1.0)
            if who == "Grace":
                await grace.send({"type": "line", "number": number + 1, "text": text})
            else:
                await browser.evaluate(
                    f"document.getElementById('text').value = {json.dumps(text)};"
                    "document.querySelector('#write [type=submit]').click()"
                )
            if number in hurts:
                await site.ready(process, after=starts)
            await asyncio.sleep(minutes * 60 / len(SAID))
        await browser.until(f"{CONNECTED} && !document.querySelector('.lines .pending')", 40)
        await camera.shoot("demo")


LIVE = (
    "document.getElementById('gws-status').textContent.startsWith('live')"
    " && document.querySelectorAll('#gws-nodes tbody tr').length >= 2"
    " && !!document.querySelector('.gws-svg path')"
    " && document.getElementById('gws-in').textContent !== '0'"
)


async def take_all(camera: Camera, site: Supervisor, password: str, minutes: float) -> None:
    await talk_in_the_room(camera, site, minutes)
    await camera.log_in(password)
    await camera.stand(1720, 900)
    await camera.look(f"{SESSIONS}?state__exact=attached", "!!document.querySelector('.gws-id')")
    await camera.shoot("admin")
    for name, dark in (("light", False), ("dark", True)):
        await camera.stand(1280, 1500, 1.25, dark=dark)
        await camera.look(DASHBOARD, LIVE)
        await asyncio.sleep(6.0)  # the rates of two beats
        await camera.shoot(f"dashboard-{name}")
    await camera.stand(360, 780, 2)
    await camera.look(DASHBOARD, LIVE)
    await asyncio.sleep(6.0)
    await camera.shoot("dashboard-phone")


async def main(directory: Path, minutes: float) -> None:
    password = secrets.token_urlsafe(9)
    first = free_port()
    ports = [first, free_port()]
    with tempfile.TemporaryDirectory() as home:
        site = Supervisor(Path(home), ports, password=password, say=print)
        async with site, crowd(ports), Browser(Path(home)) as browser:
            camera = Camera(browser, directory, f"http://127.0.0.1:{first}")
            await take_all(camera, site, password, minutes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--minutes", type=float, default=6.0, help="of talk before the pictures")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(arguments.directory, arguments.minutes))
