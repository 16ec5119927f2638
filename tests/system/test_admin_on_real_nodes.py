"""An operator in the admin of a real node, and the client at the other end of it."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.raw import Raw, again
from tests.support.servers import Site
from tests.support.waiting import eventually

CREATE = (
    "from django.contrib.auth.models import User; User.objects.create_superuser('boss', '', 'boss')"
)
CHARTS = (
    "import json; from graceful_ws.live.snapshot import snapshot;"
    "print(json.dumps(snapshot()['history']))"
)


class Browser:
    """As much of one as the admin needs: cookies, and forms with their hidden fields."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(self, path: str) -> str:
        with self._opener.open(self._site.url(path), timeout=20) as response:
            return str(response.read().decode())

    def submit(self, path: str, **fields: str) -> str:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path))
        assert token is not None
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token[1], **fields}).encode()
        with self._opener.open(self._site.url(path), data, timeout=20) as response:
            return str(response.read().decode())


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(settings={"beat_interval": 0.1, "round_interval": 0.2, "drain_window": 0.2})


async def log_in(site: Site) -> Browser:
    await site.adjango("shell", "-c", CREATE)
    browser = Browser(site)
    await asyncio.to_thread(
        browser.submit, "/admin/login/?next=/admin/", username="boss", password="boss"
    )
    return browser


async def test_operator_closes_a_session_and_its_client_hears_4506(site: Site) -> None:
    browser = await log_in(site)
    hello = '{"type":"hello","version":1,"instance":"a","attempt":1}'
    async with connect(site.ws("/echo/"), subprotocols=["graceful.v1"]) as client:  # type: ignore[list-item]
        await client.send(hello)
        assert '"welcome"' in str(await asyncio.wait_for(client.recv(), 10))
        ((pk,),) = site.sql("SELECT id FROM graceful_ws_session")
        page = await asyncio.to_thread(browser.get, "/admin/graceful_ws/session/")
        assert "127.0.0.1" in page
        path = f"/admin/graceful_ws/session/{pk}/close/"
        done = await asyncio.to_thread(browser.submit, path, confirmed="Close", reason="too loud")
        assert "Closed 1 session" in done
        with pytest.raises(ConnectionClosed):
            while True:
                await asyncio.wait_for(client.recv(), 10)
        assert (client.close_code, client.close_reason) == (4506, "too loud")
    assert site.sql("SELECT state, close_code FROM graceful_ws_session") == [("ended", 4506)]


async def test_operator_drains_a_node_and_takes_it_back(site: Site) -> None:
    browser = await log_in(site)
    async with connect(site.ws("/echo/")) as client:
        ((pk,),) = site.sql("SELECT id FROM graceful_ws_node")
        path = f"/admin/graceful_ws/node/{pk}"
        page = await asyncio.to_thread(
            browser.submit, f"{path}/drain/", confirmed="Drain", reason="new kernel"
        )
        assert "Asked 1 node" in page
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), 10)
        assert (client.close_code, client.close_reason) == (1012, "new kernel")
    states = "SELECT state FROM graceful_ws_node"
    await eventually(lambda: site.sql(states) == [("drained",)], 10)
    assert "Undo drain" in await asyncio.to_thread(browser.get, f"{path}/change/")
    await asyncio.to_thread(browser.submit, f"{path}/undo_drain/", confirmed="Undo drain")
    await eventually(lambda: site.sql(states) == [("up",)], 10)
    async with connect(site.ws("/echo/")) as client:
        await client.send('"back"')
        assert await asyncio.wait_for(client.recv(), 10) == '"back"'
    audit = "SELECT event, actor, reason FROM graceful_ws_auditentry ORDER BY id"
    assert site.sql(audit) == [("drain_node", "boss", "new kernel"), ("undo_drain", "boss", "")]


async def test_charts_have_all_that_a_deploy_closed_and_resumed(
    make_site: Callable[..., Site],
) -> None:
    """However seldom samples are kept: the first counts from the start, and one is the last."""
    site = make_site(settings={"sample_interval": 600.0, "drain_window": 0.2})
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Raw(site.ws("/echo/"))) for _ in range(5)]
        for client in clients:
            await client.hello()
        site.node.terminate()
        assert {(await client.closed())[0] for client in clients} == {1012}
        assert await site.node.await_exit() == 0
        await site.node.arestart()
        for client in clients:
            later = await stack.enter_async_context(again(client))
            assert (await later.hello())["resumed"]
        site.node.terminate()
        assert await site.node.await_exit() == 0
    charts = json.loads((await site.adjango("shell", "-c", CHARTS)).stdout.splitlines()[-1])
    assert {code: sum(counts) for code, counts in charts["closes"].items()} == {"1012": 10}
    assert {what: sum(counts) for what, counts in charts["resumes"].items()} == {"resumed": 5}
