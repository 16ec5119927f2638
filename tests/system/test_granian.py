"""granian: what its workers do besides what those of other servers do (test_workers.py)."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

from tests.support.raw import Raw, again
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite
from tests.system.test_workers import group_exists, one_in_each_worker, to_group

SETTINGS = {"drain_window": 1.0}
RESTARTS = (1012, "the server restarts")
UP = "SELECT pid FROM graceful_ws_node WHERE name = 'node-1' AND state = 'up'"


async def test_ctrl_c_drains_two_workers_and_the_parent_exits_with_0(make_site: MakeSite) -> None:
    site = make_site(server="granian", arguments=("--workers", "2"), settings=SETTINGS)
    async with AsyncExitStack() as stack:
        clients = await one_in_each_worker(site, 2, stack)
        to_group(site.node, signal.SIGINT)
        for raw in clients:
            assert await raw.closed() == RESTARTS
        assert await site.node.await_exit(15) == 0
    assert not group_exists(site.node.pid)


async def test_workers_of_a_killed_parent_serve_on_and_drain_when_they_are_told(
    make_site: MakeSite,
) -> None:
    """granian's workers do not look after their parent: whoever kills one has to find them."""
    site = make_site(server="granian", settings=SETTINGS)
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("one")
        site.node.signal(signal.SIGKILL)
        assert await site.node.await_exit() == -signal.SIGKILL
        await raw.ask("two")
        [(worker,)] = site.sql(UP)
        os.kill(worker, signal.SIGTERM)
        assert await raw.closed() == RESTARTS
        await eventually(lambda: not group_exists(site.node.pid), 10, "the worker is gone")
    await asyncio.to_thread(site.node.start)
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=2))["resumed"]
        await later.bye()
