"""The harness itself: what other tests lean on without asking."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import OperationalError, connection, connections, transaction

from tests.support.database_url import database_settings
from tests.support.databases import Database, PostgresDatabases
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, ChildProcess, free_port
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.servers import Site
from tests.support.waiting import eventually_sync


def in_thread(function: Callable[[], Any]) -> Any:
    """Run a function in a new thread, as the writer's code would, and return what it returns."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return results[0]


# The database fixture


@pytest.mark.parametrize("run", [1, 2])
def test_every_test_finds_an_empty_database(database: Database, run: int) -> None:
    assert User.objects.count() == 0
    User.objects.create_user(f"visitor {run}")


def test_default_alias_is_the_vendor_asked_for(database: Database) -> None:
    expected = {"sqlite": "sqlite", "postgres": "postgresql"}[database.vendor]
    assert connection.vendor == expected
    assert settings.DATABASES["default"]["NAME"] == connection.settings_dict["NAME"]
    assert in_thread(lambda: connections["default"].vendor) == expected


def test_other_threads_see_the_same_tables(database: Database) -> None:
    User.objects.create_user("visitor")
    assert in_thread(User.objects.count) == 1
    assert database.sql("SELECT username FROM auth_user WHERE username = %s", "visitor") == [
        ("visitor",)
    ]


async def test_async_code_sees_the_same_tables(database: Database) -> None:
    await User.objects.acreate(username="visitor")
    assert await User.objects.acount() == 1
    assert await asyncio.to_thread(in_thread, User.objects.count) == 1
    vendor = await sync_to_async(lambda: connection.settings_dict["NAME"])()
    assert vendor == database_settings(database.url)["NAME"]


def test_permissions_are_there_after_a_switch(database: Database) -> None:
    user = User.objects.create_user("operator")
    user.user_permissions.add(Permission.objects.get(codename="drain_node"))
    assert User.objects.get(pk=user.pk).has_perm("graceful_ws.drain_node")


@pytest.mark.parametrize("run", [1, 2])
def test_content_types_of_the_last_database_are_forgotten(database: Database, run: int) -> None:
    with pytest.raises(ContentType.DoesNotExist):
        ContentType.objects.get_by_natural_key("site", "page")
    ContentType.objects.create(app_label="site", model="page")
    ContentType.objects.get_by_natural_key("site", "page")  # which Django remembers


def test_transactions_are_real(database: Database) -> None:
    with transaction.atomic():
        User.objects.create_user("visitor")
        assert in_thread(User.objects.count) == 0
    assert in_thread(User.objects.count) == 1


def test_admin_client_uses_the_same_database(database: Database, admin_client: Any) -> None:
    assert database.sql("SELECT username FROM auth_user") == [("admin",)]


@pytest.mark.postgres_only
def test_postgres_only_runs_on_postgres(database: Database) -> None:
    assert database.vendor == "postgres"


