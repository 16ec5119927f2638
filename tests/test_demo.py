"""The demo: what it counts, what its page is made of, and what both show."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client import GracefulClient
from project.demo.check import EACH_WAY, complaints
from project.demo.tally import Tally, tally
from tests.support.demo import (
    Demo,
    both_answer,
    environment,
    need_servers,
    processes_of,
    running_demo,
)
from tests.support.processes import ChildProcess
from tests.support.waiting import eventually, eventually_sync

CHECK_WITHIN = 90.0  # seconds; twenty on an idle machine
COUNTED = ("sent", "received", "lost", "duplicated", "out_of_order", "replayed", "resumed")
RESULT = {
    **{"sent": EACH_WAY, "received": EACH_WAY, "lost": 0, "duplicated": 0, "out_of_order": 0},
    **{"uncommitted": 0, "refused": 0, "given_up": "", "replayed": 1, "resent": 1, "resumed": 1},
    "close_codes": {"1006": 1, "1012": 1},
}


# --- the count ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--redis", "--postgres"]], ids=["alone", "servers"])
def test_demo_check_loses_nothing_and_leaves_nothing(tmp_path: Path, options: list[str]) -> None:
    if options:
        need_servers()
    env = {**environment(), "TMPDIR": str(tmp_path)}
    process = ChildProcess("demo --check", tmp_path / "check.log")
    process.spawn([sys.executable, "manage.py", "demo", "--check", *options], env=env)
    try:
        status = process.wait(CHECK_WITHIN)
    finally:
        process.kill()
    result = json.loads(next(line for line in process.log().splitlines() if line[0] == "{"))
    assert complaints(result) == []
    assert list(result) == [*RESULT, "seconds"]
    assert result["seconds"] < 40 + 24 * bool(options)
    assert status == 0
    assert not list(tmp_path.glob("graceful_*"))
    assert processes_of(f"TMPDIR={tmp_path}") == []


@pytest.mark.parametrize(
    ("arrived", "due", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], Tally()),
        ([1, 2, 3, 4], [1, 2], Tally()),  # what was only tried may arrive
        ([1, 3], [1, 3], Tally()),  # a number that was never accepted is no hole
        ([1, 3], [1, 2, 3], Tally(lost=1)),
        ([], [1, 2], Tally(lost=2)),
        ([1, 2, 2, 3, 1], [1, 2, 3], Tally(duplicated=2)),
        ([1, 3, 2, 4], [1, 2, 3, 4], Tally(out_of_order=1)),
        ([2, 1, 1], [1, 2, 3], Tally(1, 1, 1)),
    ],
)
def test_numbers_that_are_missing_twice_or_late_are_counted(
    arrived: list[int], due: list[int], expected: Tally
) -> None:
    assert tally(arrived, due) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lost": 1}, "lost is 1, not 0"),
        ({"duplicated": 2}, "duplicated is 2, not 0"),
        ({"out_of_order": 1}, "out_of_order is 1, not 0"),
        ({"uncommitted": 1}, "uncommitted is 1, not 0"),
        ({"refused": 1}, "refused is 1, not 0"),
        ({"given_up": "x"}, "not all of it happened: x"),
        ({"replayed": 0}, "replayed is 0"),
        ({"resent": 0}, "resent is 0"),
        ({"resumed": 0}, "resumed is 0"),
        ({"sent": 999}, "sent is 999, less than 1000"),
        ({"received": 999}, "received is 999, less than 1000"),
        ({"close_codes": {"1006": 1}}, "no connection ended with 1012"),
        ({"close_codes": {"1012": 1}}, "no connection ended with 1006"),
    ],
)
def test_demo_check_complains_of_each_thing_that_was_not_shown(
    change: dict[str, Any], complaint: str
) -> None:
    assert complaints(RESULT) == []
    assert complaints({**RESULT, **change}) == [complaint]


# --- the site ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


def test_printed_password_opens_the_admin_and_is_stored_nowhere(demo: Demo) -> None:
    form = {"username": "admin", "password": demo.password}
    form["csrfmiddlewaretoken"] = demo.cookies["csrftoken"]
    status, headers, _ = demo.request("POST", "/admin/login/?next=/admin/", form)
    assert (status, headers["location"]) == (302, "/admin/")
    for path in demo.directory.iterdir():
        assert demo.password.encode() not in path.read_bytes(), path.name


def test_state_of_the_demo_is_in_its_own_directory(demo: Demo) -> None:
    names = {path.name for path in demo.directory.iterdir()}
    assert {"db.sqlite3", "node-1.log", "node-2.log", "clock.log"} <= names


@pytest.mark.parametrize(
    ("action", "node", "order", "status"),
    [
        ("kill", "node-3", "1", 404),
        ("kill", "clock", "1", 404),
        ("kill", "redis", "1", 404),  # this demo runs none
        ("drain", "postgres", "1", 404),
        ("stop", "node-1", "1", 404),
        ("kill", "node-1", "1 \nkill node-2 2", 404),
        ("kill", "node-1", "", 404),
    ],
)
def test_only_the_demo_nodes_can_be_hurt(
    demo: Demo, action: str, node: str, order: str, status: int
) -> None:
    assert demo.order(action, node, order) == status


def test_orders_need_a_token_of_the_page(demo: Demo) -> None:
    assert demo.order("kill", "node-1", csrf=False) == 403
    assert demo.request("GET", "/order/")[0] == 405


@pytest.mark.parametrize("action", ["kill", "drain", "cut"])
async def test_ticks_and_lines_have_no_hole_after(demo: Demo, action: str) -> None:
    ticks: list[int] = []
    lines: list[tuple[str, int]] = []
    rooms: list[int] = []

    def receive(message: Any) -> None:
        data = message.data
        if message.stream == "clock":
            ticks.append(data["tick"])
        elif message.stream == "room":
            rooms.append(message.seq)
            if data["type"] == "line":
                lines.append((data["client_id"], data["number"]))

    await eventually(lambda: asyncio.to_thread(both_answer, demo), 20.0)
    async with GracefulClient(demo.urls, on_message=receive, on_event=lambda event: None) as client:
        await eventually(lambda: len(ticks) > 3, 20.0)
        line = asyncio.create_task(client.send({"type": "line", "number": 1, "text": action}))
        if action == "cut":
            client.abort()
        else:
            order = str(time.time())
            assert await asyncio.to_thread(demo.order, action, str(client.node), order) == 202
        await eventually(lambda: client.resumes == 1, 20.0)
        await asyncio.wait_for(line, 20.0)
        seen = len(ticks)
        await eventually(lambda: lines and len(ticks) > seen + 3, 20.0)
        me = str(client.session_id)
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert rooms == list(range(rooms[0], rooms[0] + len(rooms)))
    assert [number for author, number in lines if author == me] == [1]


async def test_who_enters_learns_who_is_there_and_by_what_name(demo: Demo) -> None:
    urls = demo.urls
    async with GracefulClient(urls[:1], on_event=lambda event: None) as ada:
        await ada.send({"type": "enter", "name": "Ada"})
        counts = dict.fromkeys(COUNTED, 0) | {"received": 7}
        await ada.send({"type": "counts", "counts": counts})
        async with GracefulClient(urls[1:], on_event=lambda event: None) as grace:
            room = await grace.send({"type": "enter", "name": "Grace"})
            assert {str(ada.session_id), str(grace.session_id)} <= set(room["online"])
            assert room["visitors"][str(ada.session_id)] == {"name": "Ada", "counts": counts}
            assert room["visitors"][str(grace.session_id)]["name"] == "Grace"


async def test_room_hears_once_that_somebody_left(demo: Demo) -> None:
    heard: list[dict[str, Any]] = []

    def receive(message: Any) -> None:
        if message.stream == "room":
            heard.append(message.data)

    def exits_of(client: str) -> list[dict[str, Any]]:
        exits = [data for data in heard if data["type"] == "client_exit"]
        return [data for data in exits if data["client_id"] == client]

    async with GracefulClient(demo.urls[:1], on_message=receive, on_event=lambda event: None):
        async with GracefulClient(demo.urls[1:], on_event=lambda event: None) as other:
            gone = str(other.session_id)
        # Others leave meanwhile, from the tests before; a join that came first is an ordinary one.
        await eventually(lambda: exits_of(gone), 10.0)
    assert [data["cause"] for data in exits_of(gone)] == ["bye"]


def test_an_order_that_is_repeated_is_carried_out_once(demo: Demo) -> None:
    kills, drains = "a visitor sends SIGKILL to node-2", "a visitor sends SIGTERM to node-2"
    before = demo.said(kills), demo.said(drains)
    for action, order in (("kill", "2000"), ("kill", "2000"), ("drain", "2001")):
        assert demo.order(action, "node-2", order) == 202
    eventually_sync(lambda: demo.said(drains) == before[1] + 1, 10.0)
    assert demo.said(kills) == before[0] + 1
