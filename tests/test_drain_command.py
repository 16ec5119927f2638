"""``manage.py drain_connections``: what it refuses, what it asks, and what comes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from websockets.asyncio.client import connect

from graceful_ws.envelopes import NODES, node_envelope
from graceful_ws.management.commands import drain_connections
from graceful_ws.models import AuditEntry, Node
from tests.support.databases import Database
from tests.support.processes import ROOT
from tests.support.redis import RedisServer
from tests.support.servers import Site


def make_node(name: str, **values: Any) -> Node:
    now = timezone.now()
    given = {"host": socket.gethostname(), "pid": 1, "server": "daphne", "version": "1", **values}
    return Node.objects.create(name=name, **{"started_at": now, "beat_at": now, **given})


def drain(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command("drain_connections", *arguments, stdout=out, **options)
    return out.getvalue()


def refusal(*arguments: str, **options: Any) -> str:
    with pytest.raises(CommandError) as error:
        drain(*arguments, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


# What it refuses, in one line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--node a --all", "--all is every node: leave out either --node or --all."),
        ("--rate abc", "--rate has to be a number above 0, not 'abc'."),
        ("--rate 0", "--rate has to be a number above 0, not '0'."),
        ("--rate nan", "--rate has to be a number above 0, not 'nan'."),
        ("--rate inf", "--rate has to be a number above 0, not 'inf'."),
        ("--window=-1", "--window has to be a number from 0 on, not '-1'."),
        ("--timeout 0", "--timeout has to be a number above 0, not '0'."),
        ("--undo --rate 5", "--rate is for a drain: leave it out with --undo."),
        (
            "--window 30",
            "--window (30 s) would end after the deadline (25 s): ask for --timeout 33 or more,"
            " or a shorter --window.",
        ),
    ],
)
def test_options_that_make_no_sense(arguments: str, text: str) -> None:
    assert refusal(*arguments.split()) == text


def test_numbers_from_python_are_checked_too() -> None:
    assert refusal(rate=-5) == "--rate has to be a number above 0, not -5."
    assert refusal(rate=True) == "--rate has to be a number above 0, not True."


def test_a_setting_that_is_no_number(settings: Any) -> None:
    settings.GRACEFUL_WS = {"drain_rate": "fast"}
    assert refusal() == "the setting behind --rate has to be a number above 0, not 'fast'."


def test_observing_counts_against_the_deadline(settings: Any) -> None:
    settings.GRACEFUL_WS = {"drain_observe": 20}
    assert "--window (8 s) and drain_observe (20 s) would end after" in refusal("--window", "8")


@pytest.mark.sqlite_only
def test_before_the_first_migration(database: Database) -> None:
    database.sql("DROP TABLE graceful_ws_node")
    assert refusal() == "The tables are not there yet: run 'manage.py migrate' first."


def test_after_an_upgrade_without_its_migration(database: Database) -> None:
    database.sql("ALTER TABLE graceful_ws_node RENAME COLUMN drain_progress TO progress")
    assert re.fullmatch(
        r"The tables are of another version \(.*\): run 'manage.py migrate' first.", refusal()
    )


@pytest.mark.sqlite_only
def test_no_node_is_live(database: Database) -> None:
    make_node("web-1", state="dead")
    assert refusal().startswith("No node is live: a server becomes one at its first WebSocket;")


@pytest.mark.sqlite_only
def test_no_node_of_this_host(database: Database) -> None:
    make_node("web-2", host="elsewhere")
    make_node("web-1", host="elsewhere")
    assert refusal() == (
        f"No live node on this host ({socket.gethostname()}); elsewhere: web-1, web-2."
        " Use --node NAME or --all."
    )


@pytest.mark.sqlite_only
def test_unknown_node_names_the_nearest_and_the_known(database: Database) -> None:
    make_node("web-1")
    make_node("db-9", host="elsewhere")
    assert refusal("--node", "wev-1") == (
        "There is no node 'wev-1', did you mean 'web-1'? Live nodes: db-9, web-1."
    )
    assert refusal("--node", "xyzzy") == "There is no node 'xyzzy'. Live nodes: db-9, web-1."


@pytest.mark.sqlite_only
def test_node_that_is_gone(database: Database) -> None:
    make_node("web-1", state="stopped", beat_at=timezone.now() - timedelta(hours=2))
    text = refusal("--node", "web-1").replace("\xa0", " ")
    assert text == ("The node 'web-1' is stopped; its last beat was 2 hours ago. No node is live.")


# What it asks


def requests() -> dict[str, str]:
    return dict(Node.objects.values_list("name", "requested_state"))


def test_without_options_every_live_node_of_this_host(database: Database) -> None:
    make_node("here-1")
    make_node("here-2")
    make_node("elsewhere", host="elsewhere")
    make_node("gone", state="dead")
    assert drain("--no-wait") == "Asked: here-1, here-2.\n"
    asked = {"here-1": "draining", "here-2": "draining", "elsewhere": "", "gone": ""}
    assert requests() == asked


@pytest.mark.sqlite_only
def test_one_node_or_all_of_them(database: Database) -> None:
    make_node("web-1")
    make_node("web-2", host="elsewhere")
    drain("--node", "web-2", "--no-wait")
    assert requests() == {"web-1": "", "web-2": "draining"}
    drain("--all", "--no-wait")
    assert requests() == {"web-1": "draining", "web-2": "draining"}


def test_the_request_and_the_audit_trail_say_what_was_asked(database: Database) -> None:
    node = make_node("web-1")
    drain("--window=3", "--rate=50", "--timeout=9", "--no-wait", "--reason=new\nkernel")
    node.refresh_from_db()
    options = json.loads(node.drain_options)
    actor = options.pop("actor")
    assert options == {"window": 3, "rate": 50, "deadline": 9, "reason": "new kernel"}
    assert actor.endswith(f"@{socket.gethostname()}")
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.node, entry.reason) == ("drain_node", "web-1", "new kernel")
    assert entry.actor == actor


@pytest.mark.sqlite_only
def test_a_short_deadline_shortens_the_usual_window(database: Database) -> None:
    node = make_node("web-1")
    drain("--timeout", "5", "--no-wait")
    node.refresh_from_db()
    assert json.loads(node.drain_options)["window"] == 2


@pytest.mark.sqlite_only
def test_a_drain_under_way_keeps_its_options(database: Database) -> None:
    node = make_node("web-1", state="draining", drain_options="first")
    assert drain("--no-wait").startswith("Nothing to ask")
    node.refresh_from_db()
    assert node.drain_options == "first"
    assert not AuditEntry.objects.exists()


@pytest.mark.sqlite_only
def test_undo_withdraws_what_was_not_seen_and_asks_the_others(database: Database) -> None:
    make_node("unseen", requested_state="draining")
    make_node("drained", state="drained", requested_state="draining")
    make_node("untouched")
    assert drain("--undo", "--no-wait") == "Asked: drained, unseen.\n"
    assert requests() == {"unseen": "", "drained": "up", "untouched": ""}
    events = AuditEntry.objects.values_list("event", "node")
    assert set(events) == {("undo_drain", "unseen"), ("undo_drain", "drained")}


@pytest.mark.sqlite_only
def test_undo_leaves_a_process_alone_that_was_told_to_stop(database: Database) -> None:
    make_node("web-1", state="draining")
    assert refusal("--undo").endswith("web-1 was told to stop: start it again.")
    assert requests() == {"web-1": ""}
    assert not AuditEntry.objects.exists()


@pytest.mark.sqlite_only
def test_no_wait_in_json(database: Database) -> None:
    make_node("web-1")
    answer = json.loads(drain("--no-wait", "--json"))
    assert (answer["action"], answer["waited"], answer["done"]) == ("drain", False, False)


# A node that nobody hears of


@pytest.mark.sqlite_only
def test_a_node_whose_beat_stands_still_did_not_answer(database: Database, settings: Any) -> None:
    settings.GRACEFUL_WS = {"dead_after": 0.3, "beat_interval": 0.1}
    make_node("web-1")
    text = refusal()
    assert text.startswith("Not all drained after ")
    assert "web-1 did not answer. Does its process still run" in text


@pytest.mark.sqlite_only
def test_a_node_that_was_dead_all_along_is_no_failure(database: Database) -> None:
    node = make_node("web-1", state="draining")
    Node.objects.filter(pk=node.pk).update(state="stopped", drain_progress='{"total": 7}')
    make_node("web-2", state="drained")
    assert "web-2 drained" in drain()


# Nodes are told at once


@pytest.mark.sqlite_only
def test_whoever_was_asked_is_told_to_look_and_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(drain_connections, "nudge", lambda *said: told.append(said))
    make_node("web-1")
    drain("--no-wait")
    assert told == [(NODES, node_envelope())]
    Node.objects.update(state="draining")
    drain("--no-wait")
    assert len(told) == 1
    drain("--no-wait", "--undo")
    assert len(told) == 2


@pytest.mark.sqlite_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("name", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
def test_a_redis_that_is_away_costs_a_second_at_most(
    database: Database, redis_server: RedisServer, settings: Any, name: str, number: signal.Signals
) -> None:
    hosts = [{"address": redis_server.url, "socket_timeout": 20}]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": f"channels_redis.{name}", "CONFIG": {"hosts": hosts}}
    }
    make_node("web-1")
    redis_server.kill() if number == signal.SIGKILL else redis_server.signal(number)
    started = time.monotonic()
    assert drain("--no-wait") == "Asked: web-1.\n"
    assert time.monotonic() - started < 10  # not the 20 s of the socket


async def test_a_node_that_is_told_drains_long_before_its_next_beat(
    make_site: Callable[..., Site], redis_url: str
) -> None:
    site = make_site(
        redis_url=redis_url,
        settings={"beat_interval": 60, "dead_after": 200, "drain_window": 0.1},
    )
    async with connect(site.ws("/echo/")):
        started = time.monotonic()
        await site.adjango("drain_connections", "--window", "0.1", "--timeout", "8")
        await site.adjango("drain_connections", "--undo", "--timeout", "8")
        assert time.monotonic() - started < 20


# Help


def test_help_teaches_with_examples() -> None:
    def lines() -> Iterator[str]:
        argv = [sys.executable, "-m", "django", "drain_connections", "--help"]
        env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        yield from subprocess.run(
            argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        ).stdout.splitlines()

    text = list(lines())
    assert "examples:" in text
    examples = [line.split("  ")[1].strip() for line in text if line.startswith("  manage.py")]
    assert len(examples) >= 5
    assert all(example.startswith("manage.py drain_connections") for example in examples)
