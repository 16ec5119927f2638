"""The files of docs/deploy: what they say fits what a drain takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse

from graceful_ws.conf import Defaults
from graceful_ws.validation import settings_problems
from graceful_ws.views import database_probe
from tests.support.proxies import FILES, settings_said

DEPLOY = Path(__file__).parents[1] / "docs/deploy"
UNIT = DEPLOY / "graceful-ws@.service"
KUBERNETES = DEPLOY / "kubernetes.yaml"
DEFAULTS = Defaults()
AFTER_THE_DRAIN = 3.0  # seconds, at least, for the server's own end


def parse(text: str) -> list[dict[str, Any]]:
    """The documents of a YAML file that has nothing but mappings, lists, words, numbers, and lists
    in JSON."""
    documents: list[dict[str, Any]] = []
    for part in re.split(r"^---\n", text, flags=re.M):
        lines = [line for line in part.splitlines() if line.strip() and line.strip()[0] != "#"]
        value, rest = _block(lines, 0)
        assert isinstance(value, dict)
        assert not rest
        documents.append(value)
    return documents


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    found: Any = [] if lines[0].lstrip().startswith("- ") else {}
    while lines and _indent(lines[0]) == indent:
        if isinstance(found, list):
            assert lines[0].lstrip().startswith("- "), lines[0]
            lines = [" " * (indent + 2) + lines[0].lstrip()[2:], *lines[1:]]
            item, lines = _block(lines, indent + 2)
            found.append(item)
            continue
        match = re.fullmatch(r"([\w.-]+):(?: (.+))?", lines[0].strip())
        assert match is not None, lines[0]
        assert match[1] not in found, f"twice: {lines[0]}"
        lines = lines[1:]
        if match[2] is None:
            found[match[1]], lines = _block(lines, _indent(lines[0]))
        else:
            found[match[1]] = _scalar(match[2])
    assert not lines or _indent(lines[0]) < indent, lines[0]
    return found, lines


def _scalar(text: str) -> Any:
    return json.loads(text) if text[0] == "[" or text.isdigit() else text


def unit() -> dict[str, str]:
    lines = UNIT.read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and line[0] not in "#["]
    return {key: value for key, _, value in pairs}


def directive(name: str, file: str) -> float:
    """The seconds of a directive of a proxy's file."""
    found = re.search(rf"^ *{name} (\d+)s;?$", (DEPLOY / file).read_text(), re.M)
    assert found is not None, name
    return float(found[1])


@pytest.mark.parametrize("path", [*FILES.values(), UNIT, KUBERNETES], ids=lambda path: path.name)
def test_settings_in_a_file_make_sense_and_leave_time_for_a_drain(path: Path) -> None:
    said = settings_said(path)
    assert settings_problems(said) == []
    observe = said.get("drain_observe", DEFAULTS.drain_observe)
    assert observe + DEFAULTS.drain_window + AFTER_THE_DRAIN <= DEFAULTS.drain_deadline


def test_proxies_wait_longer_than_nodes_do() -> None:
    nginx, haproxy = (settings_said(path)["proxy_timeout"] for path in FILES.values())
    assert nginx == directive("proxy_read_timeout", "nginx.conf")
    assert haproxy == directive("timeout tunnel", "haproxy.cfg")
    assert min(nginx, haproxy) > 2 * (DEFAULTS.heartbeat_interval + DEFAULTS.heartbeat_timeout)
    assert directive("send_timeout", "nginx.conf") > DEFAULTS.progress_timeout
    assert directive("timeout client-fin", "haproxy.cfg") > DEFAULTS.closing_timeout


def test_haproxy_has_looked_away_when_clients_are_sent_away() -> None:
    check = re.search(r"inter (\d+)s fall (\d+)", FILES["haproxy"].read_text())
    assert check is not None
    assert settings_said(FILES["haproxy"])["drain_observe"] > int(check[1]) * int(check[2])


def test_systemd_waits_for_the_drain() -> None:
    service = unit()
    stop = float(service["TimeoutStopSec"])
    assert stop == settings_said(UNIT)["termination_grace"]
    assert stop >= DEFAULTS.drain_observe + DEFAULTS.drain_deadline + AFTER_THE_DRAIN
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    assert service["ExecStartPost"].endswith(reverse("graceful_ws:ready"))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    text = UNIT.read_text().replace("/srv/mysite/venv/bin/daphne", sys.executable)
    text = text.replace("/usr/bin/curl", sys.executable).replace("User=mysite", "User=root")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "graceful-ws@8001.service")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr  # what it does not know it only warns of


def test_kubernetes_waits_for_the_drain_and_asks_the_right_views() -> None:
    deployment, service, budget = parse(KUBERNETES.read_text())
    kinds = [document["kind"] for document in (deployment, service, budget)]
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace = pod["terminationGracePeriodSeconds"]
    assert grace == settings_said(KUBERNETES)["termination_grace"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = DEFAULTS.drain_observe + DEFAULTS.drain_deadline
    assert grace >= pause + drain + AFTER_THE_DRAIN
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    live = reverse("graceful_ws:live")
    assert paths == {"startup": live, "readiness": reverse("graceful_ws:ready"), "liveness": live}
    assert probes["readiness"]["timeoutSeconds"] > database_probe._within


def test_kubernetes_objects_find_each_other() -> None:
    deployment, service, budget = parse(KUBERNETES.read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert f"port={port['containerPort']}:" in " ".join(container["command"])
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert budget["spec"]["maxUnavailable"] < deployment["spec"]["replicas"]
