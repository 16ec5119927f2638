"""Child processes that are always reaped: output in a file, a group of their own, a deadline."""

from __future__ import annotations

import atexit
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository: where `tests` and `graceful_ws` can be found
LOG_TAIL = 200  # lines shown when a test fails

WORKERS = 8  # as many test processes never share a port

_handed_out: set[int] = set()


def free_port() -> int:
    """Return a TCP port on which nothing listens, never the same one twice.

    From below the range that kernels give to outgoing connections: a server that is restarted on
    its port must not find a client's socket there.
    """
    # Test processes side by side have a part of the range each.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    part = 12_000 // WORKERS
    for _ in range(200):
        port = random.randrange(20_000 + worker * part, 20_000 + (worker + 1) * part)
        if port in _handed_out or port - 1 in _handed_out:
            continue  # a demo takes the next one as well
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise RuntimeError("no free TCP port between 20000 and 32000")


class Keeper:
    """The other side of ``keeper.py``: what it is told is undone when this process ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._running: set[int] = set()

    def _tell(self, order: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-S", str(Path(__file__).with_name("keeper.py"))],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is not for it
            )
            atexit.register(self._finish)
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def _finish(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def add(self, pid: int, signal_at_end: signal.Signals = signal.SIGKILL) -> None:
        self._running.add(pid)
        self._tell(f"add {pid} {int(signal_at_end)}")

    def remove(self, pid: int) -> None:
        if pid in self._running:
            self._running.discard(pid)
            self._tell(f"remove {pid}")

    def temporary_directory(self, prefix: str) -> Path:
        """Return a new directory with a short path, deleted when this process ends."""
        path = tempfile.mkdtemp(prefix=prefix)
        self._tell(f"clear {path}")
        return Path(path)


keeper = Keeper()


class ChildProcess:
    """One child process, started again at will, its output appended to one file.

    ``kill`` reaches its whole group; ``signal`` only the process itself, as a
    supervisor's signal would.
    """

    def __init__(
        self, name: str, log_path: Path, *, signal_at_end: signal.Signals = signal.SIGKILL
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._signal_at_end = signal_at_end
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        """Start ``argv``; raises RuntimeError when the last one is still running."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already, as {self.pid}")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )
        keeper.add(self._process.pid, self._signal_at_end)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; nothing happens when it is gone."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, within: float = 30.0) -> int:
        """Wait for the end and return the exit status.

        Raises AssertionError with the log's tail after ``within`` seconds; it runs on then.
        """
        assert self._process is not None, f"{self.name} was never started"
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            message = f"{self.name} still runs after {within:g} s\n{self.log_tail()}"
            raise AssertionError(message) from None
        if not self._group_exists():
            keeper.remove(self.pid)
        return status

    def kill(self) -> None:
        """SIGKILL for the group, and reap it; nothing happens when it is gone already."""
        if self._process is None:
            return
        if self.running or self._group_exists():  # workers may have outlived their parent
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        keeper.remove(self._process.pid)

    def _group_exists(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def log(self) -> str:
        """Everything written to standard output and standard error, over all restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        lines = self.log().splitlines()
        return "\n".join([f"--- {self.name}: {self.log_path}", *lines[-LOG_TAIL:]])


def wait_until_ready(child: ChildProcess, ready: Callable[[], bool], within: float) -> None:
    """Poll ``ready()`` every 10 ms until it is true.

    Raises RuntimeError with the log when ``child`` ends first or ``within`` seconds have passed.
    """
    deadline = time.monotonic() + within
    while not ready():
        if not child.running:
            raise RuntimeError(f"{child.name} ended with {child.returncode}\n{child.log_tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{child.name} not ready in {within:g} s\n{child.log_tail()}")
        time.sleep(0.01)
