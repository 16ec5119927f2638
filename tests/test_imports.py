"""The rings of the package: who imports whom, and what runs without Django."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "graceful_ws"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
WRITTEN = [path for path in FILES if path.parent.name != "migrations"]
MAX_LINES = 350

# Each ring and the rings it may import besides itself; rings that are not here may import all.
# consumers -> node -> store -> models, and everyone may import core and conf.
RINGS: dict[str, set[str]] = {
    "core": set(),
    "conf": {"core"},
    "client": {"core"},
    "soak": {"core", "client"},
    "models": {"core", "conf"},
    "store": {"core", "conf", "models"},
    "servers": {"core", "conf"},
    "node": {"core", "conf", "store", "servers", "envelopes"},
    "handshake": {"core", "conf", "servers"},
    "consumers": {"core", "store", "base", "serving"},
    "base": {"core", "node", "following", "serving"},
    "serving": {"core", "store", "servers", "node", "handshake", "following", "base"},
    "following": {"core", "store", "node", "serving"},
    "envelopes": {"core", "conf", "store"},
    "publishing": {"core", "conf", "store", "envelopes"},
    "echo": {"core", "consumers"},
    "testing": {"core", "conf", "client", "store", "node"},
}
# Rings that must work in a process that has never heard of Django.
OUTSIDERS: dict[str, set[str]] = {"core": {"msgspec"}, "client": {"websockets"}, "soak": set()}


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) for every import in a module, wherever it stands.

    ``from a import b`` yields ``a.b``, which may be a module or a name in module ``a``.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module or "").split(".")] if node.module else base
            yield from ((node.lineno, ".".join([*prefix, alias.name])) for alias in node.names)


def forbidden_arrows(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return a line of text for each import in ``module`` that its ring does not allow."""
    ring = module.split(".")[1] if "." in module else ""
    if ring not in RINGS:
        return []
    arrows = []
    for line, name in imported_names(source, module, is_package=is_package):
        top, _, rest = name.partition(".")
        if top == PACKAGE:
            target = rest.partition(".")[0]
            allowed = target in RINGS[ring] | {ring, "__version__"}
        else:
            target = top
            allowed = (
                ring not in OUTSIDERS or top in OUTSIDERS[ring] or top in sys.stdlib_module_names
            )
        if not allowed:
            arrows.append(f"{ring} -> {target}: {module} imports {name} in line {line}")
    return arrows


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_what_its_ring_allows(path: Path) -> None:
    arrows = forbidden_arrows(
        path.read_text(), module_of(path), is_package=path.name == "__init__.py"
    )
    assert not arrows, "\n".join(["forbidden arrows:", *arrows])


@pytest.mark.parametrize(
    ("module", "source", "arrow"),
    [
        ("graceful_ws.store.rounds", "from ..node import hub", "store -> node"),
        ("graceful_ws.store.rounds", "from .. import consumers", "store -> consumers"),
        ("graceful_ws.node.hub", "import graceful_ws.consumers as c", "node -> consumers"),
        ("graceful_ws.node.hub", "from ..models import Stream", "node -> models"),
        ("graceful_ws.node.hub", "def f():\n    from .. import admin", "node -> admin"),
        ("graceful_ws.models", "from . import store", "models -> store"),
        ("graceful_ws.publishing", "from .node.hub import Hub", "publishing -> node"),
        ("graceful_ws.core.frames", "from django.conf import settings", "core -> django"),
        ("graceful_ws.core.frames", "from ..conf import settings", "core -> conf"),
        ("graceful_ws.client.socket", "from channels.layers import x", "client -> channels"),
        ("graceful_ws.client.socket", "from ..conf import settings", "client -> conf"),
    ],
)
def test_forbidden_arrow_is_named(module: str, source: str, arrow: str) -> None:
    assert [found.partition(":")[0] for found in forbidden_arrows(source, module)] == [arrow]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("graceful_ws.serving", "from .node.node import Node"),
        ("graceful_ws.node.journal", "from ..store import rounds\nfrom . import hub"),
        ("graceful_ws.store.rounds", "from django.db import models\nfrom ..conf import settings"),
        ("graceful_ws.core.frames", "import msgspec, json\nfrom .close_codes import TABLE"),
        ("graceful_ws.client.socket", "import websockets\nfrom ..core import frames"),
        ("graceful_ws.admin", "from .models import Session\nfrom .node import drain"),
    ],
)
def test_allowed_arrow_is_left_alone(module: str, source: str) -> None:
    assert forbidden_arrows(source, module) == []


def test_core_and_client_import_where_django_cannot() -> None:
    names = [module_of(path) for path in FILES]
    modules = [name for name in names if name.split(".")[1:2] in (["core"], ["client"])]
    program = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"django", "channels", "asgiref", "daphne", "twisted"}}:
            raise ModuleNotFoundError(f"{{name}} is not for these modules", name=name)

sys.meta_path.insert(0, Absent())
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_needs_no_scrolling_for_ever(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: it wants a second name, not a second half"
