"""The browser client as others get it: its size, its types, and what npm would publish."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import minify
import pytest

import graceful_ws
from graceful_ws.core.breaker import BreakerState
from graceful_ws.core.client_states import ClientState
from graceful_ws.core.close_codes import Advice, CloseCode

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "graceful_ws/static/graceful_ws/graceful-ws.js"
TYPES = MODULE.with_suffix(".d.ts")

MINIFIED = 12_000  # bytes
GZIPPED = 5_850  # bytes of gzip -9


@pytest.fixture(scope="module")
def source() -> str:
    return MODULE.read_text()


@pytest.fixture(scope="module")
def types() -> str:
    return TYPES.read_text()


@pytest.fixture(scope="module")
def inside(node_installed: None) -> Any:
    """What the module has when it runs."""
    program = f"""
        import * as all from "{MODULE.as_uri()}";
        const socket = new all.GracefulSocket("ws://a/");
        console.log(JSON.stringify({{
            exports: Object.keys(all),
            defaults: all.DEFAULTS,
            members: Object.keys(Object.getOwnPropertyDescriptors(socket)),
            iterable: Symbol.asyncIterator in socket,
        }}));
    """
    done = subprocess.run(
        ["node", "--input-type=module"], input=program, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def block(types: str, head: str) -> str:
    """The lines between a declaration's first and its last."""
    found = re.search(re.escape(head) + r"[^\n]*\{\n(.*?)\n\}", types, re.DOTALL)
    assert found is not None, head
    return found[1]


def literals(types: str, name: str) -> set[str]:
    """The strings of a union."""
    found = re.search(rf"export type {name} =(.*?);", types, re.DOTALL)
    assert found is not None, name
    return set(re.findall(r'"(\w+)"', found[1]))


# --- size -----------------------------------------------------------------------------------------


def test_it_is_small(source: str) -> None:
    small = minify.string("application/javascript", source).encode()
    assert len(small) <= MINIFIED
    assert len(gzip.compress(small, 9)) <= GZIPPED


# --- types ----------------------------------------------------------------------------------------


def test_types_name_what_the_module_exports(types: str, inside: Any) -> None:
    named = re.findall(r"^export (?:class|const|function) (\w+)", types, re.MULTILINE)
    assert sorted(named) == sorted(inside["exports"])


def test_types_name_every_default_and_its_value(types: str, inside: Any) -> None:
    defaults = block(types, "interface Defaults")
    assert re.findall(r"^  readonly (\w+):", defaults, re.MULTILINE) == list(inside["defaults"])
    told = re.findall(r" (\d+) \*/\n  readonly (\w+):", defaults)
    numbers = {name: value for name, value in inside["defaults"].items() if isinstance(value, int)}
    assert {name: int(value) for value, name in told} == numbers


def test_types_name_every_property_of_a_client(types: str, inside: Any) -> None:
    members = block(types, "export class GracefulSocket")
    assert sorted(re.findall(r"^  readonly (\w+):", members, re.MULTILINE)) == sorted(
        inside["members"]
    )
    assert inside["iterable"]


def test_types_name_every_event(types: str, source: str) -> None:
    details = block(types, "interface Details")
    named = set(re.findall(r"^  (\w+):", details, re.MULTILINE))
    assert named == set(re.findall(r'emit\("(\w+)"', source))


def test_types_name_the_words_of_python(types: str) -> None:
    assert literals(types, "State") == set(ClientState)
    assert literals(types, "BreakerState") == set(BreakerState)
    assert literals(types, "Advice") == set(Advice)
    codes = re.findall(r"readonly (\w+): (\d+);", block(types, "interface CloseCodes"))
    assert {name: int(code) for name, code in codes} == {code.name: code for code in CloseCode}


# --- npm ------------------------------------------------------------------------------------------


def test_package_is_that_of_this_version() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    assert package["version"] == graceful_ws.__version__
    assert not package.keys() & {"dependencies", "devDependencies", "peerDependencies", "scripts"}
    [entry] = package["exports"].values()
    assert [ROOT / entry["default"], ROOT / entry["types"]] == [MODULE, TYPES]


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_package_holds_the_module_and_its_types_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        ["npm", "pack", "--dry-run", "--json", "--offline", "--cache", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    [package] = json.loads(done.stdout)
    assert {file["path"] for file in package["files"]} == {
        "LICENSE",
        "README.md",
        "package.json",
        str(MODULE.relative_to(ROOT)),
        str(TYPES.relative_to(ROOT)),
    }
