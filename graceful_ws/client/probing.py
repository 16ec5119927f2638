"""The round trip to an endpoint that there is no connection to: one small HTTP request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from graceful_ws.core.endpoints import PROBE_TIMEOUT, Endpoints, reach

PORTS = {"ws": 80, "wss": 443}


class Prober:
    """Asks for ``path`` on the hosts of WebSocket URLs, and tells ``endpoints``. ``tls``: the
    ``ssl`` argument that connections are made with; None is the default context."""

    def __init__(self, endpoints: Endpoints, path: str, tls: ssl.SSLContext | None = None) -> None:
        self._endpoints = endpoints
        self._path = path
        self._tls = tls

    async def race(self, urls: Collection[str]) -> None:
        """Returns when the nearest of them have answered. Nobody waits for the others: they are
        asked no longer, and stay unknown."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = {asyncio.create_task(self._probe(url)) for url in urls}
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
        tasks = {asyncio.create_task(self._probe(url)) for url in urls}
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await _end(tasks)

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
        tls = (self._tls or ssl.create_default_context()) if url.scheme == "wss" else None
        port = url.port or PORTS[url.scheme]
        reader, writer = await asyncio.open_connection(url.hostname, port, ssl=tls)
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


def tls_of(arguments: Mapping[str, Any]) -> ssl.SSLContext | None:
    """The context among the arguments of ``websockets``, if there is one."""
    given = arguments.get("ssl")
    return given if isinstance(given, ssl.SSLContext) else None
