"""Servers, databases and Redis for the workloads: real processes, all ended with the run."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks import statements
from tests.benchmarks.machine import cores, on_core
from tests.benchmarks.workload import Side
from tests.support import postgres
from tests.support.commands import environment
from tests.support.databases import Database, Databases, PostgresDatabases, SqliteDatabases
from tests.support.postgres import PostgresServer
from tests.support.processes import ChildProcess, keeper
from tests.support.redis import RedisServer
from tests.support.servers import ServerProcess

SERVERS = ("daphne", "uvicorn", "granian")
BACKLOG = "2048"  # Twisted's 50 overflow when a thousand clients come at once
PACKAGE = "tests.benchmarks"


class BenchmarkServer(ServerProcess):
    """A server without access log, with a backlog that holds a storm."""

    kind = "daphne"

    def argv(self) -> list[str]:
        port = str(self.port)
        command = [sys.executable, "-m", self.kind]
        if self.kind == "picows":
            return [sys.executable, "-m", self.application, port]
        if self.kind == "daphne":
            command += ["-v", "0", "-e", f"tcp:{port}:interface=127.0.0.1:backlog={BACKLOG}"]
        elif self.kind == "uvicorn":
            command += ["--host", "127.0.0.1", "--port", port, "--backlog", BACKLOG]
            command += ["--no-access-log", "--log-level", "warning"]
        else:
            command += ["--interface", "asgi", "--host", "127.0.0.1", "--port", port]
            command += ["--backlog", BACKLOG, "--no-access-log", "--log-level", "warning"]
        return [*command, f"{self.application}:application"]

    def _answers(self) -> bool:
        return super()._answers() if self.kind != "picows" else self._listens()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Nodes:
    """Servers that share a database; the first one speaks for all."""

    def __init__(self, servers: list[BenchmarkServer]) -> None:
        self.servers = servers

    def ws(self, path: str = "/") -> str:
        return self.servers[0].ws(path)

    @property
    def pid(self) -> int:
        return self.servers[0].pid

    def log_tail(self) -> str:
        return "\n".join(server.log_tail() for server in self.servers)

    def start_again(self) -> None:
        """Those that have ended, on their ports; returns when they answer."""
        ended = [server for server in self.servers if not server.running]
        for server in ended:
            with on_core(cores()[0]):
                server.spawn()
        for server in ended:
            server.wait_until_ready()


class Bench:
    """Everything that a run starts; a database server or Redis when a workload first asks."""

    def __init__(self, server: str) -> None:
        if importlib.util.find_spec(server) is None:
            raise SystemExit(f"{server} is not installed: pip install {server}")
        self.server = server
        self.directory = keeper.temporary_directory("gbench")
        self._stack = ExitStack()
        self._databases: dict[str, Databases] = {}
        self._redis: RedisServer | None = None
        self._logs = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def redis(self) -> RedisServer:
        if self._redis is None:
            self._redis = RedisServer()
            self._redis.start()
            self._stack.callback(self._redis.kill)
        return self._redis

    def _databases_of(self, vendor: str) -> Databases:
        if vendor not in self._databases:
            if vendor == "sqlite":
                self._databases[vendor] = SqliteDatabases(self.directory)
            else:
                # As PostgreSQL comes: a commit is on the disk when it returns.
                postgres.OPTIONS.update(
                    fsync="on", full_page_writes="on", autovacuum="on", shared_buffers="128MB"
                )
                server = PostgresServer()
                self._stack.callback(server.stop)
                server.start()
                made = PostgresDatabases(server.url(), f"benchmark_{server.port}")
                self._databases[vendor] = made
        return self._databases[vendor]

    @contextmanager
    def database(self, vendor: str) -> Iterator[Database]:
        databases = self._databases_of(vendor)
        database = databases.create()
        try:
            yield database
        finally:
            databases.drop(database)

    def environment(self, side: Side, database: Database) -> dict[str, str]:
        extra = {"DJANGO_SETTINGS_MODULE": f"{PACKAGE}.settings"}
        if side.bare:
            extra["GRACEFUL_BENCHMARK_BARE"] = "1"
        if side.layer:
            extra["GRACEFUL_TEST_LAYER"] = side.layer
        if side.counted:
            extra[statements.VARIABLE] = str(self.directory / statements.FILE)
        return environment(
            database.url,
            redis_url=self.redis.url if side.layer else None,
            settings={"node_name": "benchmark", **side.settings},
            extra=extra,
        )

    @contextmanager
    def serving(self, side: Side, vendor: str) -> Iterator[BenchmarkServer]:
        """A server of that side, on its core, with an empty database, until the end."""
        with self.nodes(side, vendor, 1) as nodes:
            yield nodes.servers[0]

    @contextmanager
    def nodes(self, side: Side, vendor: str, count: int) -> Iterator[Nodes]:
        """Several of them, all on that core, with one database."""
        with self.database(vendor) as database:
            nodes = Nodes([self._server(side, database) for _ in range(count)])
            try:
                for server in nodes.servers:
                    with on_core(cores()[0]):
                        server.spawn()
                for server in nodes.servers:
                    server.wait_until_ready()
                yield nodes
            finally:
                for server in nodes.servers:
                    server.kill()

    def _server(self, side: Side, database: Database) -> BenchmarkServer:
        server = BenchmarkServer(
            env=self.environment(side, database),
            log_path=self._log(side),
            application=f"{PACKAGE}.{side.application}",
        )
        server.kind = "picows" if side.picows else self.server
        return server

    @contextmanager
    def script(self, side: Side, vendor: str, *arguments: str) -> Iterator[ChildProcess]:
        """A module of this package as a process on the server's core; its output is its log."""
        with self.database(vendor) as database:
            child = ChildProcess(side.name, self._log(side))
            argv = [sys.executable, "-m", f"{PACKAGE}.{side.application}", *arguments]
            with on_core(cores()[0]):
                child.spawn(argv, env=self.environment(side, database))
            try:
                yield child
            finally:
                child.kill()

    def _log(self, side: Side) -> Path:
        self._logs += 1
        return self.directory / f"{self._logs}-{side.name}.log"
