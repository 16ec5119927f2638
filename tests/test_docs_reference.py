"""The reference page has every name that applications use, and examples work."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from graceful_ws import publishing
from graceful_ws.base import Graceful
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.following import Follower
from graceful_ws.models import AuditEntry, Node, Session
from graceful_ws.node.limits import LIMITS
from tests.test_docs import DOCS, ROOT, tables

REFERENCE = (ROOT / "docs/reference.md").read_text()

CHANNELS_OWN = {"decode_json", "websocket_connect"}


def public_names(*classes: type) -> set[str]:
    return {name for each in classes for name in vars(each) if not name.startswith("_")}


def written_names(*headings: str) -> dict[str, str]:
    """Name to signature, as the first cells of tables have them."""
    cells = [row[0] for heading in headings for row in tables(REFERENCE)[heading]]
    codes = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    return {code.partition("(")[0]: code for code in codes}


def parameters(signature: str) -> list[str]:
    inside = signature.partition("(")[2].rstrip(")")
    return [name for name in inside.split(", ") if name and name != "*"]


def test_reference_page_has_every_name_of_the_consumer() -> None:
    names = public_names(GracefulConsumer, Graceful, Follower) - CHANNELS_OWN - set(LIMITS)
    assert written_names("To set or to override", "To call").keys() == names


def test_reference_page_has_every_public_name_of_publishing() -> None:
    assert written_names("`graceful_ws.publishing`").keys() == set(publishing.__all__)


def test_reference_page_has_the_parameters_of_what_is_called() -> None:
    written = written_names("To set or to override", "To call")
    found = {name: getattr(GracefulConsumer, name) for name in written}
    written |= (other := written_names("`graceful_ws.publishing`"))
    found |= {name: getattr(publishing, name) for name in other}
    for name, value in found.items():
        if inspect.isfunction(value):
            names = [one for one in inspect.signature(value).parameters if one != "self"]
            assert parameters(written[name]) == names, name


def test_reference_page_has_every_command() -> None:
    commands = (ROOT / "graceful_ws/management/commands").glob("[!_]*.py")
    written = {row[0].strip("`").split()[-1] for row in tables(REFERENCE)["Commands"]}
    assert written == {path.stem for path in commands}


def test_reference_page_has_every_permission_of_the_admin() -> None:
    added = {name for model in (Session, Node, AuditEntry) for name, _ in model._meta.permissions}
    written = {row[0].strip("`").partition(".")[2] for row in tables(REFERENCE)["Admin"]}
    assert written == added | {"view_streammessage"}


# Examples and links


def python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{path.name}:{text[: found.start()].count(chr(10)) + 1}", found[1])
        for path in [*DOCS, ROOT / "README.md"]
        for text in [path.read_text()]
        for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    ]


@pytest.mark.parametrize(("where", "code"), python_blocks(), ids=lambda value: value[:24])
def test_python_example_parses_and_imports_what_there_is(where: str, code: str) -> None:
    tree = compile(code, where, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graceful_ws"):
            module = importlib.import_module(str(node.module))
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []


@pytest.mark.parametrize("path", [*DOCS, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [f"docs/{path.name}" for path in DOCS]
    pages += [f"docs/howto/{path.name}" for path in ROOT.glob("docs/howto/*.md")]
    assert [page for page in pages if f"{page})" not in readme] == []
