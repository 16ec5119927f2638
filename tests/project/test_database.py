"""The demo's settings: URLs of the environment, and the pool on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from graceful_ws.client import GracefulClient
from graceful_ws.conf import Defaults
from project.database import POOL, channel_layers, database
from project.demo.servers import servers_of_our_own
from project.demo.supervisor import Supervisor
from tests.support.demo import need_servers
from tests.support.processes import free_port
from tests.support.waiting import eventually

CLIENTS = 20
NODES = ("node-1", "node-2")


@pytest.mark.parametrize(
    ("url", "host", "port", "name"),
    [
        ("postgres://me:pass%40word@db.example:5433/mine", "db.example", "5433", "mine"),
        ("postgresql://me@/mine?host=/run/postgresql", "/run/postgresql", "", "mine"),
    ],
)
def test_postgres_url_gets_a_pool_of_the_production_size(
    url: str, host: str, port: str, name: str
) -> None:
    entry = database(url)
    assert (entry["HOST"], entry["PORT"], entry["NAME"], entry["USER"]) == (host, port, name, "me")
    wanted = {"min_size": 5, "max_size": 20, "timeout": 3, "max_idle": 600, "max_lifetime": 1800}
    assert entry["OPTIONS"]["pool"].items() >= wanted.items()
    assert entry["CONN_MAX_AGE"] == 0


def test_options_of_libpq_may_be_in_the_url() -> None:
    options = database("postgres://me@db/mine?sslmode=require&connect_timeout=9")["OPTIONS"]
    assert (options["sslmode"], options["connect_timeout"]) == ("require", "9")


def test_pool_holds_a_connection_for_each_thread_of_a_node_and_some_for_views() -> None:
    writer, readers, services = 1, 2, 2
    assert POOL["max_size"] >= writer + readers + services + Defaults().handler_threads + 4


def test_other_databases_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"DATABASE_URL is mysql://…; use sqlite"):
        database("mysql://me@db/mine")


def test_without_a_url_of_redis_there_is_no_layer() -> None:
    assert channel_layers("") == {}


def test_url_of_redis_gives_a_layer_whose_waiting_is_bounded() -> None:
    layer = channel_layers("redis://cache:6379/1")["default"]
    assert layer["BACKEND"] == "channels_redis.pubsub.RedisPubSubChannelLayer"
    (host,) = layer["CONFIG"]["hosts"]
    assert host["address"] == "redis://cache:6379/1"
    assert host["socket_timeout"] > 0


# --- on a real PostgreSQL ------------------------------------------------------------------------


def backends(url: str) -> Counter[str]:
    """The connections of each process, by the name that the supervisor gave it."""
    query = (
        """select application_name from pg_stat_activity where backend_type = 'client backend'"""
    )
    with psycopg.connect(url, connect_timeout=5, application_name="the test") as connection:
        return Counter(name for (name,) in connection.execute(query))


async def test_two_nodes_outlive_a_kill_of_postgres_within_the_bounds_of_their_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    need_servers()
    (server,) = servers_of_our_own(["postgres"], tmp_path)
    ports = [free_port(), free_port()]
    most: Counter[str] = Counter()
    lines: list[list[int]] = [[] for _ in range(CLIENTS)]  # as each client heard them
    site = Supervisor(tmp_path, ports, clock=False, password="", servers=[server])

    def hear(client: int, message: Any) -> None:
        if message.stream == "room" and message.data["type"] == "line":
            lines[client].append(message.data["line"])

    async def watch() -> None:
        while True:
            try:
                for name, count in (await asyncio.to_thread(backends, server.url)).items():
                    most[name] = max(most[name], count)
            except psycopg.OperationalError:
                pass  # it is away
            await asyncio.sleep(0.05)

    async with site:
        watching = asyncio.create_task(watch())
        urls = [f"ws://127.0.0.1:{port}/ws/" for port in ports]
        clients = [
            GracefulClient([urls[n % 2]], on_message=partial(hear, n), on_event=lambda event: None)
            for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        # All are in the room when their first message has been handled.
        enter = {"type": "enter", "name": "the test"}
        await asyncio.wait_for(asyncio.gather(*(client.send(enter) for client in clients)), 20.0)
        pids = [site.node(name).pid for name in NODES]
        for round_ in range(1, 3):
            notes = [
                asyncio.create_task(
                    client.send({"type": "line", "number": round_ * 10 + n, "text": "x"})
                )
                for client in clients
                for n in range(3)
            ]
            if round_ == 1:
                starts = site.node("postgres").starts
                site.node("postgres").send(signal.SIGKILL)
                await site.ready(site.node("postgres"), after=starts)
            await asyncio.wait_for(asyncio.gather(*notes), 30.0)
        await eventually(lambda: [len(each) for each in lines] == [CLIENTS * 6] * CLIENTS, 20.0)
        assert [site.node(name).pid for name in NODES] == pids
        await asyncio.gather(*(client.close() for client in clients))
        watching.cancel()
        kept = await site.kept()
    rows = {pk for _, _, pk in kept}
    assert len(kept) == len({(session, number) for session, number, _ in kept}) == CLIENTS * 6
    assert all(set(heard) == rows and len(heard) == len(rows) for heard in lines)
    for name in NODES:
        assert POOL["min_size"] <= most[name] <= POOL["max_size"], most
