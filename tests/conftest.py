"""Fixtures of all tests: databases, PostgreSQL, Redis, and sites of real servers.

A test that needs tables says ``pytestmark = pytest.mark.usefixtures("database")`` and runs once on
SQLite and once on PostgreSQL, each time with an empty database as alias ``default``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pytest_django import DjangoDbBlocker

from tests.support.databases import (
    Database,
    Databases,
    PostgresDatabases,
    SqliteDatabases,
    SwitchableConnections,
)
from tests.support.postgres import PostgresServer, PostgresUnavailable
from tests.support.redis import RedisServer, RedisUnavailable
from tests.support.servers import ServerProcess, Site

VENDORS = ("sqlite", "postgres")
_servers = pytest.StashKey[list[ServerProcess]]()


def pytest_configure(config: pytest.Config) -> None:
    for vendor in VENDORS:
        config.addinivalue_line("markers", f"{vendor}_only: run the test on {vendor} alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" not in metafunc.fixturenames:
        return
    node = metafunc.definition
    only = [vendor for vendor in VENDORS if node.get_closest_marker(f"{vendor}_only")]
    metafunc.parametrize("database", only or VENDORS, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in item.stash.get(_servers, []):
            report.sections.append((f"log of {server.name}", server.log_tail()))
    return report


def missing(what: object) -> NoReturn:
    """Skip the test for want of something; in CI, where nothing may be missing, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"required in CI: {what}")
    pytest.skip(str(what))


@pytest.fixture(scope="session")
def node_installed() -> None:
    """Node.js, with which the browser client's own tests run."""
    if shutil.which("node") is None:
        missing("Node.js: there is no node")


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PostgresServer]:
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("TEST_DATABASE_URL names a server that is not ours to kill")
    try:
        server = PostgresServer()
    except PostgresUnavailable as error:
        missing(error)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of the PostgreSQL in use, as a user that may create others."""
    outside = os.environ.get("TEST_DATABASE_URL")
    if outside is not None:
        return outside
    server: PostgresServer = request.getfixturevalue("_postgres_server")
    return server.url()


@pytest.fixture
def postgres_server(_postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The private PostgreSQL, to kill and restart; skips when another one is used."""
    yield _postgres_server
    _postgres_server.revive()


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    if "TEST_REDIS_URL" in os.environ:
        pytest.skip("TEST_REDIS_URL names a server that is not ours to kill")
    try:
        server = RedisServer()
    except RedisUnavailable as error:
        missing(error)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of the Redis in use; tests share it, so they choose their own names in it."""
    outside = os.environ.get("TEST_REDIS_URL")
    if outside is not None:
        return outside
    server: RedisServer = request.getfixturevalue("_redis_server")
    return server.url


@pytest.fixture
def redis_server(_redis_server: RedisServer) -> Iterator[RedisServer]:
    """The private Redis, to kill, stop and restart; skips when another one is used."""
    yield _redis_server
    _redis_server.revive()


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SqliteDatabases:
    return SqliteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases(
    postgres_url: str, request: pytest.FixtureRequest
) -> Iterator[PostgresDatabases]:
    prefix = f"graceful_ws_{os.getpid()}"
    if "TEST_DATABASE_URL" in os.environ:
        databases = PostgresDatabases(postgres_url, prefix)
    else:
        server: PostgresServer = request.getfixturevalue("_postgres_server")
        databases = PostgresDatabases(postgres_url, prefix, server.revive)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def _connections(sqlite_databases: SqliteDatabases) -> Iterator[SwitchableConnections]:
    connections = SwitchableConnections.install(sqlite_databases.create())
    yield connections
    connections.close_in_all_threads()


@pytest.fixture(scope="session")
def django_db_setup(_connections: SwitchableConnections) -> None:
    """In place of pytest-django's: the tables of tests that do not use ``database``."""


@pytest.fixture
def database(
    request: pytest.FixtureRequest,
    _connections: SwitchableConnections,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Database]:
    """A migrated, empty database as alias ``default`` in all threads, with real transactions.

    The test runs once for each vendor; marks ``sqlite_only`` and ``postgres_only`` choose one.
    """
    if request.node.get_closest_marker("django_db"):
        raise pytest.UsageError("`database` replaces the mark `django_db`: use one of them")
    databases: Databases = request.getfixturevalue(f"{request.param}_databases")
    usual, database = _connections.current, databases.create()
    with django_db_blocker.unblock():
        _connections.switch(database)
        try:
            yield database
        finally:
            _connections.switch(usual)
    databases.drop(database)


@pytest.fixture
def db(request: pytest.FixtureRequest) -> None:
    """In place of pytest-django's: its ``admin_client`` and the like use ``database`` if there."""
    name = "database" if "database" in request.fixturenames else "_django_db_helper"
    request.getfixturevalue(name)


@pytest.fixture
def make_site(
    request: pytest.FixtureRequest, sqlite_databases: SqliteDatabases, tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """A function that starts a ``Site`` and returns it; all end with the test.

    It takes the arguments of ``Site`` and ``database="sqlite"`` or ``"postgres"``; ``start=False``
    leaves the start to the test. A failed test shows the servers' logs.
    """
    sites: list[Site] = []
    made: list[tuple[Databases, Database]] = []
    servers = request.node.stash.setdefault(_servers, [])

    def make(*, database: str = "sqlite", start: bool = True, **options: Any) -> Site:
        databases: Databases = request.getfixturevalue(f"{database}_databases")
        made.append((databases, databases.create()))
        directory = tmp_path / f"site-{len(sites) + 1}"
        directory.mkdir()
        site = Site(made[-1][1], directory, **options)
        sites.append(site)
        servers.extend(site.nodes)
        if start:
            site.start()
        return site

    yield make
    for site in sites:
        site.close()
    for databases, used in made:
        databases.drop(used)
