"""Asynchronous queries of a consumer, after the database has ended their connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from tests.compat.kit import PAIRS
from tests.compat.peer import Peer
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.usefixtures("memory_layers", "round_interval", "graceful_node"),
    pytest.mark.postgres_only,
]
PLAYED = pytest.mark.parametrize("base", PAIRS["text"])


@pytest.fixture
def round_interval(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.GRACEFUL_WS = {"round_interval": request.param}


def end_all_others() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    connection.close()


def counts(base: Any) -> Any:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=str(await get_user_model().objects.acount()))

    return Consumer


async def ask(peer: Peer) -> Any:
    peer.says("how many?")
    await peer.settled()
    return peer.sent[-1]


@PLAYED
@pytest.mark.parametrize("round_interval", [0.2], indirect=True)
async def test_queries_go_on_at_the_latest_after_a_while(base: Any) -> None:
    peer = Peer()

    class Consumer(counts(base)):  # type: ignore[misc]
        async def receive(self, **kwargs: Any) -> None:
            try:
                await super().receive(**kwargs)
            except Exception as error:
                await self.send(text_data=type(error).__name__)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    assert await ask(peer) == ("send", "0")
    await asyncio.to_thread(end_all_others)

    async def works() -> bool:
        return bool(await ask(peer) == ("send", "0"))

    await eventually(works, 10, "the connection is replaced")
    await peer.over()


@PLAYED
@pytest.mark.parametrize("round_interval", [60], indirect=True)
async def test_queries_go_on_when_a_handler_has_failed(base: Any) -> None:
    async def works() -> bool:
        peer = Peer()
        peer.start(counts(base).as_asgi())
        await peer.settled()
        answer = await ask(peer)
        await peer.over()
        return bool(answer == ("send", "0"))

    assert await works()
    await asyncio.to_thread(end_all_others)
    await eventually(works, 10, "the connection is replaced")
