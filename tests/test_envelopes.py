"""Envelopes said from outside of a node."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer

from graceful_ws.envelopes import (
    node_envelope,
    pending_envelope,
)
from graceful_ws.node import backplane as module
from graceful_ws.node.backplane import nudge
from tests.node.backplane_kit import (
    CORE,
    WITHIN,
    Start,
    both,
    fake,
    group,
    hurry,
    start,
    use,
)
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

__all__ = ["fake", "hurry", "start", "use"]  # fixtures


# Nudges


@both
async def test_a_nudge_from_any_thread_is_heard(use: Any, start: Start, backend: str) -> None:
    use(backend)
    ear, name = await start(), group()
    await ear.in_force(name)
    nudge(name, pending_envelope([1]))  # in the thread of a running loop: it does not wait
    await sync_to_async(nudge)(name, pending_envelope([2]))  # a sync view under ASGI
    await asyncio.to_thread(nudge, name, pending_envelope([3]))
    await asyncio.to_thread(lambda: async_to_sync(module.anudge)(name, pending_envelope([4])))
    await module.anudge(name, pending_envelope([5]))
    await eventually(lambda: sorted(e["sessions"][0] for e in ear.heard) == [1, 2, 3, 4, 5], WITHIN)
    layer: Any = get_channel_layer()
    await (layer.close_pools() if backend == CORE else layer.flush())


@both
@pytest.mark.filterwarnings("error:unclosed:ResourceWarning")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_nudge_never_raises_and_takes_a_second_at_most(
    use: Any, redis_server: RedisServer, backend: str, number: signal.Signals
) -> None:
    use(backend)
    nudge(group(), node_envelope())
    if number == signal.SIGKILL:
        redis_server.kill()
    else:
        redis_server.signal(number)
    started = time.monotonic()
    nudge(group(), node_envelope())
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    "backend", [None, "channels.layers.InMemoryChannelLayer", "no_such_module.Layer"]
)
def test_a_nudge_without_a_shared_layer_does_nothing(use: Any, backend: str | None) -> None:
    use(backend)
    nudge(group(), node_envelope())
