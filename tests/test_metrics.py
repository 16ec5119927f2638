"""What Prometheus is told, who may ask, and that the figures are those of the clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from graceful_ws import metrics, views
from tests.support.raw import Raw, again
from tests.support.servers import ServerProcess
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

ROOT = Path(__file__).parents[1]
TOKEN = "a bearer token of some length"
WITHIN = 15.0
SETTINGS = {"metrics_token": TOKEN, "beat_interval": 0.5, "heartbeat_interval": 0.3}
SETTINGS |= {"heartbeat_timeout": 0.3}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: ServerProcess) -> Samples:
    request = urllib.request.Request(server.url("/graceful/metrics/"))
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=WITHIN) as answer:
        return parse(answer.read().decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"graceful_ws_{name}", tuple(sorted(labels.items()))), 0.0)


# --- who may ask ----------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("Bearer another", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
def test_the_bearer_token_opens_the_metrics(
    header: str | None, status: int, client: Client
) -> None:
    headers = {} if header is None else {"authorization": header}
    with override_settings(GRACEFUL_WS={"metrics_token": TOKEN, "store_in_django_thread": True}):
        response = client.get("/graceful/metrics/", headers=headers)
    assert response.status_code == status
    assert ("WWW-Authenticate" in response) is (status == 401)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("staff", "active", "status"), [(True, True, 200), (False, True, 401), (True, False, 401)]
)
def test_staff_may_read_the_metrics(staff: bool, active: bool, status: int, client: Client) -> None:
    user = User.objects.create_user("somebody", password="x", is_staff=staff)
    client.force_login(user)
    User.objects.update(is_active=active)
    with override_settings(GRACEFUL_WS={"store_in_django_thread": True}):
        assert client.get("/graceful/metrics/").status_code == status


@pytest.mark.django_db
def test_without_a_token_setting_no_bearer_opens_them(client: Client) -> None:
    for given in ("", "x"):
        headers = {"authorization": f"Bearer {given}"}
        assert client.get("/graceful/metrics/", headers=headers).status_code == 401


def test_without_the_extra_the_answer_says_what_to_install(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "find_spec", lambda name: None)
    with override_settings(GRACEFUL_WS={"metrics_token": TOKEN}):
        response = client.get("/graceful/metrics/", headers={"authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 501
    assert b"pip install" in response.content


def test_a_scrape_needs_no_database_with_the_token(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ``django_db``: whoever touches it fails the test."""
    monkeypatch.setattr(metrics.totals, "_ask", _away)
    metrics.totals.forget()
    with override_settings(GRACEFUL_WS={"metrics_token": TOKEN}):
        response = client.get("/graceful/metrics/", headers={"authorization": f"Bearer {TOKEN}"})
    metrics.totals.forget()
    samples = parse(response.content.decode())
    assert samples["graceful_ws_database_up", ()] == 0.0
    assert not any(name.startswith("graceful_ws_sessions") for name, _ in samples)


def _away() -> None:
    raise OSError("the database is away")


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
async def test_figures_are_those_that_the_clients_have_seen(
    server: str, make_site: MakeSite
) -> None:
    site = make_site(server=server, settings=SETTINGS, env={"GRACEFUL_TEST_LEDGER": "/nowhere"})
    [node] = site.nodes
    async with Raw(node.ws("/echo/")) as raw, Raw(node.ws("/echo/"), plain=True) as plain:
        await raw.hello()
        for number in range(1, 6):
            await raw.send({"type": "message", "seq": number, "data": {"number": number}})
        await raw.expect("ack", seq=5)
        await raw.got(5)
        await raw.send({"type": "message", "seq": 5, "data": {"number": 5}})
        await plain.ws.send(json.dumps({"plain": True}))
        await plain.expect("message")
        await raw.expect("ping")

        def said() -> Samples:
            return scrape(node)

        found = await asyncio.to_thread(said)
        assert value(found, "messages_received_total") == 7
        assert value(found, "messages_duplicated_total") == 1
        assert value(found, "messages_sent_total") == 6
        assert value(found, "connections", state="connected") == 2
        assert value(found, "unacked_messages") == 5
        assert value(found, "hellos_total", result="new", cause="") == 2
        assert value(found, "breaker_open", breaker="journal") == 0
        assert value(found, "journal_commit_seconds_count") >= 1
        assert value(found, "journal_batch_entries_sum") >= 6
        assert value(found, "sessions", state="attached") == 2
        assert value(found, "session_messages_unacked") == 5
        assert value(found, "database_up") == 1
        for _ in range(2):
            await raw.expect("ping")
        found = await asyncio.to_thread(said)
        assert value(found, "ping_rtt_seconds_count") >= 1

        raw.ws.transport.abort()
        async with again(raw) as later:
            await later.hello(last_seq_id=2)
            await later.got(5)
            found = await asyncio.to_thread(said)
            assert value(found, "hellos_total", result="resumed", cause="lost") == 1
            assert value(found, "messages_replayed_total") == 3
            assert value(found, "messages_sent_total") == 9
            await later.bye()
    await eventually(
        lambda: value(scrape(node), "connections", state="connected") == 0, WITHIN, "they are gone"
    )
    found = await asyncio.to_thread(said)
    assert value(found, "closes_total", code="1000") == 1
    lost = sum(value(found, "closes_total", code=code) for code in ("1005", "1006"))
    assert lost == 2  # as the server calls it
    assert value(found, "exits_total", cause="bye") == 1


