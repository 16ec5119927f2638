"""Closing sessions and draining nodes in the admin: what is asked, done and refused."""

from __future__ import annotations

import json

import pytest
from django.contrib.auth.models import User
from django.test import Client

from graceful_ws import admin as ours
from graceful_ws.models import AuditEntry, Session
from tests.admin.rows import (
    NODES,
    SESSIONS,
    act,
    allow,
    make_node,
    make_session,
    said,
    shown,
)

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.sqlite_only]


# Closing


def test_close_asks_for_a_reason_and_ends_the_session_with_4506(
    browser: Client, operator: User
) -> None:
    allow(operator, "close_session")
    session, other = make_session(user=User.objects.create_user("ada")), make_session()
    question = act(browser, SESSIONS, "close", [session])
    assert f"{session.uuid}, ada, attached" in question.content.decode()
    session.refresh_from_db()
    assert session.state == "attached"

    done = act(browser, SESSIONS, "close", [session], confirmed="Close", reason="too loud")
    assert said(done)[0].startswith("Closed 1 session;")
    session.refresh_from_db()
    other.refresh_from_db()
    assert (session.state, session.close_code, session.close_reason) == ("ended", 4506, "too loud")
    assert session.generation == 2  # its owner is fenced, and looks
    assert other.state == "attached"
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.actor, entry.code) == ("close_session", "operator", 4506)


@pytest.mark.parametrize("reason", ["", "   ", "x" * 124, "€" * 42])
def test_close_without_a_reason_that_fits_asks_again(
    browser: Client, operator: User, reason: str
) -> None:
    allow(operator, "close_session")
    session = make_session()
    response = act(browser, SESSIONS, "close", [session], confirmed="Close", reason=reason)
    assert "errorlist" in response.content.decode()
    session.refresh_from_db()
    assert session.state == "attached"


def test_close_from_the_sessions_own_page(browser: Client, operator: User) -> None:
    allow(operator, "close_session")
    session = make_session()
    url = f"{SESSIONS}{session.pk}/"
    assert f"{url}close/" in shown(browser, f"{url}change/")
    assert "Close sessions" in shown(browser, f"{url}close/")
    done = browser.post(f"{url}close/", {"confirmed": "Close", "reason": "too loud"}, follow=True)
    assert done.redirect_chain == [(f"{url}change/", 302)]
    session.refresh_from_db()
    assert session.state == "ended"
    assert f"{url}close/" not in shown(browser, f"{url}change/")
    assert "4506: closed in the admin" in shown(browser, f"{url}change/")


def test_close_of_a_session_that_has_ended_says_so(browser: Client, operator: User) -> None:
    allow(operator, "close_session")
    session = make_session(state="ended")
    response = act(browser, SESSIONS, "close", [session], confirmed="Close", reason="again")
    assert said(response) == ["Already ended: nothing to close."]
    assert not AuditEntry.objects.exists()


