"""Starts the demo's processes, starts again those that die, and ends them all.

A node that is told to stop drains and ends; one that is killed just ends. Either way it is back
about a second later, as under systemd or Kubernetes. Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from project.demo.errors import DemoError
from project.demo.lifeline import ORDERS
from project.demo.servers import Server
from project.demo.supervised import ROOT, Supervised

BACKLOG = 2048  # Daphne's own 50 overflows when a thousand clients come back at once
READY_WITHIN = 30.0  # seconds from start to the first answer
DONE_WITHIN = 60.0  # seconds for the tables to be made, or read
END_WITHIN = 30.0  # seconds that a drain may take before the process is killed
SERVERS_END_WITHIN = 5.0  # likewise for the servers, which nobody uses by then
ANSWER = 0.1  # seconds between an order and its signal
SERVER_PAUSE = 3.0  # seconds that a server that died stays away: long enough to see

Say = Callable[[str], None]


class Supervisor:
    """Two nodes and a clock, and the servers they are given. ``say`` is told, one line at a time,
    what happens to them.

    site = Supervisor(directory, [8000, 8001], password="of the admin")
    async with site:
        site.node("node-1").send(signal.SIGKILL)

    Without ``password`` the tables have to be there.
    """

    def __init__(
        self,
        directory: Path,
        ports: Sequence[int],
        *,
        host: str = "127.0.0.1",
        application: str = "project.asgi:application",
        clock: bool = True,
        password: str | None = None,
        servers: Sequence[Server] = (),
        env: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.host = host
        self.near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # reached from here by
        self.ports = list(ports)
        self._say = say
        self._password = password
        urls = {server.variable: server.url for server in servers}
        self._env = {**os.environ, **self._site(), **(env or {}), **urls}
        self._env["DEMO_SERVERS"] = ",".join(server.name for server in servers)
        self.servers = [self._server(server) for server in servers]
        self.processes = [
            self._node(f"node-{number}", port, application)
            for number, port in enumerate(self.ports, 1)
        ]
        if clock:
            self.processes.append(self._process("clock", ["project.demo.clock"]))
        self._keepers: dict[Supervised, asyncio.Task[None]] = {}
        self._orders: deque[str] = deque(maxlen=100)
        self._ending: dict[Supervised, signal.Signals] = {}

    def _site(self) -> dict[str, str]:
        values = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DEMO_PORTS": ",".join(map(str, self.ports)),
            "PYTHONUNBUFFERED": "1",
        }
        if "DATABASE_URL" not in os.environ:
            values["DATABASE_URL"] = f"sqlite:///{self.directory.resolve()}/db.sqlite3"
        if self.host not in ("127.0.0.1", "localhost", "::1"):
            values["DJANGO_ALLOWED_HOSTS"] = "*"  # whatever name this machine is reached by
        return values

    def _server(self, server: Server) -> Supervised:
        argv = ["project.demo.server", server.name, str(server.home)]
        answers = partial(asyncio.to_thread, server.answers)
        return self._process(server.name, argv, answers=answers, pause=SERVER_PAUSE)

    def _node(self, name: str, port: int, application: str) -> Supervised:
        interface = self.host.replace(":", "\\:")
        endpoint = f"tcp:port={port}:interface={interface}:backlog={BACKLOG}"
        argv = ["project.demo.node", "-e", endpoint, application]
        return self._process(name, argv, answers=partial(http_answers, self.near, port))

    def _process(
        self,
        name: str,
        module: Sequence[str],
        *,
        answers: Callable[[], Awaitable[bool]] | None = None,
        pause: float = 0.0,
    ) -> Supervised:
        argv = [sys.executable, "-m", *module]
        env = {**self._env, "NODE_NAME": name, "PGAPPNAME": name}  # as pg_stat_activity shows it
        return Supervised(name, argv, env, self.directory / f"{name}.log", answers, pause)

    def node(self, name: str) -> Supervised:
        """One of the processes by its name. Raises KeyError."""
        for process in [*self.processes, *self.servers]:
            if process.name == name:
                return process
        raise KeyError(name)

    # --- start --------------------------------------------------------------------------------

    async def _run_once(self, module: str, said: str = "") -> str:
        """The output of a module of the site that hears ``said``. Raises DemoError with its last
        line when it fails."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            env=self._env,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(DONE_WITHIN):
                output, errors = await process.communicate(said.encode())
        except TimeoutError:
            raise DemoError("the database does not answer") from None
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines() or ["no output"]
            raise DemoError(f"{module} failed: {lines[-1]}")
        return output.decode()

    async def kept(self) -> list[tuple[str, int, int]]:
        """Every line that the database holds: session, the session's number, primary key."""
        return [tuple(line) for line in json.loads(await self._run_once("project.demo.kept"))]

    async def __aenter__(self) -> Supervisor:
        """Returns when all of it answers. Raises DemoError when something does not."""
        try:
            await self._start(self.servers)
            if self._password is not None:
                self._say("Preparing the database ...")
                await self._run_once("project.demo.prepare", self._password)
            self._say(f"Starting {' and '.join(p.name for p in self.processes if p.answers)} ...")
            await self._start(self.processes)
        except BaseException:
            await self._kill()
            raise
        return self

    async def _start(self, processes: Sequence[Supervised]) -> None:
        for process in processes:
            process.log.unlink(missing_ok=True)
            self._keepers[process] = asyncio.create_task(self._keep(process))
        await asyncio.gather(*(self.ready(process) for process in processes if process.answers))

    async def ready(self, process: Supervised, after: int = 0) -> None:
        """Returns when a process answers that was started more than ``after`` times. Raises
        DemoError when it dies before that, or is late."""
        assert process.answers is not None
        deadline = time.monotonic() + READY_WITHIN
        while process.starts <= after or not await process.answers():
            if process.starts > after + 1 or time.monotonic() > deadline:
                words = f"{process.last_words()} (all of it in {process.log})"
                raise DemoError(f"{process.name} does not start: {words}")
            await asyncio.sleep(0.05)

    # --- keep ---------------------------------------------------------------------------------

    async def _keep(self, process: Supervised) -> None:
        while process not in self._ending:
            status = await self._run(process)
            process.clear()
            if process in self._ending:
                return
            rest = process.died()
            again = f"starting it again in {rest:g} s" if rest else "starting it again"
            self._say(f"{process.name} {_how(status)}; {again}")
            await process.rest(rest)

    async def _run(self, process: Supervised) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        listening = asyncio.create_task(self._listen(reader))
        try:
            with theirs:
                child = await process.start(theirs)
            if process in self._ending:  # told while it was being started
                process.send(self._ending[process])
            return await child.wait()
        finally:
            listening.cancel()
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Carries out what a process asks for."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                await self._obey(line.decode(errors="replace").split())

    async def _obey(self, line: Sequence[str]) -> None:
        with suppress(KeyError, ValueError):
            action, name, order = line
            process, number = self.node(name), ORDERS[action]
            if order not in self._orders:
                self._orders.append(order)
                self._say(f"a visitor sends {number.name} to {name}")
                await asyncio.sleep(ANSWER)  # it may be the one that has to answer the visitor
                process.send(number)

    # --- stop ---------------------------------------------------------------------------------

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Drains the nodes and ends everything, the servers last. What is late is killed; after an
        exception, all nodes."""
        if kind is None:
            self.end(signal.SIGTERM)
            await self._ended(self.processes, END_WITHIN)
        await self._kill()

    def end(self, number: signal.Signals) -> None:
        """No node is started again, and what runs gets the signal: SIGTERM drains, a second one
        closes all at once, SIGKILL ends."""
        self._end(number, self.processes)

    def _end(self, number: signal.Signals, processes: Sequence[Supervised]) -> None:
        for process in processes:
            self._ending[process] = number
            process.wake()
            process.send(number)

    async def _ended(self, processes: Sequence[Supervised], within: float) -> None:
        if keepers := [self._keepers[each] for each in processes if each in self._keepers]:
            await asyncio.wait(keepers, timeout=within)

    async def _kill(self) -> None:
        self._end(signal.SIGKILL, self.processes)
        self._end(signal.SIGTERM, self.servers)
        await self._ended(self.servers, SERVERS_END_WITHIN)
        self._end(signal.SIGKILL, self.servers)
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return "ended well" if status == 0 else f"ended with status {status}"


async def http_answers(host: str, port: int) -> bool:
    """Whether a node's HTTP answers, which is later than its port being open."""
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /graceful/live/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def check_ports(host: str, ports: Sequence[int]) -> None:
    """Raises DemoError, with what to do, when one of the ports cannot be had."""
    needs = f"the demo needs {' and '.join(map(str, ports))}"
    for port in ports:
        if not 1 <= port <= 65_535:
            raise DemoError(f"{port} is no port number: {needs}; choose another with --port")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except socket.gaierror:
                raise DemoError(f"{host!r} is no address of this machine (--host)") from None
            except PermissionError:
                raise DemoError(f"port {port} is not allowed: choose another with --port") from None
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise DemoError(
                        f"port {port} is in use: {needs}; choose another with --port"
                    ) from None
                raise DemoError(f"cannot listen on {host}:{port}: {error.strerror}") from None
