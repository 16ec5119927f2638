"""The backplane while Redis is away, and after it."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

import pytest
from redis import Redis

from graceful_ws.envelopes import (
    node_envelope,
)
from graceful_ws.node import backplane as module
from tests.node.backplane_kit import (
    CORE,
    WITHIN,
    Ear,
    Start,
    both,
    fake,
    group,
    heard,
    hurry,
    start,
    use,
)
from tests.support.processes import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

__all__ = ["fake", "hurry", "start", "use"]  # fixtures

# Redis is killed with its connections open, and redis-py leaves those to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


# When Redis is away


@both
async def test_all_groups_are_joined_again_after_redis_came_back_empty(
    use: Any, start: Start, redis_server: RedisServer, backend: str
) -> None:
    use(backend)
    speaker, ear, names = await start(), await start(), [group() for _ in range(20)]
    await ear.in_force(*names)
    await speaker.in_force()
    ear.joins.clear()
    redis_server.kill()
    await eventually(lambda: not ear.works and not speaker.works, WITHIN, "noticed")
    redis_server.start()
    await eventually(lambda: ear.works and speaker.works, WITHIN, "works again")
    assert sorted(ear.joins) == sorted(names)
    for name in names[:3]:
        await heard(speaker, ear, name)


@both
async def test_a_redis_that_is_silent_is_noticed_and_heard_again(
    use: Any, start: Start, redis_server: RedisServer, backend: str
) -> None:
    use(backend)
    ear, name = await start(), group()
    await ear.in_force(name)
    redis_server.signal(signal.SIGSTOP)
    try:
        await eventually(lambda: not ear.works, WITHIN, "noticed")
    finally:
        redis_server.signal(signal.SIGCONT)
    await eventually(lambda: ear.works, WITHIN, "works again")
    await heard(ear, ear, name)


@both
async def test_stopping_while_redis_is_silent_takes_a_second_at_most(
    use: Any, start: Start, redis_server: RedisServer, backend: str
) -> None:
    use(backend)
    ear = await start()
    await ear.in_force(*[group() for _ in range(100)])
    redis_server.signal(signal.SIGSTOP)  # the fixture stops the backplane, and measures


@both
async def test_groups_wanted_and_left_while_redis_was_away_are_as_wished(
    use: Any, start: Start, redis_server: RedisServer, backend: str
) -> None:
    use(backend)
    ear, left, new = await start(), group(), group()
    await ear.in_force(left)
    redis_server.signal(signal.SIGSTOP)
    await eventually(lambda: not ear.works, WITHIN, "noticed")
    ear.leave(left)
    ear.join(new)
    redis_server.signal(signal.SIGCONT)
    await eventually(lambda: ear.works and not ear._unwanted, WITHIN)
    ear.send(left, node_envelope())
    await heard(ear, ear, new)
    assert node_envelope() not in ear.heard


@both
async def test_the_breaker_opens_after_ten_failures_and_closes_when_redis_is_back(
    use: Any,
    start: Start,
    redis_server: RedisServer,
    backend: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    use(backend)
    ear, name = await start(), group()
    await ear.in_force(name)
    caplog.set_level(logging.INFO, "graceful_ws.layer")
    redis_server.kill()
    await eventually(lambda: not ear.works, WITHIN)
    ear.send(name, node_envelope())
    assert ear.dropped == 0  # it waits
    await eventually(lambda: ear.state == "open", WITHIN, "open")
    ear.send(name, node_envelope())
    assert ear.dropped == 2
    redis_server.start()
    await eventually(lambda: ear.works, WITHIN, "closed")
    assert ear.state == "closed"
    await heard(ear, ear, name)
    await eventually(lambda: not ear.failing, WITHIN)
    ours = [record.getMessage() for record in caplog.records if record.name == "graceful_ws.layer"]
    assert len([text for text in ours if "in a row" in text]) == 1
    assert len([text for text in ours if "works again" in text]) == 1


async def test_a_core_layer_with_the_short_timeout_of_redis_8_stays_up_while_idle(
    use: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SELF_TEST", 1.0)
    use(CORE, host={"socket_timeout": 0.3})
    ear, name = await start(), group()
    await ear.in_force(name)
    until = time.monotonic() + 1.6
    await eventually(lambda: time.monotonic() > until or not ear.works, WITHIN)
    assert ear.works
    await heard(ear, ear, name)


@both
async def test_no_connection_to_redis_is_left(
    use: Any, redis_server: RedisServer, backend: str
) -> None:
    use(backend)
    redis = Redis.from_url(redis_server.url)
    before = len(redis.client_list())
    ear = Ear()
    running = asyncio.create_task(ear.run())
    await ear.in_force(*[group() for _ in range(50)])
    assert len(redis.client_list()) > before
    assert redis.dbsize() >= (50 if backend == CORE else 0)
    running.cancel()
    await asyncio.wait([running], timeout=WITHIN)
    await ear.stop()
    await eventually(lambda: len(redis.client_list()) == before, WITHIN)
    assert not redis.keys("asgi:group:*")
    redis.close()


async def test_one_of_two_hosts_away_is_no_storm_of_tries(
    use: Any, start: Start, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}"
    use(CORE, more=[{"address": nowhere, "socket_timeout": 20}])
    caplog.set_level(logging.INFO, "graceful_ws.layer")
    ear = await start()
    for _ in range(30):
        ear.join(group())
    until = time.monotonic() + 1.5
    await eventually(lambda: time.monotonic() > until, WITHIN)
    assert not ear.works
    assert ear.failing
    assert ear._failures < 20
    assert len([record for record in caplog.records if record.name == "graceful_ws.layer"]) <= 4
