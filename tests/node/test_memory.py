"""What of its memory a process may use is in use: control groups of both versions, the machine,
a limit that is given; with psutil and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.node import memory

MIB = 1024 * 1024
MEMINFO = "MemTotal:  {} kB\nMemFree:  100 kB\nMemAvailable:  {} kB\nHugePages_Total:   0\n"
V2_MOUNT = "30 23 0:26 {} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 {} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
NO_LIMIT_V1 = "9223372036854771712\n"

Tree = Callable[[dict[str, Any]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A file system of these files, on a machine of 1,000 MiB of which 400 are available."""

    def make(files: dict[str, Any]) -> Path:
        meminfo = MEMINFO.format(1000 * 1024, 400 * 1024)
        for name, text in {"proc/meminfo": meminfo, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))
        return tmp_path

    return make


def v2(path: str, used: int, limit: str | int, inactive: int = 0) -> dict[str, Any]:
    """The files of one group; MiB."""
    name = f"sys/fs/cgroup/{path}/memory."
    return {
        f"{name}max": limit if isinstance(limit, str) else limit * MIB,
        f"{name}current": used * MIB,
        f"{name}stat": f"anon 5\ninactive_anon 7\ninactive_file {inactive * MIB}\n",
    }


def v1(path: str, used: int, limit: str | int, inactive: int = 0) -> dict[str, Any]:
    name = f"sys/fs/cgroup/memory/{path}/memory."
    return {
        f"{name}limit_in_bytes": limit if isinstance(limit, str) else limit * MIB,
        f"{name}usage_in_bytes": used * MIB,
        f"{name}stat": f"inactive_file 3\ntotal_inactive_file {inactive * MIB}\n",
    }


def in_v2(path: str, root: str = "/") -> dict[str, str]:
    return {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2_MOUNT.format(root)}


def in_v1(path: str, root: str = "/") -> dict[str, str]:
    groups = f"9:name=systemd:/\n4:cpu,memory:{path}\n0::/\n"
    return {"proc/self/cgroup": groups, "proc/self/mountinfo": V1_MOUNT.format(root)}


# --- control groups -------------------------------------------------------------------------------


def test_group_counts_without_what_the_kernel_would_drop(tree: Tree) -> None:
    root = tree({**in_v2("/site"), **v2("site", 150, 200, 50)})
    assert memory.usage(0, root) == memory.Usage(100 * MIB, 200 * MIB, "cgroup")


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [((90, 100), (90, 500), 0.9), ((90, "max"), (450, 500), 0.9), ((10, 100), (400, 500), 0.8)],
)
def test_tightest_limit_counts_of_those_around_the_group(
    tree: Tree, inner: tuple[int, Any], outer: tuple[int, Any], expected: float
) -> None:
    root = tree({**in_v2("/slice/site"), **v2("slice/site", *inner), **v2("slice", *outer)})
    found = memory.usage(0, root)
    assert found is not None
    assert found.share == expected


def test_container_with_a_namespace_of_its_own_sees_its_limit_at_the_top(tree: Tree) -> None:
    root = tree({**in_v2("/"), **v2(".", 60, 100)})
    assert memory.usage(0, root) == memory.Usage(60 * MIB, 100 * MIB, "cgroup")


def test_path_outside_of_the_namespace_is_that_of_the_mount(tree: Tree) -> None:
    root = tree({**in_v2("/../elsewhere"), **v2(".", 60, 100)})
    assert memory.usage(0, root) == memory.Usage(60 * MIB, 100 * MIB, "cgroup")


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/site"])
def test_container_that_sees_a_part_of_the_hosts_groups(tree: Tree, path: str) -> None:
    inside = path.removeprefix("/docker/abc").lstrip("/")
    root = tree({**in_v1(path, "/docker/abc"), **v1(inside or ".", 60, 100, 10)})
    assert memory.usage(0, root) == memory.Usage(50 * MIB, 100 * MIB, "cgroup")


