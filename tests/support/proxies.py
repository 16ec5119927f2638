"""nginx and HAProxy as real processes, with the files of docs/deploy."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.support.processes import ROOT, ChildProcess, free_port, wait_until_ready

ProxyName = Literal["nginx", "haproxy"]
Changes = Sequence[tuple[str, str]]  # what is in a file, and what it becomes
FILES = {"nginx": ROOT / "docs/deploy/nginx.conf", "haproxy": ROOT / "docs/deploy/haproxy.cfg"}
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def binary(name: str) -> str | None:
    """Where a program is, also where only an administrator's PATH leads; None if nowhere."""
    return shutil.which(name, path=SEARCHED)


def settings_said(path: Path) -> dict[str, Any]:
    """What a file of docs/deploy says in its first comment about GRACEFUL_WS."""
    said = re.search(r"^# In settings\.py: GRACEFUL_WS = (\{.*?\})", path.read_text(), re.M)
    assert said is not None, f"{path.name} does not say what settings.py has to have"
    values: dict[str, Any] = ast.literal_eval(said[1])
    return values


class Certificate:
    """For 127.0.0.1, signed by itself, and what a client needs to believe it."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        self.both = directory / "both.pem"  # as HAProxy wants it
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += " -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True, timeout=30)
        self.both.write_text(self.certificate.read_text() + self.key.read_text())

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def substituted(text: str, changes: Changes) -> str:
    """``text`` with each of the first replaced; AssertionError when one is not in it."""
    for old, new in changes:
        assert old in text, f"the file does not say {old!r} any more"
        text = text.replace(old, new)
    return text


class Proxy:
    """One nginx or HAProxy on two free ports of 127.0.0.1, in front of two nodes.

    The configuration is the one of docs/deploy: only addresses and paths are others, and what a
    test says in ``changes``.
    """

    def __init__(
        self, name: ProxyName, nodes: Sequence[int], directory: Path, changes: Changes = ()
    ) -> None:
        program = binary(name)
        assert program is not None, f"{name} is not installed"
        directory.mkdir()
        self.name = name
        self.program = program
        self.plain_port, self.port = free_port(), free_port()
        self.certificate = Certificate(directory)
        self.tls = self.certificate.context()
        self.directory = directory
        self.config = directory / FILES[name].name
        own = self._nginx() if name == "nginx" else self._haproxy()
        own += [
            ("10.0.0.11:8000", f"127.0.0.1:{nodes[0]}"),
            ("10.0.0.12:8000", f"127.0.0.1:{nodes[1]}"),
        ]
        text = substituted(FILES[name].read_text(), [*own, *changes])
        if os.geteuid() != 0:  # it runs as whoever starts it, and may become nobody else
            text = re.sub(r"(?m)^ *(user|group) .*\n", "", text)
        self.config.write_text(text)
        self._process = ChildProcess(name, directory / f"{name}.log")

    def _nginx(self) -> list[tuple[str, str]]:
        # Where it keeps what is too long for its memory is compiled in, and not everybody's.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"    {kind}_temp_path {self.directory}/{kind};\n" for kind in kinds)
        return [
            ("http {\n", "http {\n" + paths),
            ("listen 80 ", f"listen 127.0.0.1:{self.plain_port} "),
            ("listen 443 ", f"listen 127.0.0.1:{self.port} "),
            ("server_name example.com", "server_name 127.0.0.1"),
            ("/etc/ssl/example.com.pem", str(self.certificate.certificate)),
            ("/etc/ssl/private/example.com.key", str(self.certificate.key)),
            ("/run/nginx.pid", f"{self.directory}/pid"),
            ("/var/log/nginx/error.log", "stderr"),
            ("/var/log/nginx/access.log", f"{self.directory}/access.log"),
        ]

    def _haproxy(self) -> list[tuple[str, str]]:
        return [
            ("bind :80", f"bind 127.0.0.1:{self.plain_port}"),
            ("bind :443", f"bind 127.0.0.1:{self.port}"),
            ("hdr Host example.com", "hdr Host 127.0.0.1"),
            ("/etc/haproxy/example.com.pem", str(self.certificate.both)),
            ("log /dev/log local0", "log stdout format raw local0"),
            ("/run/haproxy/admin.sock", f"{self.directory}/admin.sock"),
        ]

    def check(self) -> subprocess.CompletedProcess[str]:
        """What the program itself says of the file."""
        option = ["-t", "-c"] if self.name == "nginx" else ["-c", "-f"]
        return subprocess.run(
            [self.program, *option, str(self.config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        if self.name == "nginx":
            argv = [self.program, "-c", str(self.config), "-g", "daemon off;"]
        else:
            argv = [self.program, "-db", "-f", str(self.config)]
        self._process.spawn(argv, cwd=self.directory)
        wait_until_ready(self._process, self._accepts, 15)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End it, and its workers."""
        if self._process.running:
            self._process.signal(signal.SIGTERM)
            self._process.wait(10)
        self._process.kill()

    def url(self, path: str = "/") -> str:
        return f"https://127.0.0.1:{self.port}{path}"

    def ws(self, path: str = "/") -> str:
        return f"wss://127.0.0.1:{self.port}{path}"

    def log(self) -> str:
        """What it wrote to standard output and standard error."""
        return self._process.log()


@contextmanager
def proxy(
    name: ProxyName, nodes: Sequence[int], directory: Path, changes: Changes = ()
) -> Iterator[Proxy]:
    """A running proxy in front of two ports of 127.0.0.1; it ends with the block."""
    running = Proxy(name, nodes, directory, changes)
    try:
        running.start()
        yield running
    finally:
        running.stop()