@pytest.mark.sqlite_only
def test_sqlite_is_in_wal_mode_and_writes_immediately(database: Database) -> None:
    assert database.sql("PRAGMA journal_mode") == [("wal",)]
    other = sqlite3.connect(database_settings(database.url)["NAME"], timeout=0)
    with transaction.atomic(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


@pytest.mark.django_db(transaction=True)
def test_without_the_fixture_the_tables_are_those_of_a_sqlite_file() -> None:
    User.objects.create_user("visitor")
    assert connection.vendor == "sqlite"
    assert Path(connection.settings_dict["NAME"]).exists()
    assert in_thread(User.objects.count) == 1


@pytest.mark.django_db
def test_without_the_fixture_a_test_is_rolled_back() -> None:
    assert User.objects.count() == 0
    User.objects.create_user("visitor")


# PostgreSQL and Redis


def test_postgres_keeps_what_was_committed_before_a_kill(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.url(tcp=True), autocommit=True) as client:
        client.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS number")
        postgres_server.kill()
        eventually_sync(lambda: _fails(lambda: client.execute("SELECT 1")), within=5.0)
    postgres_server.restart()
    with psycopg.connect(postgres_server.url(), autocommit=True) as client:
        assert client.execute("SELECT number FROM kept").fetchone() == (7,)
        client.execute("DROP TABLE kept")


def _fails(call: Callable[[], object]) -> bool:
    """A backend takes a moment to notice that the server is dead."""
    try:
        call()
    except (OperationalError, psycopg.OperationalError):
        return True
    return False


@pytest.mark.postgres_only
def test_database_of_a_test_outlives_the_servers_death(
    database: Database, postgres_server: PostgresServer
) -> None:
    User.objects.create_user("visitor")
    postgres_server.kill()
    eventually_sync(lambda: _fails(User.objects.count), within=5.0)
    postgres_server.restart()
    connection.close()
    assert User.objects.count() == 1
    postgres_server.kill()  # which is put right before the next test


async def test_database_can_be_reached_through_a_proxy(
    postgres_databases: PostgresDatabases, postgres_server: PostgresServer
) -> None:
    database = postgres_databases.create()
    async with Proxy(postgres_server.port) as proxy:
        url = database.through(proxy.port)
        async with await psycopg.AsyncConnection.connect(url) as client:
            await client.execute("SELECT 1")
            await proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                await client.execute("SELECT 1")
    postgres_databases.drop(database)


def test_redis_comes_back_empty_on_its_port(redis_server: RedisServer, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.set("key", "value")
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        redis_server.restart()
        assert client.get("key") is None


# Processes


def sleeper(tmp_path: Path, program: str = "import time; time.sleep(60)") -> ChildProcess:
    child = ChildProcess("sleeper", tmp_path / "log")
    child.spawn([sys.executable, "-u", "-c", program])
    return child


def test_wait_fails_at_its_deadline_and_shows_the_log(tmp_path: Path) -> None:
    child = sleeper(tmp_path, "import time; print('still here'); time.sleep(60)")
    try:
        eventually_sync(lambda: "still here" in child.log(), 10)
        with pytest.raises(AssertionError, match=r"still runs after 0\.05 s\n(?s:.*)still here"):
            child.wait(0.05)
    finally:
        child.kill()
    assert child.returncode == -signal.SIGKILL


def test_kill_reaches_the_workers_of_a_parent_that_died(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(worker.pid)"
    )
    child = sleeper(tmp_path, program)
    child.wait(10)
    worker = int(child.log())
    assert is_running(worker)
    child.kill()
    eventually_sync(lambda: not is_running(worker), 5, "the worker has ended")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_a_killed_test_run(tmp_path: Path, number: signal.Signals) -> None:
    program = """
import sys, time
from pathlib import Path
from tests.support.processes import ChildProcess, keeper
directory = keeper.temporary_directory("gkeeper")
child = ChildProcess("sleeper", directory / "log")
child.spawn([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, directory, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        assert is_running(int(pid))
        run.send_signal(number)
        run.wait(10)
    eventually_sync(lambda: not is_running(int(pid)), 5, "the sleeper has ended")
    eventually_sync(lambda: not Path(directory).exists(), 5, "its directory is gone")


def test_free_ports_differ() -> None:
    assert len({free_port() for _ in range(20)}) == 20


# Sites


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_server_restarts_on_its_port_and_ends_by_sigterm(
    make_site: Callable[..., Site], server: str
) -> None:
    site = make_site(server=server)
    first = site.node.pid
    site.node.restart()
    assert site.node.pid != first
    assert answer(site.url("/")) is not None
    site.node.terminate()
    site.node.wait(20)
    assert not site.node.running


def answer(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("vendor", ["sqlite", "postgres"])
def test_site_commands_and_sql_use_its_database(
    make_site: Callable[..., Site], vendor: str
) -> None:
    site = make_site(database=vendor, nodes=2, start=False)
    create = "from django.contrib.auth.models import User; User.objects.create_user('visitor')"
    site.django("shell", "-c", create)
    assert site.sql("SELECT username FROM auth_user") == [("visitor",)]
    assert make_site(database=vendor, start=False).sql("SELECT * FROM auth_user") == []
    with pytest.raises(AssertionError, match="Unknown command"):
        site.django("no_such_command")


def test_settings_of_a_site_reach_its_processes(
    make_site: Callable[..., Site], redis_url: str
) -> None:
    site = make_site(settings={"unacked": 3}, redis_url=redis_url, start=False)
    show = (
        "from django.conf import settings; from graceful_ws.conf import settings as ours; "
        "print(ours.unacked, settings.CHANNEL_LAYERS['default']['CONFIG'])"
    )
    assert (
        site.django("shell", "-c", show)
        .stdout.strip()
        .endswith(f"3 {{'hosts': [{{'address': '{redis_url}', 'socket_timeout': 20}}]}}")
    )


def test_server_that_cannot_start_shows_why(make_site: Callable[..., Site]) -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        make_site(application="no_such_module:application")
