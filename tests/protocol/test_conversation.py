"""The recorded conversation is what servers and clients say."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from graceful_ws.core import frames
from tests.protocol import conversation
from tests.protocol.test_page import BUILT_BY_HAND, frames_of
from tests.support.servers import Site


async def test_conversation_is_what_servers_say(make_site: Callable[..., Site]) -> None:
    site = make_site(start=False, nodes=2, application=conversation.APPLICATION)
    await site.astart()
    async with asyncio.timeout(90):
        recorded = await conversation.record(site)
    checked_in = conversation.PATH.read_text(encoding="utf-8")
    assert checked_in == recorded, "stale: run python -m tests.protocol"


def test_conversation_shows_the_frames_that_every_client_meets() -> None:
    text = conversation.PATH.read_text(encoding="utf-8")
    shown = {(arrow, kind) for arrow, kind in re.findall(r'^(.) \{"type": "(\w+)"', text, re.M)}
    seldom = {"error", "volatile", "unsubscribed"}
    to_server = frames_of(frames.ClientFrame).keys() - seldom
    to_client = (frames_of(frames.ServerFrame) | BUILT_BY_HAND).keys() - seldom
    assert shown == {("→", kind) for kind in to_server} | {("←", kind) for kind in to_client}
