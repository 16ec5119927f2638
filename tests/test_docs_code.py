"""Code in the README and the pages: Python is type-checked against the package, JavaScript read by
an interpreter, commands asked for their options. The how-to pages and docs/testing.md run besides,
see test_docs_howto.py and tests/testing; so do the README's first lines, see tests/packaging."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
RUN = {"howto", "testing.md"}  # by their own tests, all of it

# What a page takes as given: the reader's own.
GIVEN = {
    "README.md": "Order order session_id GracefulConsumer Room INSTALLED_APPS",
    "quickstart.md": (
        "Line Orders order session_id HttpResponse JsonResponse GracefulConsumer include path"
        " ProtocolTypeRouter URLRouter AuthMiddlewareStack get_asgi_application"
    ),
    "deploy.md": "get_asgi_application path URLRouter ProtocolTypeRouter",
    "dashboard.md": (
        "get_asgi_application path URLRouter ProtocolTypeRouter AuthMiddlewareStack Orders"
    ),
    "soak.md": "path EchoConsumer",
}
FEWER_CHECKS = """
[mypy]
check_untyped_defs = true
ignore_missing_imports = true
follow_imports = silent
disable_error_code = import-untyped, override, union-attr
"""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, text[: found.start()].count("\n") + 2, found[1], textwrap.dedent(found[2]))
        for page in PAGES
        for text in [page.read_text()]
        for found in re.finditer(r"^ *```(\w+)\n(.*?)^ *```", text, flags=re.M | re.S)
        if found[1] in languages
    ]


def as_module(block: Block) -> str:
    """The block with what its page takes as given, on the line where it stands there."""
    given = GIVEN.get(block.page.name, "").split()
    tree = compile(block.code, block.where, "exec", ast.PyCF_ONLY_AST | 0x2000)  # await anywhere
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    own |= {alias.asname or alias.name for node in tree.body for alias in imported(node)}
    awaits = any(isinstance(node, ast.AsyncWith | ast.AsyncFor) for node in tree.body) or any(
        isinstance(part, ast.Await)
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for part in ast.walk(node)
    )
    lines = ["from typing import Any as _Any"]
    lines += [f"{name}: _Any" for name in given if name not in own]
    code = block.code
    if awaits:
        lines.append("async def _run() -> None:")
        code = textwrap.indent(code, "    ")
    head = "; ".join(lines[: len(lines) - awaits])
    if awaits:
        return f"{head}\n{lines[-1]}\n{code}"
    return f"{head}\n\n{code}"


def imported(node: ast.stmt) -> list[ast.alias]:
    return node.names if isinstance(node, ast.Import | ast.ImportFrom) else []


def test_python_is_right_by_its_types(tmp_path: Path) -> None:
    found = [block for block in blocks("python") if not RUN & set(block.page.parts)]
    modules = {}
    for number, block in enumerate(found):
        path = tmp_path / f"block_{number}.py"
        path.write_text(as_module(block))
        modules[path.name] = block
    (tmp_path / "mypy.ini").write_text(FEWER_CHECKS)
    command = [sys.executable, "-m", "mypy", "--config-file", str(tmp_path / "mypy.ini")]
    command += ["--cache-dir", str(tmp_path / "cache"), "--explicit-package-bases"]
    done = subprocess.run(
        [*command, *(str(tmp_path / name) for name in modules)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = re.sub(
        r"\S*(block_\d+\.py):(\d+)",
        lambda match: f"{modules[match[1]].where} + {int(match[2]) - 3}",
        done.stdout,
    )
    assert done.returncode == 0, said + done.stderr
    assert len(found) > 15


@pytest.mark.parametrize("block", blocks("js"), ids=lambda block: block.where)
def test_javascript_can_be_read(block: Block, node_installed: None, tmp_path: Path) -> None:
    path = tmp_path / "block.mjs"
    path.write_text(block.code)
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


# --- commands -------------------------------------------------------------------------------------

OURS = ("python manage.py", "python -m graceful_ws.client", "python -m tests.benchmarks")
OURS += ("python -m project.screenshots",)


def commands() -> list[tuple[str, str]]:
    """Each command of ours in a shell block, with where it stands."""
    found = []
    for block in blocks("sh", "console", "bash"):
        text = re.sub(r"\\\n", " ", block.code)
        for line in text.splitlines():
            for part in re.split(r"&&|\|", line.partition("  #")[0]):
                command = re.sub(r"^\$ ", "", part.strip())
                if command.startswith(OURS):
                    found.append((block.where, command))
    return found


@cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda value: value[:60])
def test_command_has_these_options(where: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    program = words[:2] if words[0] in ("manage.py", "-m") else words[:1]
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    text = help_of(*program)
    assert [option for option in options if option not in text] == []
