"""System checks of the platform, the proxy, and of what is about to be deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from graceful_ws import checks_deploy
from graceful_ws.consumers import GracefulConsumer
from graceful_ws.store import nodes
from tests.support.databases import Database

ROOT = Path(__file__).parents[1]
MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


def found(*, deploy: bool = False, **given: Any) -> dict[str, str]:
    """Our messages by id, with their texts and hints."""
    with override_settings(GRACEFUL_WS=given):
        messages = run_checks(tags=["graceful_ws"], include_deployment_checks=deploy)
    return {
        (one.id or "").removeprefix("graceful_ws."): f"{one.msg} {one.hint}"
        for one in messages
        if one.obj is None
    }


# --- the platform and the proxy -------------------------------------------------------------------


@pytest.mark.parametrize(("grace", "fits"), [(0, True), (29, True), (28.9, False), (10, False)])
def test_a_drain_has_to_fit_into_the_grace_of_the_platform(grace: float, fits: bool) -> None:
    messages = found(termination_grace=grace)
    assert ("W007" not in messages) is fits
    if not fits:
        text = messages["W007"]
        for part in ("25 s", "drain_window 10", "handlers 12", f"is {grace:g} s", "29 s or more"):
            assert part in text


def test_a_longer_drain_needs_a_longer_grace() -> None:
    given = {"drain_observe": 20, "drain_window": 30, "drain_deadline": 60}
    assert "drain_observe 20" in found(termination_grace=60, **given)["W007"]
    assert "W007" not in found(termination_grace=64, **given)


@pytest.mark.parametrize(("timeout", "fits"), [(0, True), (5.5, True), (5, False), (3, False)])
def test_a_proxy_must_not_cut_what_was_not_pinged_yet(timeout: float, fits: bool) -> None:
    messages = found(proxy_timeout=timeout)
    assert ("W008" not in messages) is fits


def test_a_slow_heartbeat_of_one_class_is_named() -> None:
    class Sleepy(GracefulConsumer):
        heartbeat_interval = 60.0

    try:
        text = found(proxy_timeout=60)["W008"]
        assert "Sleepy.heartbeat_interval (60 s)" in text
        assert "every 30 s" in text
        assert "W008" not in found(proxy_timeout=61)
    finally:
        Sleepy.heartbeat_interval = None  # type: ignore[assignment]  # it may outlive the test


# --- metrics --------------------------------------------------------------------------------------


def test_a_token_that_can_be_guessed_is_named() -> None:
    assert "6 characters" in found(metrics_token="secret")["W009"]
    assert "W009" not in found(metrics_token="x" * 16)


def test_a_token_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "W010" not in found(metrics_token="x" * 16)
    monkeypatch.setattr(checks_deploy, "find_spec", lambda name: None)
    assert "pip install" in found(metrics_token="x" * 16)["W010"]
    assert "W010" not in found()


# --- --deploy -------------------------------------------------------------------------------------


def test_deployment_checks_run_only_when_they_are_asked_for() -> None:
    with override_settings(ALLOWED_HOSTS=["*"], CHANNEL_LAYERS=MEMORY, DEBUG=True):
        assert not {"W011", "W012", "W013", "W014"} & set(found())
        assert {"W011", "W014"} <= set(found(deploy=True))


def test_any_host_means_any_origin() -> None:
    with override_settings(ALLOWED_HOSTS=["example.com", "*"]):
        assert "allowed_origins" in found(deploy=True)["W011"]
        assert "W011" not in found(deploy=True, check_origin=False)
    with override_settings(ALLOWED_HOSTS=[".example.com"]):
        assert "W011" not in found(deploy=True)


def test_sqlite_is_named_before_it_is_deployed(database: Database) -> None:
    assert ("W012" in found(deploy=True)) is (database.vendor == "sqlite")


def test_a_grace_that_nobody_has_said_is_asked_for() -> None:
    assert "Kubernetes 30" in found(deploy=True)["W014"]
    assert "W014" not in found(deploy=True, termination_grace=40)


@pytest.mark.parametrize(
    ("processes", "warned"), [("", False), ("1", False), ("4", True), ("auto", True)]
)
def test_several_processes_do_not_share_a_layer_in_memory(
    processes: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", processes)
    with override_settings(CHANNEL_LAYERS=MEMORY):
        assert ("W013" in found(deploy=True)) is warned
    assert "W013" not in found(deploy=True)


@pytest.fixture
def two_nodes(database: Database) -> None:
    for name in ("one", "two"):
        nodes.register(nodes.Identity(name, "host", 1, "daphne", "0"))


def of_database(**options: Any) -> list[str]:
    messages = run_checks(tags=["database"], databases=["default"])
    return [str(one.msg) for one in messages if one.id == "graceful_ws.W013"]


def test_nodes_that_are_alive_do_not_share_a_layer_in_memory(two_nodes: None) -> None:
    assert of_database() == []
    with override_settings(CHANNEL_LAYERS=MEMORY):
        [text] = of_database()
        assert "2 nodes" in text
        nodes.report(nodes.statuses()[0].id, "stopped")
        assert of_database() == []


def test_nobody_asks_the_database_unless_it_is_checked(
    two_nodes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "statuses", lambda: 1 / 0)
    with override_settings(CHANNEL_LAYERS=MEMORY):
        found()


# --- the page -------------------------------------------------------------------------------------


def test_page_of_checks_lists_every_id() -> None:
    sources = [*(ROOT / "graceful_ws").glob("checks*.py"), ROOT / "graceful_ws/validation.py"]
    used = {name for path in sources for name in re.findall(r'"([EW]\d{3})"', path.read_text())}
    listed = re.findall(r"^\| ([EW]\d{3})", (ROOT / "docs/checks.md").read_text(), re.MULTILINE)
    assert listed == sorted(used)
