"""The dashboard's consumer: who may watch, for how long, and what the answers are bounded by."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils import timezone

from graceful_ws.live import history, snapshot
from graceful_ws.live.consumer import LOOK
from graceful_ws.live.routing import route
from graceful_ws.models import Node, Sample, Session
from tests.admin.rows import make_node, make_session
from tests.admin.test_live_history import figures
from tests.browser.kit import SETTINGS
from tests.support.processes import ROOT
from tests.support.raw import again
from tests.support.servers import Site
from tests.support.visitor import Visitor

LIVE = "/ws/graceful/live/"
STREAM = "graceful_ws.live"
REFUSED = (4401, "for staff who may view nodes and sessions")


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(
        application="tests.browser.dashboard_asgi:application",
        env={"DJANGO_SETTINGS_MODULE": "tests.browser.dashboard_settings"},
        settings=SETTINGS,
    )


async def staff(site: Site, *, all_permissions: bool = True) -> Visitor:
    visitor = Visitor(site.node)
    await visitor.do("login")
    await visitor.do("staff", value=1)
    if all_permissions:
        site.sql("UPDATE auth_user SET is_superuser = 1")
    return visitor


# Who may


async def test_nobody_and_users_who_are_not_staff_are_closed_4401_behind_an_accept(
    site: Site,
) -> None:
    visitor = Visitor(site.node)
    async with visitor.socket(LIVE) as nobody:
        await nobody.hello(later=True)
        assert await nobody.closed() == REFUSED
    await visitor.do("login")
    site.sql("UPDATE auth_user SET is_superuser = 1")
    async with visitor.socket(LIVE) as user:
        await user.hello(later=True)
        assert await user.closed() == REFUSED
    assert site.sql("SELECT count(*) FROM graceful_ws_subscription") == [(0,)]


async def test_staff_without_the_permissions_is_refused(site: Site) -> None:
    visitor = await staff(site, all_permissions=False)
    async with visitor.socket(LIVE) as raw:
        await raw.hello(later=True)
        assert await raw.closed() == REFUSED


async def test_staff_follows_the_figures_of_the_nodes_and_asks_for_the_rest(site: Site) -> None:
    visitor = await staff(site)
    async with visitor.socket(LIVE) as raw:
        await raw.hello()
        answer = await raw.ask({"type": "snapshot"})
        assert {key: type(value) for key, value in answer.items()} == {
            **{"type": str, "now": int, "history": dict, "nodes": list},
            **{"totals": dict, "sessions": list},
        }
        assert [node["name"] for node in answer["nodes"]] == ["node-1"]
        assert answer["totals"]["attached"] == 1
        assert answer["sessions"][0]["user"] == "anna"
        told = await raw.expect("message", stream=STREAM)
        assert told["data"]["type"] == "node"
        assert told["data"]["node"]["id"] == answer["nodes"][0]["id"]
        for kind in ("totals", "sessions"):
            assert (await raw.ask({"type": kind}))["type"] == kind


async def test_volatile_questions_have_volatile_answers_and_leave_nothing_behind(
    site: Site,
) -> None:
    visitor = await staff(site)
    async with visitor.socket(LIVE) as raw:
        await raw.hello()
        for kind in ("totals", "sessions"):
            await raw.send({"type": "volatile", "data": {"type": kind}})
            assert (await raw.expect("volatile"))["data"]["type"] == kind
    assert site.sql("SELECT count(*) FROM graceful_ws_inboundresult") == [(0,)]


@pytest.mark.parametrize("question", [{"type": "passwords"}, {}, [], None, "snapshot", 7])
async def test_what_is_no_question_is_nacked(site: Site, question: Any) -> None:
    visitor = await staff(site)
    async with visitor.socket(LIVE) as raw:
        await raw.hello()
        await raw.message(question)
        assert (await raw.expect("nack"))["code"] == "error"
        assert (await raw.ask({"type": "totals"}))["type"] == "totals"


@pytest.mark.parametrize("how", ["message", "volatile", "nothing"])
async def test_who_is_staff_no_more_is_closed_at_the_next_question_or_soon_without(
    site: Site, how: str
) -> None:
    visitor = await staff(site)
    async with visitor.socket(LIVE) as raw:
        await raw.hello()
        await raw.ask({"type": "totals"})
        await visitor.do("staff", value=0)
        if how == "message":
            await raw.message({"type": "snapshot"})
        elif how == "volatile":
            await raw.send({"type": "volatile", "data": {"type": "snapshot"}})
        assert await raw.closed() == REFUSED
        assert "history" not in json.dumps(raw.frames)


async def test_who_is_staff_no_more_cannot_resume_until_they_are_again(site: Site) -> None:
    visitor = await staff(site)
    async with visitor.socket(LIVE) as raw:
        await raw.hello()
        await raw.ask({"type": "totals"})
        raw.cut()
    await visitor.do("staff", value=0)
    async with again(raw, additional_headers=visitor.headers) as later:
        await later.hello(later=True)
        assert await later.closed() == REFUSED
        assert later.all("message") == []
    await visitor.do("staff", value=1)
    async with again(later, additional_headers=visitor.headers) as back:
        welcome = await back.hello()
        assert welcome["resumed"]
        assert welcome["streams"][STREAM]["state"] != "denied"
        await back.expect("message", stream=STREAM)


# Bounds


@pytest.mark.usefixtures("database")
def test_snapshot_is_bounded() -> None:
    now = timezone.now()
    nodes = [make_node(f"node-{n}") for n in range(snapshot.NODES + 5)]
    make_node("gone long ago", state="stopped", beat_at=now - timedelta(hours=2))
    for n in range(snapshot.SESSIONS + 5):
        make_session(node=nodes[n])
    given = {**figures(3), "states": {"connected": 3}, "unacked": 0, "breakers": {}, "drain": None}
    Sample.objects.bulk_create(
        Sample(node=node, at=now - timedelta(seconds=ago), figures=json.dumps(given))
        for ago in (30, 15)
        for node in nodes
    )
    found = snapshot.snapshot()
    assert len(found["nodes"]) == snapshot.NODES <= 200
    assert "gone long ago" not in [node["name"] for node in found["nodes"]]
    assert len(found["sessions"]) == snapshot.SESSIONS <= 100
    assert len(found["history"]["nodes"]) == 8
    assert all(len(row["in"]) <= 240 for row in found["history"]["nodes"].values())
    assert found["nodes"][0]["figures"]["connections"] == 3
    assert len(json.dumps(found)) < 256 * 1024
    assert snapshot.sessions()["more"] is True


@pytest.mark.usefixtures("database")
def test_nodes_that_serve_come_before_those_that_went() -> None:
    make_node("a", state="dead")
    progress = '{"phase": "notifying", "remaining": 3}'
    long_ago = timezone.now() - timedelta(hours=2)  # it may be frozen, or its clock wrong
    make_node("b", state="draining", drain_progress=progress, beat_at=long_ago)
    listed = snapshot.totals()["nodes"]
    assert [(node["name"], node["is_live"]) for node in listed] == [("b", True), ("a", False)]
    assert listed[0]["drain"] == {"phase": "notifying", "remaining": 3}


@pytest.mark.usefixtures("database")
def test_sessions_are_found_by_id_user_and_address_and_ordered_by_what_is_unacked() -> None:
    ada = make_session(user=User.objects.create_user("ada"), last_seq=9, acked_seq=2)
    there = make_session(remote_address="192.0.2.7", last_seq=5, acked_seq=5, state="detached")
    make_session(state="ended", remote_address="192.0.2.7")

    def found(search: str = "", order: str = "newest") -> list[str]:
        return [row["uuid"] for row in snapshot.sessions(search, order)["sessions"]]

    assert found() == [str(there.uuid), str(ada.uuid)]
    assert found(order="unacked") == [str(ada.uuid), str(there.uuid)]
    assert str(ada.uuid) in found("ADA")
    assert found("192.0.2") == [str(there.uuid)]
    assert found(f" {str(ada.uuid)[:13]} ") == [str(ada.uuid)]
    assert found("%") == found("nobody of that name") == []
    row = snapshot.sessions("192.0.2.7")["sessions"][0]
    assert (row["user"], row["attached"], row["unacked"]) == (None, False, 0)
    assert snapshot.sessions("ada")["sessions"][0]["unacked"] == 7


@pytest.mark.usefixtures("database")
def test_a_node_whose_row_was_purged_leaves_its_samples() -> None:
    node = make_node()
    now = timezone.now()
    for ago in (30, 15):
        at = now - timedelta(seconds=ago)
        Sample.objects.create(node=node, at=at, figures=json.dumps(figures(3)))
    Node.objects.filter(pk=node.pk).update(id=make_session().uuid)  # another id: the old is gone
    assert list(snapshot.snapshot()["history"]["nodes"]) == ["?"]
    assert not Session.objects.filter(node=node.pk).exists()


@pytest.mark.parametrize(
    ("live_url", "expected"),
    [
        ("/ws/graceful/live/", "ws/graceful/live/"),
        (":8000/ws/live/ :8001/ws/live/", "ws/live/"),
        ("wss://a.example/live/", "live/"),
    ],
)
def test_route_is_the_path_of_the_setting(live_url: str, expected: str) -> None:
    assert route(live_url) == expected


def test_urls_of_the_page_are_those_of_the_setting() -> None:
    from graceful_ws.live.consumer import urls

    with override_settings(GRACEFUL_WS={"live_url": "/a/  :8001/a/"}):
        assert urls() == ["/a/", ":8001/a/"]


def test_docs_say_the_bounds() -> None:
    text = " ".join((ROOT / "docs/dashboard.md").read_text().split())
    assert history.NAMES == 7
    for said in (
        "more than seven nodes share one",
        f"the page lists {snapshot.SESSIONS}, the newest",
        f"Of nodes it lists {snapshot.NODES}:",
        f"in steps of {history.STEP} s",
        f"The connection asks every {LOOK:g} s",
    ):
        assert said in text
