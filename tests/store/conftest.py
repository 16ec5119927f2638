from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from tests.store.kit import Elsewhere
from tests.support.databases import Database, Databases, SwitchableConnections


@pytest.fixture(scope="package")
def _shared() -> Iterator[dict[str, tuple[Databases, Database]]]:
    """An empty database of each vendor, for the next test of the package."""
    shared: dict[str, tuple[Databases, Database]] = {}
    yield shared
    for databases, database in shared.values():
        databases.drop(database)


@pytest.fixture
def database(
    request: pytest.FixtureRequest,
    _connections: SwitchableConnections,
    _shared: dict[str, tuple[Databases, Database]],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Database]:
    """As everywhere, but emptied after use instead of made anew: these tests are many and short,
    and no thread of theirs outlives them."""
    databases: Databases = request.getfixturevalue(f"{request.param}_databases")
    _, database = _shared.pop(request.param, None) or (databases, databases.create())
    usual = _connections.current
    with django_db_blocker.unblock():
        _connections.switch(database)
        try:
            yield database
            _empty()
            _shared[request.param] = (databases, database)
        finally:
            _connections.switch(usual)


def _empty() -> None:
    connection.close()  # a test may have broken it
    with transaction.atomic():
        for model in (*apps.get_app_config("graceful_ws").get_models(), User):
            model._base_manager.all()._raw_delete("default")


@pytest.fixture
def limits(settings: Any) -> Callable[..., None]:
    """Changes settings of the package: ``limits(journal_rows=5)``."""

    def change(**values: Any) -> None:
        settings.GRACEFUL_WS = {**getattr(settings, "GRACEFUL_WS", {}), **values}

    return change


@pytest.fixture
def elsewhere(database: object) -> Iterator[Elsewhere]:
    """Runs functions in other threads; all have ended before the database goes."""
    threads = Elsewhere()
    yield threads
    threads.join()
