"""The proxy that fails on command, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import eventually, eventually_sync


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_proxy_forwards_both_ways(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    assert (proxy.connections, proxy.accepted, proxy.forwarded("to_client")) == (1, 1, 5)
    writer.close()
    await eventually(lambda: proxy.connections == 0)


async def test_cut_with_rst_is_a_reset_and_with_fin_an_end(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    await eventually(lambda: proxy.connections == 1)
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 5)
    writer.close()
    reader, writer = await dial(proxy)
    await eventually(lambda: proxy.connections == 1)
    await proxy.cut(reset=False)
    assert await asyncio.wait_for(reader.read(1), 5) == b""
    writer.close()


async def test_cut_after_bytes_lets_exactly_those_through(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    proxy.cut_after_bytes(3, "to_client")
    writer.write(b"hello")
    received = b""
    with pytest.raises(ConnectionResetError):
        while data := await asyncio.wait_for(reader.read(100), 5):
            received += data
    assert received in (b"hel", b"")  # a reset may overtake what was not yet read
    assert (proxy.cuts, proxy.forwarded("to_client")) == (1, 3)
    writer.close()


async def test_cut_at_a_pattern_keeps_it_from_the_client(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    proxy.cut_at(b"welcome")
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    writer.write(b"a welcome")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(100), 5)
    writer.close()


async def test_swallowed_bytes_arrive_after_resume(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    proxy.swallow("to_client")
    writer.write(b"hello")
    await eventually(lambda: proxy.forwarded("to_server") == 5)
    assert proxy.forwarded("to_client") == 0
    proxy.resume()
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    writer.close()


async def test_silent_proxy_accepts_and_says_nothing(proxy: Proxy) -> None:
    proxy.swallow()
    reader, writer = await dial(proxy)
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 5)
    writer.close()


async def test_delay_holds_each_read(proxy: Proxy) -> None:
    reader, writer = await dial(proxy)
    proxy.delay(0.1)
    begun = time.monotonic()
    writer.write(b"hello")
    await asyncio.wait_for(reader.readexactly(5), 5)
    assert time.monotonic() - begun >= 0.2
    writer.close()


async def test_refusing_proxy_resets_new_connections(proxy: Proxy) -> None:
    proxy.refuse()
    reader, writer = await dial(proxy)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 5)
    writer.close()


async def test_eventually_returns_what_became_true() -> None:
    values = iter([None, 0, "there"])
    assert await eventually(lambda: next(values)) == "there"


async def test_eventually_accepts_a_coroutine_function() -> None:
    async def there() -> str:
        return "there"

    assert await eventually(there) == "there"


async def test_eventually_says_what_it_last_saw() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: all here; last value: \[\]"):
        await eventually(lambda: [], 0.05, "all here")
    with pytest.raises(AssertionError, match="the first look did not end"):
        await eventually(lambda: asyncio.sleep(60), 0.05)
    with pytest.raises(AssertionError, match="last value: 0"):
        eventually_sync(lambda: 0, 0.05)


async def test_timeout_of_the_predicate_itself_is_not_swallowed() -> None:
    async def fails() -> bool:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await eventually(fails)