async def test_a_peer_cannot_make_labels_without_end(make_site: MakeSite) -> None:
    site = make_site(settings=SETTINGS)
    [node] = site.nodes
    for code in (3001, 3002, 3003, 4642, 4643):
        async with Raw(node.ws("/echo/"), plain=True) as raw:
            await raw.ws.close(code)

    def codes() -> dict[str, float]:
        return {
            dict(labels)["code"]: counted
            for (name, labels), counted in scrape(node).items()
            if name == "graceful_ws_closes_total"
        }

    await eventually(lambda: sum(codes().values()) == 5, WITHIN, "they are counted")
    assert codes() == {"3000": 3.0, "4600": 2.0}


async def test_all_workers_of_a_host_answer_together(make_site: MakeSite, tmp_path: Path) -> None:
    """Whichever worker is asked; one that was killed has no connections any more."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    site = make_site(
        server="uvicorn",
        settings=SETTINGS,
        arguments=["--workers", "2"],
        env={"PROMETHEUS_MULTIPROC_DIR": str(directory)},
    )
    [node] = site.nodes
    raws = [Raw(node.ws("/echo/")) for _ in range(12)]
    try:
        for raw in raws:
            await raw.__aenter__()
            await raw.hello()
            await raw.send({"type": "message", "seq": 1, "data": {}})
            await raw.expect("ack", seq=1)

        def total(name: str, **labels: str) -> float:
            return value(scrape(node), name, **labels)

        await _reaches(lambda: total("messages_received_total") == 12)
        await _reaches(lambda: total("connections", state="connected") == 12)

        def there() -> dict[int, int]:
            rows = site.sql("SELECT pid, connections FROM graceful_ws_node WHERE state = 'up'")
            return {int(pid): int(count) for pid, count in rows}

        await _reaches(lambda: sum(there().values()) == 12)
        victim, lost = next((pid, count) for pid, count in there().items() if count)
        os.kill(victim, signal.SIGKILL)
        await _reaches(lambda: total("connections", state="connected") == 12 - lost)
        assert total("messages_received_total") == 12  # what it has counted stays
    finally:
        for raw in raws:
            await raw.__aexit__()


async def _reaches(condition: object) -> None:
    async def there() -> bool:
        try:
            return bool(await asyncio.to_thread(condition))  # type: ignore[arg-type]
        except (urllib.error.URLError, ConnectionError):
            return False  # the worker that was asked has just died

    async with asyncio.timeout(WITHIN):
        while not await there():  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.1)


# --- what is written about them -------------------------------------------------------------------


def exported() -> Mapping[str, str]:
    """Every metric of ours: name to type, as a scrape calls it."""
    families = [*REGISTRY.collect(), *metrics._Database().collect()]
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in families
        if family.name.startswith("graceful_ws_")
    }


@pytest.mark.django_db
def test_page_of_metrics_lists_each_with_its_type() -> None:
    rows = re.findall(
        r"^\| `(graceful_ws_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M
    )
    with override_settings(GRACEFUL_WS={"store_in_django_thread": True}):
        assert dict(rows) == exported()


@pytest.mark.django_db
def test_grafana_dashboard_asks_for_metrics_that_exist() -> None:
    board = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = {target["expr"] for panel in board["panels"] for target in panel.get("targets", ())}
    names = {name for expr in asked for name in re.findall(r"graceful_ws_\w+", expr)}
    with override_settings(GRACEFUL_WS={"store_in_django_thread": True}):
        known = exported()
    histograms = {name for name, kind in known.items() if kind == "histogram"}
    known_names = {
        *known,
        *(f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")),
    }
    assert len(names) >= 15
    assert names <= known_names
