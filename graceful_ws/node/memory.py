"""How much of the memory that this process may have is in use.

The limit is the one that would be felt first: ``memory_limit`` if it is given, or else that of the
process's control group (docs.kernel.org: admin-guide/cgroup-v2, cgroup-v1/memory), which containers
and systemd set, or else the machine's memory. psutil is asked where it is installed (extra
``memory``), and /proc where it is not.

Files may block for a moment, so this is not for the event loop.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

try:
    psutil: Any = importlib.import_module("psutil")
except ImportError:
    psutil = None

KIB = 1024
BLOCK = 64  # bytes of a block, and rather less: 90 were measured


class Usage(NamedTuple):
    """``used`` of ``limit`` bytes; ``of`` says whose limit it is."""

    used: int
    limit: int
    of: str  # memory_limit, cgroup or machine

    @property
    def share(self) -> float:
        return self.used / self.limit

    def __str__(self) -> str:
        return f"memory {100 * self.share:.0f} % of {_readable(self.limit)}"


class Hierarchy(NamedTuple):
    """The names of what is read in one version of control groups."""

    limit: str
    used: str
    reclaimable: str  # the key in memory.stat: what the kernel drops before it kills anybody


V2 = Hierarchy("memory.max", "memory.current", "inactive_file")
V1 = Hierarchy("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def usage(memory_limit: int = 0, root: Path = Path("/")) -> Usage | None:
    """The usage that counts, or None where there is no way to know. ``memory_limit``: bytes for
    this process alone; 0: none is given. ``root`` is the root of the file system."""
    if memory_limit > 0:
        used = resident(root)
        return None if used is None else Usage(used, memory_limit, "memory_limit")
    machine = of_machine(root)
    found = of_cgroups(root)
    if machine is not None:  # "no limit" is a very large one in version 1
        found = [one for one in found if one.limit < machine.limit]
    return max(found, key=lambda one: one.share) if found else machine


def resident(root: Path = Path("/")) -> int | None:
    """Bytes of this process that are in memory."""
    if psutil is not None and root == Path("/"):
        return int(psutil.Process().memory_info().rss)
    pages = _words(root / "proc/self/statm")
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else None


def of_machine(root: Path = Path("/")) -> Usage | None:
    """What is not available to programs, without swapping, of the machine's memory."""
    if psutil is not None and root == Path("/"):
        memory = psutil.virtual_memory()
        return Usage(memory.total - memory.available, memory.total, "machine")
    found = dict(pairwise(_words(root / "proc/meminfo")))
    total, available = (int(found.get(f"Mem{name}:", 0)) * KIB for name in ("Total", "Available"))
    return Usage(total - available, total, "machine") if available else None


def of_cgroups(root: Path = Path("/")) -> list[Usage]:
    """The control group of this process and those around it, as far as they have limits: the
    memory of a group counts for all that it is in."""
    found = []
    for hierarchy, directory in _directories(root):
        limit = _number(directory / hierarchy.limit)
        used = _number(directory / hierarchy.used)
        if not limit or used is None:
            continue
        kept = dict(pairwise(_words(directory / "memory.stat"))).get(hierarchy.reclaimable, "0")
        found.append(Usage(max(0, used - int(kept)), limit, "cgroup"))
    return found


class Spare:
    """What the interpreter was given once and does not use any more.

    Objects of connections that are closed leave holes between those of others, so that hardly
    anything goes back to the system: after 3,000 of 3,000 connections were closed, a process had
    two thirds of their memory unused, and kept all of it. New objects go into the holes.
    """

    def __init__(self) -> None:
        self._most = self._resident = 0

    def bytes(self, blocks: int, resident: int) -> int:
        """``blocks``: of ``blocks()`` now; ``resident``: bytes of the process now. What has gone
        back to the system since there were most blocks is not spare."""
        if blocks > self._most:
            self._most, self._resident = blocks, resident
        freed = (self._most - blocks) * BLOCK
        return max(0, freed - max(0, self._resident - resident))


def blocks() -> int:
    """How many objects, or parts of them, the interpreter's own allocator holds."""
    counted = getattr(sys, "getallocatedblocks", None)  # CPython
    return counted() if counted is not None else 0


def _directories(root: Path) -> Iterator[tuple[Hierarchy, Path]]:
    """Of this process's groups, innermost first."""
    groups = _groups(_text(root / "proc/self/cgroup"))
    for hierarchy, inside, mount in _mounts(_text(root / "proc/self/mountinfo")):
        if hierarchy not in groups:
            continue
        top = root / mount.lstrip("/")
        # In a container without a namespace of its own, paths are those of the host, of which it
        # sees the part below ``inside``. Groups that it does not see have no files.
        path = PurePosixPath(groups[hierarchy])
        parts = path.relative_to(inside).parts if path.is_relative_to(inside) else ()
        directory = top.joinpath(*parts)
        while directory != top:
            yield hierarchy, directory
            directory = directory.parent
        yield hierarchy, top


def _groups(text: str) -> dict[Hierarchy, str]:
    """From /proc/self/cgroup: lines of ``number:controllers:path``."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found[V2] = path
        elif "memory" in controllers.split(","):
            found[V1] = path
    return found


def _mounts(text: str) -> Iterator[tuple[Hierarchy, str, str]]:
    """From /proc/self/mountinfo: where the hierarchies are, and what part of them (proc(5))."""
    for line in text.splitlines():
        mounted, _, of = line.partition(" - ")
        words, kind = mounted.split(), of.split()
        if len(words) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield V2, words[3], words[4]
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            yield V1, words[3], words[4]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _number(path: Path) -> int | None:
    """None where there is none: no such file, or "max"."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _readable(size: int) -> str:
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= KIB and len(units) > 1:
        value, units = value / KIB, units[1:]
    return f"{value:.3g} {units[0]}"
