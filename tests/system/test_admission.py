"""Who is let in: limits of a node, of an address, of a user; and nothing is counted for ever."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.support.leftovers import debug
from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.support.visitor import Visitor
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

ON_EACH_SERVER = pytest.mark.parametrize("server", SERVERS)


async def places(site: Site) -> tuple[int, int]:
    """What the first node counts: WebSockets, with those that are not welcomed twice."""
    [node] = (await asyncio.to_thread(debug, site.node))["nodes"] or [{}]
    return node.get("places", 0), node.get("addresses", 0)


async def refusal(site: Site, path: str = "/echo/", **options: Any) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        async with Raw(site.ws(path), **options):
            pass
    return refused.value


@ON_EACH_SERVER
async def test_a_full_node_refuses_with_503_and_takes_the_next_when_one_has_left(
    shared_site: MakeSite, server: str
) -> None:
    site = shared_site(server=server, settings={"connections": 2})
    async with Raw(site.ws("/echo/")) as first, Raw(site.ws("/echo/"), plain=True) as second:
        await first.hello()
        response = (await refusal(site)).response
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        await second.close()
        await eventually(lambda: let_in(site), 10)
        await first.bye()


async def let_in(site: Site) -> bool:
    with suppress(WebSocketException, OSError):
        async with Raw(site.ws("/echo/")) as raw:
            await raw.hello(later=True)
            await eventually(lambda: raw.all("welcome") or not raw.is_open, 10)
            await raw.send({"type": "bye"})
            return (await raw.closed())[0] == 1000
    return False


@ON_EACH_SERVER
async def test_those_that_say_no_hello_are_few_and_do_not_keep_others_out_for_long(
    shared_site: MakeSite, server: str
) -> None:
    site = shared_site(server=server, settings={"connecting": 3, "connecting_timeout": 1.0})
    async with AsyncExitStack() as stack:
        for _ in range(8):  # those that are welcomed count no more
            raw = await stack.enter_async_context(Raw(site.ws("/echo/")))
            await raw.hello()
        silent = [await stack.enter_async_context(Raw(site.ws("/echo/"))) for _ in range(3)]
        assert (await refusal(site)).response.status_code == 503
        for one in silent:
            assert (await one.closed())[0] == 4400
        await eventually(lambda: let_in(site), 10)


@ON_EACH_SERVER
async def test_an_address_has_its_limit_and_a_browser_sees_why(
    shared_site: MakeSite, server: str
) -> None:
    site = shared_site(server=server, settings={"connections_per_address": 2})
    async with Raw(site.ws("/echo/")) as first, Raw(site.ws("/echo/"), plain=True) as second:
        await first.hello()
        async with Raw(site.ws("/echo/")) as third, Raw(site.ws("/echo/"), plain=True) as fourth:
            assert await third.closed() == (4503, "too many connections of this address")
            assert (await fourth.closed())[0] == 1008
        await second.close()
        await eventually(lambda: let_in(site), 10)
        await first.bye()


@pytest.mark.parametrize(
    ("server", "vendor"), [*((server, "sqlite") for server in SERVERS), ("uvicorn", "postgres")]
)
async def test_a_user_has_a_limit_on_all_nodes_together_and_a_resume_does_not_count_twice(
    shared_site: MakeSite, server: str, vendor: str
) -> None:
    site = shared_site(
        server=server, database=vendor, nodes=2, settings={"connections_per_user": 2}
    )
    one, two = site.nodes
    anna, otto = Visitor(one), Visitor(one, "otto")
    await anna.do("login")
    await otto.do("login")
    async with anna.socket() as first, anna.socket(node=two, plain=True) as second:
        await first.hello()
        await second.send("in")
        await second.expect("message", data="in")
        # A plain client is served before its session is kept, and counted from then on.
        attached = "SELECT count(*) FROM graceful_ws_session WHERE state = 'attached'"
        await eventually(lambda: site.sql(attached) == [(2,)], 10)
        async with anna.socket(node=two) as third, anna.socket(plain=True) as fourth:
            await third.hello(later=True)
            assert await third.closed() == (4503, "too many connections of this user")
            assert (await fourth.closed())[0] == 1008
        async with otto.socket() as other, Raw(site.ws("/echo/")) as nobody:
            await other.hello()
            await nobody.hello()
            await other.bye()
            await nobody.bye()
        # The same session over another node, while it is attached.
        async with again(first, two.ws("/echo/"), additional_headers=anna.headers) as later:
            assert (await later.hello())["resumed"]
            # One that was attached, is not now, and would be one too many.
            await first.closed()
            async with anna.socket() as next_one:
                await next_one.hello(later=True)
                assert (await next_one.closed())[0] == 4503
            await later.close(4000)
        detached = "SELECT count(*) FROM graceful_ws_session WHERE state = 'detached'"
        await eventually(lambda: site.sql(detached) == [(1,)], 10)
        async with anna.socket() as in_its_place:
            await in_its_place.hello()
            async with again(later, additional_headers=anna.headers) as returned:
                await returned.hello(later=True)
                assert (await returned.closed())[0] == 4503
            await in_its_place.bye()
        ended = "SELECT state FROM graceful_ws_session WHERE uuid = %s"
        session = in_its_place.session_id.replace("-", "")
        await eventually(lambda: site.sql(ended, session) == [("ended",)], 10)
        async with again(returned, additional_headers=anna.headers) as at_last:
            assert (await at_last.hello())["resumed"]
            await at_last.bye()
        await second.close()


@ON_EACH_SERVER
async def test_no_end_of_a_handshake_leaves_anything_counted(
    shared_site: MakeSite, server: str
) -> None:
    """Foreign origin, refused by the application, failed, too slow, cut while connect() runs or
    before the hello, turned away, ended by bye."""
    site = shared_site(server=server, settings={"connections_per_address": 6})
    foreign = await refusal(site, origin="https://evil.example")
    assert foreign.response.status_code == 403
    for path in ("/denying/", "/broken/", "/slow/"):
        await refusal(site, path)
    for _ in range(3):
        reader, writer = await half_open(site, "/slow/")
        await eventually(lambda: counted(site), 10)
        writer.transport.abort()
        del reader
    async with AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(Raw(site.ws("/echo/")))
        async with Raw(site.ws("/echo/")) as raw:
            assert (await raw.closed())[0] == 4503
        assert await counted(site)
    await eventually(lambda: let_in(site), 10)

    async def nothing() -> bool:
        return await places(site) == (0, 0)

    await eventually(nothing, 10)


async def counted(site: Site) -> bool:
    return (await places(site))[0] > 0


async def half_open(site: Site, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A handshake that has been sent, and not answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await writer.drain()
    return reader, writer
