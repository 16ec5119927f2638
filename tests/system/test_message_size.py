"""A message over the limit is refused by its header, not when it has been gathered."""

from __future__ import annotations

import importlib.util
import struct

import pytest

from tests.support.raw import Raw, again
from tests.support.servers import SERVERS, Site
from tests.system.conftest import MakeSite

IMPLEMENTATIONS = ["websockets-sansio", "websockets"]
if importlib.util.find_spec("wsproto") is not None:
    IMPLEMENTATIONS.append("wsproto")
VARIANTS = [
    *((server, ()) for server in SERVERS if server != "uvicorn"),
    *(("uvicorn", ("--ws", name)) for name in IMPLEMENTATIONS),
]
TEXT, MORE, LAST = 0x1, 0x0, 0x80
GATHERS = "granian has gathered a message, up to limits of its own, before anybody sees its size"


@pytest.fixture(params=VARIANTS, ids=lambda param: "-".join((param[0], *param[1])))
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    server, arguments = request.param
    return shared_site(server=server, arguments=arguments)


def head(first: int, size: int) -> bytes:
    """Of a masked frame (RFC 6455, 5.2); the mask changes nothing."""
    return struct.pack("!BBQ", first, 0x80 | 127, size) + bytes(4)


@pytest.mark.parametrize("plain", [False, True], ids=["graceful", "plain"])
async def test_what_grows_past_the_limit_is_closed_1009_before_the_rest_has_come(
    site: Site, plain: bool
) -> None:
    if site.node.server == "granian":
        pytest.skip(GATHERS)
    async with Raw(site.ws("/echo/"), plain=plain) as raw:
        if not plain:
            await raw.hello()
        transport = raw.ws.transport
        # 200 KiB of 800: above hello_bytes, and below what any server allows by itself.
        transport.write(head(TEXT | LAST, 800 * 1024))
        transport.write(b'"' + b"x" * (200 * 1024))
        assert (await raw.closed())[0] == 1009


async def test_fragments_count_together(site: Site) -> None:
    if site.node.server == "granian":
        pytest.skip(GATHERS)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        transport = raw.ws.transport
        transport.write(head(TEXT, 100 * 1024) + b'"' + b"x" * (100 * 1024 - 1))
        transport.write(head(MORE, 100 * 1024) + b"x" * (100 * 1024))
        assert (await raw.closed())[0] == 1009
    async with again(raw) as later:
        assert (await later.hello())["resumed"]
        await later.bye()


async def test_what_the_server_sends_has_no_such_limit(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.message({"send": 1, "pad": 500 * 1024, "echo": False})
        assert len((await raw.got(1))["pad"]) == 500 * 1024
        await raw.bye()


async def test_each_message_counts_for_itself(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        for n in range(4):
            assert await raw.ask({"pad": "x" * 40 * 1024, "echo": False, "result": n}) == n
        await raw.bye()
