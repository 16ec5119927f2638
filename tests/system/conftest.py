"""Sites for the tests of whole processes. After each test its servers hold nothing of a
connection: no task, timer, registry entry or row."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import _servers
from tests.support.databases import Database, Databases
from tests.support.ledger import LedgerBook
from tests.support.leftovers import assert_nothing_left
from tests.support.servers import Site

MakeSite = Callable[..., Site]
_failed = pytest.StashKey[bool]()

# Short limits, so that no test waits long for one to pass.
SETTINGS: dict[str, Any] = {
    "beat_interval": 0.5,
    "dead_after": 3.0,
    "round_interval": 0.5,
    "poll_interval": 0.1,
    "closing_timeout": 3.0,
    "drain_window": 0.5,
    "drain_deadline": 10.0,
    "reconnect_window": 0.2,
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture
def make_site(make_site: MakeSite, request: pytest.FixtureRequest) -> Iterator[MakeSite]:
    """``make_site`` with short limits, and a look at what is left when the test is over."""
    sites: list[Site] = []

    def make(*, settings: dict[str, Any] | None = None, **options: Any) -> Site:
        sites.append(make_site(settings={**SETTINGS, **(settings or {})}, **options))
        return sites[-1]

    yield make
    if not request.node.stash.get(_failed, False):
        for site in sites:
            assert_nothing_left(site)


@pytest.fixture(scope="module")
def _module_sites(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Site]]:
    sites: dict[str, Site] = {}
    made: list[tuple[Databases, Database]] = []

    def get(*, settings: dict[str, Any], database: str, **options: Any) -> Site:
        key = json.dumps([settings, database, options], sort_keys=True)
        if key not in sites:
            databases: Databases = request.getfixturevalue(f"{database}_databases")
            made.append((databases, databases.create()))
            directory = tmp_path_factory.mktemp("site")
            book = LedgerBook(directory / "ledger")
            site = Site(made[-1][1], directory, settings=settings, env=book.env, **options)
            sites[key] = site
        site = sites[key]
        for node in site.nodes:
            if not node.running:
                node.start()
        return site

    yield get
    for site in sites.values():
        site.close()
    for databases, used in made:
        databases.drop(used)


@pytest.fixture
def shared_site(
    request: pytest.FixtureRequest, _module_sites: Callable[..., Site]
) -> Iterator[MakeSite]:
    """Like ``make_site``, but tests of one module that ask for the same get the same site; a node
    that the last one ended is started again."""
    sites: list[Site] = []
    servers = request.node.stash.setdefault(_servers, [])

    def get(
        *, settings: dict[str, Any] | None = None, database: str = "sqlite", **options: Any
    ) -> Site:
        site = _module_sites(
            settings={**SETTINGS, **(settings or {})}, database=database, **options
        )
        sites.append(site)
        servers.extend(site.nodes)
        return site

    yield get
    if not request.node.stash.get(_failed, False):
        for site in sites:
            assert_nothing_left(site)


@pytest.fixture
def book(tmp_path: Path) -> LedgerBook:
    """Where ``tests.consumers.Ledger`` writes; its ``env`` goes to ``make_site``."""
    return LedgerBook(tmp_path / "ledger")
