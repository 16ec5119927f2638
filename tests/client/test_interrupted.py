"""A handler that began and could not go on, on a real server, and the message behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from graceful_ws.client import Event, MessageNacked, Nacked, connect
from tests.support.servers import Site

from .peers import FAST


async def test_message_behind_one_that_was_given_up_is_handled(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(start=False, application="tests.client.busy_asgi:application")
    await site.astart()
    events: list[Event] = []
    url = site.node.ws("/busy/")
    async with (
        asyncio.timeout(30),
        connect(url, backoff=FAST, on_event=events.append) as client,
    ):
        with pytest.raises(Nacked, match="interrupted"):
            await client.request("busy", tries=2)
        # The number of the first one is not given to it, and its start is not the last one.
        assert await client.send("next") == "next"
    told = [(e.seq, e.code, e.retry) for e in events if isinstance(e, MessageNacked)]
    assert told[:2] == [(1, "interrupted", True)] * 2
    assert {seq for seq, _, _ in told} == {1}