def test_version_1_counts_those_around_the_group_too(tree: Tree) -> None:
    root = tree({**in_v1("/a/b"), **v1("a/b", 30, NO_LIMIT_V1), **v1("a", 95, 100, 5)})
    assert memory.usage(0, root) == memory.Usage(90 * MIB, 100 * MIB, "cgroup")


def test_group_without_a_limit_leaves_that_of_the_machine(tree: Tree) -> None:
    of_machine = memory.Usage(600 * MIB, 1000 * MIB, "machine")
    assert memory.usage(0, tree({**in_v2("/"), **v2(".", 900, "max")})) == of_machine
    assert memory.usage(0, tree({**in_v1("/"), **v1(".", 900, NO_LIMIT_V1)})) == of_machine
    assert memory.usage(0, tree({**in_v2("/"), **v2(".", 900, 2000)})) == of_machine


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "", "proc/self/mountinfo": ""},
        {"proc/self/cgroup": "nonsense", "proc/self/mountinfo": "1 2 3\n - \n"},
        {**in_v2("/gone")},
        {**in_v2("/x"), "sys/fs/cgroup/x/memory.max": "100", "proc/meminfo": ""},
        {"proc/meminfo": "MemTotal: 10 kB\n"},
    ],
)
def test_what_cannot_be_read_is_no_limit(tree: Tree, files: dict[str, str]) -> None:
    found = memory.usage(0, tree(files))
    assert found is None or found.of == "machine"


# --- a limit that is given, and the machine -------------------------------------------------------


def test_limit_that_is_given_counts_the_process_alone(tree: Tree) -> None:
    pages = 3 * MIB // memory.os.sysconf("SC_PAGE_SIZE")
    root = tree({**in_v2("/"), **v2(".", 90, 100), "proc/self/statm": f"9999 {pages} 3 4 5 6 7"})
    assert memory.usage(10 * MIB, root) == memory.Usage(3 * MIB, 10 * MIB, "memory_limit")


def test_limit_that_is_given_is_no_use_where_the_process_cannot_be_measured(tree: Tree) -> None:
    assert memory.usage(10 * MIB, tree({})) is None


def test_it_is_written_for_people() -> None:
    text = str(memory.Usage(int(0.87 * 512 * MIB), 512 * MIB, "cgroup"))
    assert text == "memory 87 % of 512 MiB"
    assert str(memory.Usage(3, 2, "machine")) == "memory 150 % of 2 B"
    assert str(memory.Usage(MIB, 1536 * MIB, "machine")) == "memory 0 % of 1.5 GiB"


@pytest.mark.parametrize("with_psutil", [True, False])
def test_real_machine_and_process_can_be_measured(
    monkeypatch: pytest.MonkeyPatch, with_psutil: bool
) -> None:
    if with_psutil:
        assert memory.psutil is not None, "the tests need psutil"
    else:
        monkeypatch.setattr(memory, "psutil", None)
    machine = memory.of_machine()
    assert machine is not None
    assert 0 < machine.share < 1
    resident = memory.resident()
    assert resident is not None
    assert 10 * MIB < resident < machine.limit
    kept = bytearray(64 * MIB)
    grown = memory.resident()
    assert grown is not None
    assert grown - resident > 60 * MIB
    del kept
    found = memory.usage()
    assert found is not None
    assert 0 < found.share < 1.1


# --- what a process keeps and does not use --------------------------------------------------------


def test_blocks_that_were_freed_are_spare_but_for_what_went_back_to_the_system() -> None:
    spare = memory.Spare()
    assert spare.bytes(1000, 1_000_000) == 0
    assert spare.bytes(600, 1_000_000) == 400 * memory.BLOCK
    assert spare.bytes(600, 990_000) == 400 * memory.BLOCK - 10_000
    assert spare.bytes(600, 100_000) == 0
    assert spare.bytes(2000, 1_500_000) == 0
    assert spare.bytes(1900, 1_600_000) == 100 * memory.BLOCK


def test_interpreter_says_how_much_it_holds() -> None:
    before = memory.blocks()
    kept = [object() for _ in range(10_000)]
    assert memory.blocks() - before >= len(kept)
