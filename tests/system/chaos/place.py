"""The processes of a chaos run: nodes, database, Redis, and one that publishes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.databases import Database, Databases, PostgresDatabases, SqliteDatabases
from tests.support.postgres import PostgresServer
from tests.support.processes import ChildProcess
from tests.support.redis import RedisServer
from tests.support.servers import ServerProcess, Site
from tests.system.chaos.ledger import VARIABLE
from tests.system.chaos.options import DROPPED, Options, possible

EXIT_GRACE = 3.0
SETTINGS: dict[str, Any] = {  # short, so that a short run sees every limit pass
    "beat_interval": 0.4,
    "dead_after": 4.0,
    "round_interval": 1.0,
    "poll_interval": 0.2,
    "closing_timeout": 3.0,
    "heartbeat_interval": 1.5,
    "heartbeat_timeout": 1.0,
    "max_missed": 3,
    "drain_window": 2.0,
    "drain_deadline": 8.0,
    "reconnect_window": 0.5,
    "exit_grace": EXIT_GRACE,
    "purge_interval": 5.0,
}


class Place:
    """``postgres`` and ``redis`` may be servers that run already; then they are not ended."""

    def __init__(
        self,
        options: Options,
        directory: Path,
        *,
        postgres: PostgresServer | None = None,
        redis: RedisServer | None = None,
    ) -> None:
        self.options = options
        self.directory = directory
        self.ledger = directory / "ledger"
        self.ledger.mkdir(parents=True)
        self.postgres = postgres
        self.redis = redis
        self._cleanup = ExitStack()
        self.site: Site
        self._publisher = ChildProcess("publisher", directory / "publisher.log")

    def start(self) -> None:
        """Start everything and wait until it answers."""
        options = self.options
        database = self._database()
        if options.layer != "none" and self.redis is None:
            self.redis = RedisServer()
            self._cleanup.callback(self.redis.stop)
            self.redis.start()
        env = {
            VARIABLE: str(self.ledger),
            "GRACEFUL_TEST_CHAOS_PAUSE": str(1 / options.rate),
            "GRACEFUL_TEST_LAYER": "" if options.layer == "none" else options.layer,
        }
        if "drop" in possible(options):
            env["GRACEFUL_TEST_LAYER_DROPS"] = str(DROPPED)
        self.site = Site(
            database,
            self.directory,
            nodes=options.nodes,
            settings=SETTINGS,
            redis_url=self.redis.url if self.redis and options.layer != "none" else None,
            env=env,
            application="tests.system.chaos.asgi:application",
        )
        self._cleanup.callback(self.site.close)
        self.site.start()

    def _database(self) -> Database:
        databases: Databases
        if self.options.database == "sqlite":
            databases = SqliteDatabases(self.directory)
            return databases.create()
        if self.postgres is None:
            self.postgres = PostgresServer()
            self._cleanup.callback(self.postgres.stop)
            self.postgres.start()
        server = self.postgres
        prefix = f"chaos_{os.getpid()}_{uuid.uuid4().hex[:6]}"
        databases = PostgresDatabases(server.url(), prefix, server.revive)
        self._cleanup.callback(databases.close)
        database = databases.create()
        self._cleanup.callback(databases.drop, database)
        return database

    def close(self) -> None:
        """End every process that was started here."""
        try:
            self._publisher.kill()
        finally:
            self._cleanup.close()

    @property
    def nodes(self) -> list[ServerProcess]:
        return self.site.nodes

    def start_publisher(self, rooms: Iterable[str]) -> None:
        arguments = [str(self.options.seed), ",".join(rooms)]
        self._publisher.spawn(
            [sys.executable, "-m", "tests.system.chaos.publisher", *arguments], env=self.site.env
        )

    async def publisher_ended(self, within: float) -> int:
        return await asyncio.to_thread(self._publisher.wait, within)

    def stop_traffic(self) -> None:
        (self.ledger / "stop").touch()

    def tell_sessions(self, sessions: Iterable[str]) -> None:
        """To whom the publisher may write."""
        whole = self.ledger / "sessions.new"
        whole.write_text("\n".join(sessions))
        whole.replace(self.ledger / "sessions")

    async def heal(self) -> None:
        """Everything runs and accepts connections again; whoever runs already goes on."""
        await asyncio.to_thread(self._heal)

    def _heal(self) -> None:
        if self.postgres is not None and self.options.database == "postgres":
            self.postgres.revive()
        if self.redis is not None:
            self.redis.revive()
        for node in self.nodes:
            if not node.running:
                node.start()
        drained = "SELECT count(*) FROM graceful_ws_node WHERE state IN ('draining', 'drained')"
        if self.site.sql(drained) != [(0,)]:
            self.drain_connections("--all", "--undo", "--timeout", "6")

    def drain_connections(self, *arguments: str) -> None:
        """Run the command; what it says goes to a file, whether it succeeds or not."""
        done = self.site.django("drain_connections", *arguments, check=False)
        with (self.directory / "commands.log").open("a") as log:
            now = time.strftime("%H:%M:%S")
            log.write(f"{now} {' '.join(arguments)}: {done.returncode}\n")
            log.write(done.stdout + done.stderr)
