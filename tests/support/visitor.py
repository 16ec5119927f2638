"""Somebody with a browser's cookies, and the WebSockets of that browser."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any

from tests.support.raw import Raw
from tests.support.servers import ServerProcess


class Visitor:
    """Asks ``tests.accounts`` for what is to happen, and connects as who it is by then."""

    def __init__(self, node: ServerProcess, name: str = "anna") -> None:
        self.node = node
        self.name = name
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self._cookies)
        )

    async def do(self, what: str, **more: object) -> Any:
        query = urllib.parse.urlencode({"do": what, "name": self.name, **more})
        return await asyncio.to_thread(self._get, self.node.url(f"/account/?{query}"))

    def _get(self, url: str) -> Any:
        with self._opener.open(url, timeout=20) as response:
            return json.load(response)

    def socket(
        self, path: str = "/echo/", *, node: ServerProcess | None = None, **options: Any
    ) -> Raw:
        return Raw((node or self.node).ws(path), additional_headers=self.headers, **options)

    @property
    def headers(self) -> dict[str, str]:
        # Not those of a second browser: cookies know no ports.
        pairs = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._cookies)
        return {"Cookie": pairs} if pairs else {}
