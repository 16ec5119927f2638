"""Installing adapters: only where there is a server, and never at the cost of a start."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from graceful_ws import servers
from tests.support.processes import ROOT


async def drain() -> None:
    pass


def hurry() -> None:
    pass


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process where nothing is installed and no server has been imported."""
    monkeypatch.setattr(servers, "installed", {})
    monkeypatch.setattr(servers, "missing", {})
    for module in servers.ADAPTERS.values():
        monkeypatch.delitem(sys.modules, module, raising=False)
    return monkeypatch


def adaptable_server(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """The server's class, as it is without an adapter until the test is over."""
    module = pytest.importorskip(servers.ADAPTERS[name])
    for attribute in ("kill_all_applications", "create_application", "shutdown", "startup"):
        if hasattr(module.Server, attribute):
            method = getattr(module.Server, attribute)
            monkeypatch.setattr(module.Server, attribute, inspect.unwrap(method))
    if name == "daphne":
        from daphne import ws_protocol

        monkeypatch.setattr(ws_protocol.WebSocketFactory, "protocol", ws_protocol.WebSocketProtocol)
    monkeypatch.setattr(servers, "installed", dict.fromkeys(servers.ADAPTERS.keys() - {name}, ""))
    monkeypatch.setattr(servers, "missing", {})
    return module.Server


def test_a_server_that_was_not_imported_is_neither_adapted_nor_imported() -> None:
    code = (
        "import sys; from graceful_ws import servers; servers.install(None, None);"
        "assert not servers.installed and not servers.missing, servers.installed;"
        "assert not {'daphne', 'uvicorn', 'twisted', 'django'} & set(sys.modules);"
        "print(servers.current())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("unknown\n", "")


@pytest.mark.parametrize(
    ("name", "attribute"), [("daphne", "kill_all_applications"), ("uvicorn", "shutdown")]
)
def test_installing_twice_wraps_once(
    monkeypatch: pytest.MonkeyPatch, name: str, attribute: str
) -> None:
    server = adaptable_server(monkeypatch, name)
    original = getattr(server, attribute)
    servers.install(drain, hurry)
    wrapped = getattr(server, attribute)
    assert wrapped is not original
    servers.install(drain, hurry)
    assert getattr(server, attribute) is wrapped
    assert servers.missing == {}


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("daphne", "kill_all_applications"), ("uvicorn", "shutdown"), ("uvicorn", "startup")],
)
def test_an_attribute_that_is_gone_is_reported_and_the_rest_installed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    attribute: str,
) -> None:
    monkeypatch.delattr(adaptable_server(monkeypatch, name), attribute)
    with caplog.at_level(logging.WARNING, "graceful_ws.servers"):
        servers.install(drain, hurry)
    assert name in servers.installed
    assert list(servers.missing) == [f"{name}.server.Server.{attribute}"]
    assert f"{name}.server.Server.{attribute} is not as expected" in caplog.text


def test_an_adapter_that_breaks_does_not_keep_the_site_from_starting(
    fresh: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fresh.setitem(servers.ADAPTERS, "absent", "absent.server")
    fresh.setitem(sys.modules, "absent.server", SimpleNamespace())
    servers.install(drain, hurry)
    assert "absent" not in servers.installed
    assert "absent" in servers.missing
    assert "adapter for absent could not be installed" in caplog.text


@pytest.mark.parametrize(
    ("imported", "name"),
    [
        ({}, "unknown"),
        ({"daphne.server": SimpleNamespace()}, "unknown"),  # every process of a Daphne site
        ({"daphne.server": SimpleNamespace(), "uvicorn.server": SimpleNamespace()}, "uvicorn"),
        ({"hypercorn.asyncio.run": SimpleNamespace()}, "hypercorn"),
        ({"granian.server": SimpleNamespace()}, "granian"),
        (
            {
                "daphne.server": SimpleNamespace(),
                "twisted.internet.reactor": SimpleNamespace(running=True),
            },
            "daphne",
        ),
    ],
)
def test_current_names_the_server_that_runs(
    fresh: pytest.MonkeyPatch, imported: dict[str, object], name: str
) -> None:
    for module, value in imported.items():
        fresh.setitem(sys.modules, module, value)
    assert servers.current() == name


def test_without_an_extension_of_the_server_there_is_no_dropper() -> None:
    async def send(message: object) -> None:
        pass

    assert servers.dropper({"type": "websocket"}, send) is None
    assert servers.dropper({"type": "websocket", "extensions": {}}, send) is None
