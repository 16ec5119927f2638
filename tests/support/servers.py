"""ASGI servers as real processes, one or several on one database."""

from __future__ import annotations

import asyncio
import http.client
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.support.commands import environment, run_django
from tests.support.databases import Database
from tests.support.processes import ChildProcess, free_port, wait_until_ready

ServerName = Literal["daphne", "uvicorn", "hypercorn", "granian", "gunicorn"]
SERVERS: tuple[ServerName, ...] = ("daphne", "uvicorn", "hypercorn", "granian")
APPLICATION = "tests.asgi:application"
READY_WITHIN = 30.0  # seconds for a server to answer; about one when the machine is idle


class ServerProcess:
    """One ASGI server on a free port of 127.0.0.1, always reaped.

        with ServerProcess(env=environment(database.url), log_path=path) as server:
            connect(server.ws("/ws/echo/"))

    What blocks has a twin for tests that run clients on an event loop meanwhile: ``arestart`` and
    ``await_exit``.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        log_path: Path,
        server: ServerName = "daphne",
        arguments: Sequence[str] = (),
        name: str = "",
        application: str = APPLICATION,
    ) -> None:
        self.server = server
        self.name = name or server
        self.port = free_port()
        self.env = dict(env)
        self.arguments = list(arguments)
        self.application = application
        self._process = ChildProcess(self.name, log_path)

    def __enter__(self) -> ServerProcess:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def argv(self) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        options = {
            "daphne": ["-b", "127.0.0.1", "-p", str(self.port)],
            "uvicorn": address,
            "hypercorn": ["--bind", f"127.0.0.1:{self.port}"],
            "granian": ["--interface", "asginl", *address],
            "gunicorn": [
                *("--worker-class", "uvicorn_worker.UvicornWorker"),
                *("--bind", f"127.0.0.1:{self.port}"),
            ],
        }[self.server]
        command = [sys.executable, "-m", self.server, *options]
        return [*command, *self.arguments, self.application]

    def start(self) -> None:
        """Start it and wait until it answers; RuntimeError with its log when it does not."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start it and return at once."""
        self._process.spawn(self.argv(), env=self.env)

    def wait_until_ready(self, within: float = READY_WITHIN) -> None:
        """An answer, not an open port: Daphne listens before its signal handlers are there."""
        wait_until_ready(self._process, self._answers, within)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse()  # of any status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ws(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's first process."""
        self._process.signal(number)

    def terminate(self) -> None:
        """SIGTERM; ``wait`` for what comes of it."""
        self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for it and its workers, and reap it."""
        self._process.kill()

    def wait(self, within: float = 30.0) -> int:
        """Wait for its end; return the exit status. AssertionError with its log when it is late."""
        return self._process.wait(within)

    async def await_exit(self, within: float = 30.0) -> int:
        return await asyncio.to_thread(self.wait, within)

    def restart(self) -> None:
        """Start it again on the same port; a running one is killed first."""
        self.kill()
        self.start()

    async def arestart(self) -> None:
        await asyncio.to_thread(self.restart)

    def log(self) -> str:
        """What it wrote to standard output and standard error, over all restarts."""
        return self._process.log()

    def log_tail(self) -> str:
        return self._process.log_tail()


class Site:
    """Servers that share one migrated database, as the nodes of one deployment do."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        server: ServerName = "daphne",
        nodes: int = 1,
        settings: Mapping[str, Any] | None = None,
        redis_url: str | None = None,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        application: str = APPLICATION,
    ) -> None:
        self.database = database
        self.directory = directory
        self._settings = dict(settings or {})
        self._redis_url = redis_url
        self._extra_env = dict(env or {})
        self.env = self._environment({})
        self.nodes = [
            ServerProcess(
                env=self._environment({"node_name": f"node-{number}"}),
                log_path=directory / f"node-{number}.log",
                server=server,
                arguments=arguments,
                name=f"node-{number}",
                application=application,
            )
            for number in range(1, nodes + 1)
        ]

    def _environment(self, defaults: Mapping[str, Any]) -> dict[str, str]:
        return environment(
            self.database.url,
            redis_url=self._redis_url,
            settings={**defaults, **self._settings},
            extra=self._extra_env,
        )

    def start(self) -> None:
        """Start all nodes at the same time and wait until each answers."""
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_until_ready()

    async def astart(self) -> None:
        await asyncio.to_thread(self.start)

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    @property
    def node(self) -> ServerProcess:
        """The first node, often the only one."""
        return self.nodes[0]

    @property
    def port(self) -> int:
        return self.node.port

    def url(self, path: str = "/") -> str:
        return self.node.url(path)

    def ws(self, path: str = "/") -> str:
        return self.node.ws(path)

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement on the site's database, see ``Database.sql``."""
        return self.database.sql(query, *parameters)

    def django(
        self, *arguments: str, within: float = 60.0, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a management command on the site's database, as an operator of this host would.

        Raises AssertionError with its output when it fails and ``check`` is true.
        """
        return run_django(*arguments, env=self.env, within=within, check=check, stdin=stdin)

    async def adjango(
        self, *arguments: str, within: float = 60.0, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            self.django, *arguments, within=within, check=check, stdin=stdin
        )
