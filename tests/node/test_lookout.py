"""What a node says of itself in its row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from graceful_ws.models import Node as Row
from tests.node.kit import store
from tests.node.kit_peer import running_node
from tests.store.kit import WITHIN
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


async def states() -> list[str]:
    return await store(lambda: list(Row.objects.values_list("state", flat=True)))


async def test_a_node_that_has_stopped_is_not_there_once_more(limits: Callable[..., None]) -> None:
    """Beats go on until its tasks end; each would find that its row does not live."""
    limits(beat_interval=0.01)
    async with running_node() as node:
        assert await states() == ["up"]
        await node.lookout.end()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await node.lookout.beat()
        assert await states() == ["stopped"]


async def test_a_node_whose_row_is_dead_registers_anew(limits: Callable[..., None]) -> None:
    limits(beat_interval=60.0)
    async with running_node() as node:
        await store(lambda: Row.objects.update(state=Row.State.DEAD))
        node.lookout.look_now()

        async def is_back() -> bool:
            return sorted(await states()) == ["dead", "up"]

        await eventually(is_back, WITHIN)
        await node.lookout.end()
        assert sorted(await states()) == ["dead", "stopped"]
