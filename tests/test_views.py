"""What load balancers and clients ask over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from channels import layers
from django.db import OperationalError, connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.test import Client, override_settings
from websockets.asyncio.client import connect

from graceful_ws import views
from graceful_ws.core.breaker import Breaker
from graceful_ws.views import Probe
from tests.support.databases import Database
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.servers import Site
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _own_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of one test is remembered in the next, nor comes late from it."""
    for name in ("database_probe", "layer_probe"):
        probe = getattr(views, name)
        own = Probe(probe._name, probe._ask, within=probe._within, fresh=probe._fresh)
        monkeypatch.setattr(views, name, own)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A node of this process, as far as a view looks at it."""
    node = SimpleNamespace(
        drain=None,
        journal=SimpleNamespace(
            health=SimpleNamespace(breaker=Breaker(failures=1, open_for=30.0, probes=1))
        ),
        backplane=SimpleNamespace(state="closed", failing=False),
        loop=SimpleNamespace(time=lambda: 100.0),
    )
    monkeypatch.setattr(views, "local_nodes", lambda: [node])
    return node


def ready(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get("/graceful/ready/")
    return response.status_code, response.json()


# live and ping


def test_live_answers_without_the_database(client: Client) -> None:
    response = client.get("/graceful/live/")
    assert (response.status_code, response.json()) == (200, {"status": "live"})


def test_ping_is_empty_and_may_be_timed_from_any_origin(client: Client) -> None:
    response = client.get("/graceful/ping/", headers={"origin": "https://elsewhere.example"})
    assert (response.status_code, response.content) == (204, b"")
    assert response["Access-Control-Allow-Origin"] == "*"
    assert response["Timing-Allow-Origin"] == "*"


@pytest.mark.parametrize("name", ["live", "ready", "ping"])
@pytest.mark.sqlite_only
def test_answers_are_never_cached_and_only_for_reading(
    database: Database, client: Client, name: str
) -> None:
    assert "no-store" in client.get(f"/graceful/{name}/")["Cache-Control"]
    assert client.head(f"/graceful/{name}/").status_code in (200, 204)
    assert client.post(f"/graceful/{name}/").status_code == 405


@pytest.mark.parametrize("name", ["live", "ready", "ping"])
@pytest.mark.sqlite_only
def test_a_site_that_asks_for_a_login_everywhere_does_not_ask_probes(
    database: Database, client: Client, name: str, settings: Any
) -> None:
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    assert client.get(f"/graceful/{name}/").status_code in (200, 204)


# ready


def test_ready_before_the_first_connection(database: Database, client: Client) -> None:
    assert ready(client) == (
        200,
        {
            "status": "ready",
            "draining": False,
            "database": "ok",
            "journal": "closed",
            "layer": "none",
            "degraded": [],
        },
    )


@pytest.mark.sqlite_only
def test_ready_is_503_while_a_node_of_the_process_drains(
    database: Database, client: Client, node: SimpleNamespace
) -> None:
    node.drain = object()
    status, answer = ready(client)
    assert (status, answer["status"], answer["draining"]) == (503, "draining", True)
    node.drain = None
    assert ready(client)[0] == 200


@pytest.mark.sqlite_only
def test_ready_is_503_before_the_tables_are_there(database: Database, client: Client) -> None:
    database.sql("ALTER TABLE graceful_ws_node RENAME TO elsewhere")
    status, answer = ready(client)
    assert (status, answer["status"], answer["database"]) == (503, "database", "failing")


@pytest.mark.postgres_only
def test_ready_is_503_while_the_database_is_away_and_200_when_it_is_back(
    database: Database, client: Client, postgres_server: PostgresServer
) -> None:
    assert ready(client)[0] == 200
    postgres_server.kill()
    views.database_probe.forget()
    assert ready(client)[0] == 503
    postgres_server.restart()
    views.database_probe.forget()
    assert ready(client)[0] == 200


@pytest.mark.postgres_only
def test_ready_does_not_wait_for_a_database_that_is_silent(
    database: Database, client: Client, postgres_server: PostgresServer
) -> None:
    os.kill(postgres_server.pid, signal.SIGSTOP)  # it accepts connections, and says nothing
    try:
        started = time.monotonic()
        assert ready(client)[0] == 503
        assert time.monotonic() - started < 5
    finally:
        os.kill(postgres_server.pid, signal.SIGCONT)


@pytest.mark.sqlite_only
def test_ready_is_503_even_where_every_request_is_a_transaction(
    database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise OperationalError("away")

    connection = connections["default"]
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    monkeypatch.setattr(DatabaseWrapper, "get_new_connection", away)
    connection.close()
    assert ready(client)[0] == 503
    assert client.get("/graceful/live/").status_code == 200


@pytest.mark.sqlite_only
def test_ready_names_the_state_of_the_journals_breaker(
    database: Database, client: Client, node: SimpleNamespace
) -> None:
    breaker = node.journal.health.breaker
    breaker.failed(99.0)
    status, answer = ready(client)
    assert (status, answer["journal"], answer["database"]) == (503, "open", "failing")
    node.loop.time = lambda: 200.0
    status, answer = ready(client)
    assert (status, answer["journal"]) == (200, "half_open")
    assert breaker._state == "open"  # looked at, not moved: it belongs to another thread


# the channel layer


def layer_of(backend: str, redis_url: str = "") -> dict[str, Any]:
    hosts = [{"address": redis_url, "socket_timeout": 20}]
    return {"default": {"BACKEND": backend, "CONFIG": {"hosts": hosts} if redis_url else {}}}


@pytest.fixture
def use_layer() -> Iterator[Callable[[dict[str, Any]], None]]:
    overrides = []

    def use(config: dict[str, Any]) -> None:
        override = override_settings(CHANNEL_LAYERS=config)
        override.enable()
        overrides.append(override)
        layers.channel_layers.backends.clear()

    yield use
    for override in reversed(overrides):
        override.disable()
    layers.channel_layers.backends.clear()


@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("config", "state"),
    [({}, "none"), (layer_of("channels.layers.InMemoryChannelLayer"), "memory")],
)
def test_no_layer_and_one_in_memory_are_fine(
    database: Database,
    client: Client,
    use_layer: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    state: str,
) -> None:
    use_layer(config)
    answer = ready(client)[1]
    assert (answer["layer"], answer["degraded"]) == (state, [])


@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("state", "failing", "degraded"),
    [
        ("none", False, []),
        ("memory", False, []),
        ("closed", False, []),
        ("closed", True, ["channel layer"]),
        ("half_open", True, ["channel layer"]),
        ("open", True, ["channel layer"]),
    ],
)
def test_a_node_that_runs_knows_best_whether_the_layer_works(
    database: Database,
    client: Client,
    node: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    failing: bool,
    degraded: list[str],
) -> None:
    monkeypatch.setattr(views, "layer_probe", lambda: pytest.fail("asked all the same"))
    node.backplane = SimpleNamespace(state=state, failing=failing)
    status, answer = ready(client)
    assert (status, answer["layer"], answer["degraded"]) == (200, state, degraded)


@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    "backend",
    ["channels_redis.core.RedisChannelLayer", "channels_redis.pubsub.RedisPubSubChannelLayer"],
)
def test_a_redis_that_died_is_degraded_and_no_reason_to_go_elsewhere(
    database: Database,
    client: Client,
    use_layer: Callable[[dict[str, Any]], None],
    redis_server: RedisServer,
    backend: str,
) -> None:
    use_layer(layer_of(backend, redis_server.url))
    answer = ready(client)[1]
    assert (answer["layer"], answer["degraded"]) == ("closed", [])
    redis_server.kill()
    views.layer_probe.forget()
    started = time.monotonic()
    status, answer = ready(client)
    assert (status, answer["status"], answer["degraded"]) == (200, "ready", ["channel layer"])
    assert answer["layer"] == "open"
    assert time.monotonic() - started < 5
    redis_server.restart()


@pytest.mark.sqlite_only
def test_a_redis_that_is_silent_is_degraded_within_a_bounded_time(
    database: Database,
    client: Client,
    use_layer: Callable[[dict[str, Any]], None],
    redis_server: RedisServer,
) -> None:
    use_layer(layer_of("channels_redis.core.RedisChannelLayer", redis_server.url))
    redis_server.signal(signal.SIGSTOP)
    started = time.monotonic()
    assert ready(client)[1]["degraded"] == ["channel layer"]
    assert time.monotonic() - started < 5
    redis_server.signal(signal.SIGCONT)


@pytest.mark.sqlite_only
def test_a_layer_that_cannot_be_loaded_is_degraded(
    database: Database, client: Client, use_layer: Callable[[dict[str, Any]], None]
) -> None:
    use_layer({"default": {"BACKEND": "no_such_module.Layer"}})
    assert ready(client)[1]["degraded"] == ["channel layer"]


# a real server


async def test_a_real_daphne_is_not_ready_while_it_drains(make_site: Callable[..., Site]) -> None:
    site = make_site(settings={"beat_interval": 0.1, "drain_window": 0.2})

    async def status(name: str) -> int:
        reader = await _get(site, f"/graceful/{name}/")
        return int(reader.split()[1])

    async with connect(site.ws("/echo/")):
        assert await status("ready") == 200
        await site.adjango("drain_connections", "--window", "0.2", "--timeout", "6")
    assert [await status("ready"), await status("live"), await status("ping")] == [503, 200, 503]
    await site.adjango("drain_connections", "--undo", "--timeout", "6")

    async def is_ready() -> bool:
        return await status("ready") == 200

    await eventually(is_ready, 10)


async def _get(site: Site, path: str) -> str:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.decode()
