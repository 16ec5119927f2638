"""Migrated, empty databases in milliseconds, and the switch of alias ``default`` between them.

A new database for each test rather than a flushed one: a thread that a test left behind cannot
write into the next test's tables.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler

from tests.support.commands import environment, run_django
from tests.support.database_url import database_settings
from tests.support.postgres import execute

_GENERATION = "graceful_ws_generation"  # attribute of a connection: the switch it was made after


@dataclass(frozen=True)
class Database:
    """One database: ``vendor`` is ``sqlite`` or ``postgres``, ``url`` as in tests.settings."""

    vendor: str
    url: str

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement over a connection of its own; return all rows, none for a write.

        Parameters are written ``%s`` on both.
        """
        if self.vendor == "postgres":
            with psycopg.connect(self.url, autocommit=True) as connection:
                cursor = connection.execute(query, parameters or None)
                return cursor.fetchall() if cursor.description else []
        path = database_settings(self.url)["NAME"]
        sqlite = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            return sqlite.execute(query.replace("%s", "?"), parameters).fetchall()
        finally:
            sqlite.close()

    def through(self, port: int) -> str:
        """Return the URL over TCP to another port of 127.0.0.1, where a proxy listens."""
        if self.vendor != "postgres":
            raise ValueError("SQLite is a file: nothing can stand in between")
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}", query=""))


class Databases(Protocol):
    """Where empty databases come from."""

    def create(self) -> Database: ...

    def drop(self, database: Database) -> None: ...


class SqliteDatabases:
    """Copies of one migrated file, in WAL mode."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._template = directory / "template.sqlite3"
        self._numbers = count(1)
        migrate(f"sqlite://{self._template}")
        sqlite = sqlite3.connect(self._template)
        sqlite.execute("PRAGMA journal_mode=WAL")  # kept in the file
        sqlite.close()

    def create(self) -> Database:
        path = self._directory / f"{next(self._numbers)}.sqlite3"
        shutil.copyfile(self._template, path)
        return Database("sqlite", f"sqlite://{path}")

    def drop(self, database: Database) -> None:
        path = database_settings(database.url)["NAME"]
        for suffix in ("", "-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)


class PostgresDatabases:
    """Copies of one migrated database of a server."""

    def __init__(
        self, server_url: str, prefix: str, revive: Callable[[], None] = lambda: None
    ) -> None:
        """``server_url`` names a database to connect to, as a user that may create others.

        ``revive`` is called before each use of it: a test may have killed the server.
        """
        self._server_url = server_url
        self._revive = revive
        self._prefix = prefix
        self._numbers = count(1)
        self._template = f"{prefix}_template"
        execute(server_url, "CREATE DATABASE {}", self._template)
        try:
            migrate(self._url(self._template))
        except BaseException:
            self.close()
            raise

    def _url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{name}"))

    def create(self) -> Database:
        self._revive()
        name = f"{self._prefix}_{next(self._numbers)}"
        execute(
            self._server_url,
            # Copying files is faster than logging pages when nothing is synced.
            "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy",
            name,
            self._template,
        )
        return Database("postgres", self._url(name))

    def drop(self, database: Database) -> None:
        self._drop(database_settings(database.url)["NAME"])

    def _drop(self, name: str) -> None:
        self._revive()
        execute(self._server_url, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def close(self) -> None:
        self._drop(self._template)


def migrate(url: str) -> None:
    """In a process of its own, so that no state of this one can be in the way."""
    # Without the checks: a mistake in a URLconf is not to fail the tests of the tables.
    run_django("migrate", "--verbosity=0", "--skip-checks", env=environment(url))


class SwitchableConnections(ConnectionHandler):
    """``django.db.connections`` whose ``default`` can become another database in all threads.

    Threads keep their connections, and Django's own thread for ``sync_to_async`` lives as long as
    the process: each notices the switch when it next asks for its connection.
    """

    current: Database
    generation: int
    opened: weakref.WeakSet[BaseDatabaseWrapper]
    lock: threading.Lock

    @classmethod
    def install(cls, database: Database) -> SwitchableConnections:
        """Turn ``django.db.connections``, which everyone has imported, into one of these."""
        handler = connections
        handler.__class__ = cls
        assert isinstance(handler, cls)
        handler.generation = 0
        handler.opened = weakref.WeakSet()
        handler.lock = threading.Lock()
        handler.switch(database)
        return handler

    def switch(self, database: Database) -> None:
        """Close the connections of all threads, and use ``database`` from now on."""
        self.current = database
        self.settings["default"] = database_settings(database.url)
        self.settings = self.configure_settings(self.settings)
        self.generation += 1
        self.close_in_all_threads()
        ContentType.objects.clear_cache()  # rows of the last database

    def close_in_all_threads(self) -> None:
        with self.lock:
            opened = list(self.opened)
        for connection in opened:
            connection.inc_thread_sharing()
            try:
                connection.close()
            finally:
                connection.dec_thread_sharing()

    def create_connection(self, alias: str) -> BaseDatabaseWrapper:
        connection = super().create_connection(alias)
        setattr(connection, _GENERATION, self.generation)
        with self.lock:
            self.opened.add(connection)
        return connection

    def __getitem__(self, alias: str) -> BaseDatabaseWrapper:
        connection = super().__getitem__(alias)
        if getattr(connection, _GENERATION, 0) != self.generation:
            connection.close()
            del self[alias]
            connection = super().__getitem__(alias)
        return connection