def test_close_is_bounded(browser: Client, operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(operator, "close_session")
    monkeypatch.setattr(ours, "MOST_AT_ONCE", 2)
    rows = [make_session() for _ in range(3)]
    response = act(browser, SESSIONS, "close", rows, confirmed="Close", reason="all of you")
    assert said(response)[0].startswith("At most 2 sessions at once")
    assert not Session.objects.filter(state="ended").exists()


def test_who_may_only_look_cannot_close(browser: Client) -> None:
    session = make_session()
    url = f"{SESSIONS}{session.pk}/"
    assert f"{url}close/" not in shown(browser, f"{url}change/")
    assert 'value="close"' not in shown(browser, SESSIONS)
    for method in (browser.get, browser.post):
        assert method(f"{url}close/", {"confirmed": "x", "reason": "y"}).status_code == 403
    act(browser, SESSIONS, "close", [session], confirmed="Close", reason="may I?")
    session.refresh_from_db()
    assert session.state == "attached"


def test_who_may_close_but_not_look_cannot_close(operator: User, browser: Client) -> None:
    operator.user_permissions.clear()
    allow(operator, "close_session")
    session = make_session()
    answer = browser.post(f"{SESSIONS}{session.pk}/close/", {"confirmed": "x", "reason": "y"})
    assert answer.status_code == 403


def test_close_of_an_unknown_session_goes_back_to_the_index(
    browser: Client, operator: User
) -> None:
    allow(operator, "close_session")
    assert browser.get(f"{SESSIONS}4711/close/").status_code == 302
    assert browser.get(f"{SESSIONS}nonsense/close/").status_code == 302


def test_close_is_refused_without_the_csrf_token(operator: User) -> None:
    allow(operator, "close_session")
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    session = make_session()
    for url in (SESSIONS, f"{SESSIONS}{session.pk}/close/"):
        assert client.post(url, {"confirmed": "x", "reason": "y"}).status_code == 403


# Draining


def test_drain_asks_first_and_then_the_node(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node(connections=3)
    make_node("other")
    question = act(browser, NODES, "drain", [node]).content.decode()
    assert "node-1, 3 connections" in question
    assert "nowhere to go" not in question
    node.refresh_from_db()
    assert node.requested_state == ""

    done = act(browser, NODES, "drain", [node], confirmed="Drain", reason="new kernel")
    assert said(done)[0].startswith("Asked 1 node;")
    node.refresh_from_db()
    assert node.requested_state == "draining"
    assert json.loads(node.drain_options) == {"reason": "new kernel", "actor": "operator"}
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.node, entry.actor) == ("drain_node", "node-1", "operator")
    assert entry.reason == "new kernel"
    assert "asked, 3 connections" in shown(browser, NODES)


def test_drain_of_the_last_node_warns(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    rows = [make_node("a"), make_node("b")]
    make_node("c", state="dead")
    assert "nowhere to go" in act(browser, NODES, "drain", rows).content.decode()


def test_drain_without_a_reason_leaves_the_usual_one(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node()
    act(browser, NODES, "drain", [node], confirmed="Drain", reason="")
    node.refresh_from_db()
    assert json.loads(node.drain_options)["reason"] is None


def test_drain_is_for_nodes_that_are_up(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node(state="dead")
    assert said(act(browser, NODES, "drain", [node])) == ["None of them is up."]
    assert said(act(browser, NODES, "undo_drain", [node])) == ["None of them was asked to drain."]


def test_drain_and_undo_from_the_nodes_own_page(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node()
    url = f"{NODES}{node.pk}/"
    page = shown(browser, f"{url}change/")
    assert f"{url}drain/" in page
    assert f"{url}undo_drain/" not in page
    assert f"{SESSIONS}?node={node.pk}" in page
    browser.post(f"{url}drain/", {"confirmed": "Drain", "reason": ""})
    node.refresh_from_db()
    assert node.requested_state == "draining"

    assert f"{url}undo_drain/" in shown(browser, f"{url}change/")
    assert "accept connections again" in shown(browser, f"{url}undo_drain/")
    browser.post(f"{url}undo_drain/", {"confirmed": "Undo drain"})
    node.refresh_from_db()
    assert node.requested_state == ""  # it had not seen the request yet
    events = list(AuditEntry.objects.order_by("pk").values_list("event", "actor"))
    assert events == [("drain_node", "operator"), ("undo_drain", "operator")]


@pytest.mark.parametrize("state", ["draining", "drained"])
def test_undo_asks_a_node_that_drains_to_come_up(
    browser: Client, operator: User, state: str
) -> None:
    allow(operator, "drain_node")
    node = make_node(state=state, requested_state="draining")
    act(browser, NODES, "undo_drain", [node], confirmed="Undo drain")
    node.refresh_from_db()
    assert (node.state, node.requested_state) == (state, "up")


def test_a_node_that_is_about_to_stop_cannot_be_undone(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node(state="draining")
    assert "undo_drain/" not in shown(browser, f"{NODES}{node.pk}/change/")
    act(browser, NODES, "undo_drain", [node], confirmed="Undo drain")
    node.refresh_from_db()
    assert node.requested_state == ""


def test_who_may_only_look_cannot_drain(browser: Client, operator: User) -> None:
    allow(operator, "close_session")
    node = make_node()
    for name in ("drain", "undo_drain"):
        assert browser.post(f"{NODES}{node.pk}/{name}/", {"confirmed": "x"}).status_code == 403
        act(browser, NODES, name, [node], confirmed="x", reason="y")
    node.refresh_from_db()
    assert node.requested_state == ""
    page = shown(browser, f"{NODES}{node.pk}/change/")
    assert f"{NODES}{node.pk}/drain/" not in page
