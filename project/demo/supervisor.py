"""Starts the demo's processes, starts again those that die, and ends them all.

A node that is told to stop drains and ends; one that is killed just ends. Either way it is back
about a second later, as under systemd or Kubernetes. Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from project.demo.lifeline import ORDERS

ROOT = Path(__file__).resolve().parents[2]
BACKLOG = 2048  # Daphne's own 50 overflows when a thousand clients come back at once
READY_WITHIN = 30.0  # seconds from start to the first answer
PREPARED_WITHIN = 60.0  # seconds for the tables
END_WITHIN = 30.0  # seconds that a drain may take before the process is killed
OFTEN = 5  # deaths of one process...
SHORTLY = 10.0  # ...within so many seconds, and it rests...
REST = 5.0  # ...for so many before the next start
ANSWER = 0.1  # seconds between an order and its signal


class DemoError(Exception):
    """The demo cannot run; the message is one line for the user."""


class Supervised:
    """One process that is started again when it ends."""

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path, port: int | None
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self.starts = 0
        self._argv = argv
        self._env = env
        self._process: asyncio.subprocess.Process | None = None
        self._deaths: deque[float] = deque(maxlen=OFTEN)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        assert self._process is not None
        return self._process.pid

    async def start(self, lifeline: socket.socket) -> asyncio.subprocess.Process:
        """Starts it with ``lifeline`` as its stdin, in a process group of its own: a Ctrl-C in the
        terminal is for the supervisor alone."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=dict(self._env),
                cwd=ROOT,
                stdin=lifeline.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        return self._process

    def died(self) -> float:
        """Counts a death; returns the seconds to rest before the next start."""
        self._deaths.append(time.monotonic())
        often = len(self._deaths) == OFTEN and self._deaths[-1] - self._deaths[0] < SHORTLY
        return REST if often else 0.0

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when it does not run."""
        if self.running:
            assert self._process is not None
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def answers(self, host: str) -> bool:
        """Whether its HTTP answers, which is later than its port being open."""
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection(host, self.port)
                try:
                    writer.write(b"GET /graceful/live/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


class Supervisor:
    """Two nodes and a clock. ``say`` is told, one line at a time, what happens to them.

    site = Supervisor(directory, [8000, 8001])
    await site.prepare(password)
    async with site:
        site.node("node-1").send(signal.SIGKILL)
    """

    def __init__(
        self,
        directory: Path,
        ports: Sequence[int],
        *,
        host: str = "127.0.0.1",
        application: str = "project.asgi:application",
        clock: bool = True,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.host = host
        self.near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # reached from here by
        self.ports = list(ports)
        self._say = say
        self._env = {**os.environ, **self._site(), **(env or {})}
        self.processes = [
            self._node(f"node-{number}", port, application)
            for number, port in enumerate(self.ports, 1)
        ]
        if clock:
            self.processes.append(self._process("clock", ["project.demo.clock"], {}, None))
        self._keepers: list[asyncio.Task[None]] = []
        self._orders: deque[str] = deque(maxlen=100)
        self._ending: signal.Signals | None = None
        self._over = asyncio.Event()

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

    def _node(self, name: str, port: int, application: str) -> Supervised:
        interface = self.host.replace(":", "\\:")
        endpoint = f"tcp:port={port}:interface={interface}:backlog={BACKLOG}"
        argv = ["project.demo.node", "-e", endpoint, application]
        return self._process(name, argv, {"NODE_NAME": name}, port)

    def _process(
        self, name: str, module: Sequence[str], env: Mapping[str, str], port: int | None
    ) -> Supervised:
        argv = [sys.executable, "-m", *module]
        log = self.directory / f"{name}.log"
        return Supervised(name, argv, {**self._env, **env}, log, port)

    def node(self, name: str) -> Supervised:
        """One of the processes by its name. Raises KeyError."""
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)

    # --- start --------------------------------------------------------------------------------

    async def prepare(self, password: str) -> None:
        """Makes the tables and the login "admin". Raises DemoError."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "project.demo.prepare"),
            env=self._env,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PREPARED_WITHIN):
                output, _ = await process.communicate(password.encode())
        except TimeoutError:
            raise DemoError("the database does not answer") from None
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            lines = output.decode(errors="replace").strip().splitlines() or ["no output"]
            raise DemoError(f"the database could not be prepared: {lines[-1]}")

    async def __aenter__(self) -> Supervisor:
        """Returns when both nodes answer. Raises DemoError when one does not."""
        for process in self.processes:
            process.log.unlink(missing_ok=True)
        self._keepers = [asyncio.create_task(self._keep(process)) for process in self.processes]
        try:
            await asyncio.gather(*(self.ready(p) for p in self.processes if p.port is not None))
        except BaseException:
            await self._kill()
            raise
        return self

    async def ready(self, process: Supervised, after: int = 0) -> None:
        """Returns when a node answers that was started more than ``after`` times. Raises DemoError
        when it dies before that, or is late."""
        deadline = time.monotonic() + READY_WITHIN
        while process.starts <= after or not await process.answers(self.near):
            if process.starts > after + 1 or time.monotonic() > deadline:
                words = f"{process.last_words()} (all of it in {process.log})"
                raise DemoError(f"{process.name} does not start: {words}")
            await asyncio.sleep(0.05)

    # --- keep ---------------------------------------------------------------------------------

    async def _keep(self, process: Supervised) -> None:
        while self._ending is None:
            status = await self._run(process)
            if self._ending is not None:
                return
            rest = process.died()
            again = f"it dies too often, next start in {rest:g} s" if rest else "starting it again"
            self._say(f"{process.name} {_how(status)}; {again}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), rest)

    async def _run(self, process: Supervised) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        listening = asyncio.create_task(self._listen(reader))
        try:
            with theirs:
                child = await process.start(theirs)
            if self._ending is not None:  # told while it was being started
                process.send(self._ending)
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
        """Drains the nodes and ends everything. What is late is killed; after an exception, all."""
        if kind is None:
            self.end(signal.SIGTERM)
            await asyncio.wait(self._keepers, timeout=END_WITHIN)
        await self._kill()

    def end(self, number: signal.Signals) -> None:
        """Nothing is started again, and what runs gets the signal: SIGTERM drains, a second one
        closes all at once, SIGKILL ends."""
        self._ending = number
        self._over.set()
        for process in self.processes:
            process.send(number)

    async def _kill(self) -> None:
        self.end(signal.SIGKILL)
        await asyncio.gather(*self._keepers, return_exceptions=True)


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return "ended well" if status == 0 else f"ended with status {status}"


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
