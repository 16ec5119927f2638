"""Which core runs what, and how much of it: the server has one core, everything else the other."""

from __future__ import annotations

import functools
import gc
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@functools.cache  # later this process is itself on one core
def cores() -> tuple[int, int]:
    """The server's core and that of the load, the databases and everything else of ours."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile stays on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Sockets are files: as many as this user may have, here and in what is started."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def group(leader: int) -> list[int]:
    """The processes of a group: a server with its workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == leader:
            found.append(int(path.parent.name))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Processor time that they have used so far, all threads, in user and system mode."""
    # The clock that clock_getcpuclockid(3) gives for a process: nanoseconds, where stat has ticks.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def resident_bytes(leader: int) -> int:
    """Memory of a server and its workers."""
    return sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in group(leader)
    )


def _core_seconds(core: int) -> float:
    """What a core has worked so far, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, irq, softirq, *_ = map(int, fields)
            return (user + nice + system + irq + softirq) / TICK
    raise ValueError(f"no core {core}")


@dataclass(frozen=True)
class Usage:
    """Shares of one core while something was measured, 0 to 1."""

    seconds: float
    server: float  # the server, with its workers
    generator: float  # this process
    load_core: float  # all of the core that this process, the databases and Redis share
    others: float  # of the server's core, by processes that are not of this measurement


def _profiling(pid: int, path: Path) -> subprocess.Popen[bytes]:
    """Raw stacks, one line each with a count; those that end in a wait are idle threads."""
    command = ["py-spy", "record", "--pid", str(pid), "--threads", "--rate", "250"]
    command += ["--format", "raw", "--output", str(path), "--duration", "600"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Meter:
    """Measures the part of a round that counts."""

    def __init__(self, server: int | None, profile: Path | None = None) -> None:
        """``server`` leads the process group to look at; None when there is no server. With
        ``profile`` its stacks go to that file, by py-spy."""
        self._server = server
        self._profile = profile
        self.usage: Usage | None = None
        self.server_cpu = 0.0  # seconds, of the server in the part that counts

    @contextmanager
    def measuring(self) -> Iterator[None]:
        gc.collect()
        gc.freeze()
        pids = group(self._server) if self._server is not None else []
        server_core, load_core = cores()
        profiler = None
        if self._profile is not None and self._server is not None:
            profiler = _profiling(self._server, self._profile)
        start = time.monotonic()
        before = (
            cpu_seconds(pids),
            time.process_time(),
            _core_seconds(load_core),
            _core_seconds(server_core),
        )
        try:
            yield
        finally:
            gc.unfreeze()
            if profiler is not None:
                profiler.send_signal(signal.SIGINT)  # it writes the file now
                profiler.wait(30)
        seconds = max(time.monotonic() - start, 0.001)
        server, generator, load, whole = (
            now - then
            for now, then in zip(
                (
                    cpu_seconds(pids),
                    time.process_time(),
                    _core_seconds(load_core),
                    _core_seconds(server_core),
                ),
                before,
                strict=True,
            )
        )
        self.server_cpu = server
        self.usage = Usage(
            seconds,
            server / seconds,
            generator / seconds,
            load / seconds,
            max(0.0, whole - server) / seconds,
        )
