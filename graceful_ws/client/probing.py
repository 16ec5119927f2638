"""The round trip to an endpoint that there is no connection to: one small HTTP request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from graceful_ws.core.endpoints import PROBE_TIMEOUT, Endpoints, reach

INDIRECT = frozenset({"sock", "host", "port", "unix", "path"})
PORTS = {"ws": 80, "wss": 443}


class Prober:
    """Asks for ``path`` on the hosts of WebSocket URLs, and tells ``endpoints``. ``tls``: the
    ``ssl`` argument that connections are made with; None is the default context. ``proxies``: they
    go through those of the environment, where probes do not."""

    def __init__(
        self,
        endpoints: Endpoints,
        path: str,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        *,
        proxies: bool = False,
    ) -> None:
        self._endpoints = endpoints
        self._path = path
        self._tls = tls
        self._server_hostname = server_hostname
        self._proxies = proxies

    async def race(self, urls: Collection[str]) -> None:
        """Returns when the nearest of them have answered. Nobody waits for the others: they are
        asked no longer, and stay unknown."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = {asyncio.create_task(self._probe(url)) for url in self._direct(urls)}
        try:
            until = began + PROBE_TIMEOUT
            while waiting and loop.time() < until:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=until - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if any(task.result() for task in done):
                    until = min(until, began + reach([loop.time() - began]))
        finally:
            await _end(waiting)

    async def measure(self, urls: Collection[str]) -> None:
        """Returns when all of them have answered, or are known to be silent."""
        tasks = {asyncio.create_task(self._probe(url)) for url in self._direct(urls)}
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await _end(tasks)

    def _direct(self, urls: Collection[str]) -> list[str]:
        """Those to which no proxy of the environment is in the way."""
        if not (self._proxies and getproxies()):
            return list(urls)
        return [url for url in urls if proxy_bypass(urlsplit(url).hostname or "")]

    async def _probe(self, url: str) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                rtt = await self._ask(urlsplit(url))
        except (OSError, TimeoutError, ValueError):
            rtt = None
        if rtt is None:
            self._endpoints.silent(url)
            return False
        self._endpoints.measured(url, rtt, probed=True)
        return True

    async def _ask(self, url: SplitResult) -> float | None:
        """Seconds from the request to the answer; connecting is not counted. None for an answer
        that says that the endpoint does not work, or drains."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if url.scheme == "wss":
            if self._tls is None:
                self._tls = ssl.create_default_context()  # takes a while, once
            options = {"ssl": self._tls, "server_hostname": self._server_hostname}
        port = url.port or PORTS[url.scheme]
        reader, writer = await asyncio.open_connection(url.hostname, port, **options)
        try:
            request = f"GET {self._path} HTTP/1.1\r\nHost: {url.netloc.rpartition('@')[2]}\r\n"
            began = loop.time()
            writer.write(f"{request}Connection: close\r\n\r\n".encode())
            version, _, rest = (await reader.readline()).decode("latin-1").partition(" ")
            if not (version.startswith("HTTP/1") and rest[:3].isdecimal()):
                return None
            return loop.time() - began if int(rest[:3]) < 500 else None
        finally:
            writer.transport.abort()


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def prober_for(endpoints: Endpoints, path: str, arguments: Mapping[str, Any]) -> Prober | None:
    """A prober that takes the way of the connections, which are made with these ``arguments`` of
    websockets; None where that is not the direct one."""
    if arguments.get("proxy", True) not in (True, None) or arguments.keys() & INDIRECT:
        return None
    given = arguments.get("ssl")
    tls = given if isinstance(given, ssl.SSLContext) else None
    proxies = arguments.get("proxy", True) is True
    return Prober(endpoints, path, tls, arguments.get("server_hostname"), proxies=proxies)
