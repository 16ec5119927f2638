"""The live dashboard's page, and what its buttons post: who may, what is done, what is refused."""

from __future__ import annotations

import json
import re
import uuid
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings

from graceful_ws.models import AuditEntry
from tests.admin.rows import NODES, SESSIONS, allow, make_node, make_session, shown

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.sqlite_only]

LIVE = "/admin/graceful_ws/live/"


def post(client: Client, what: str, row: Any, reason: str = "", **more: str) -> tuple[int, str]:
    id_ = getattr(row, "uuid", None) or getattr(row, "pk", row)
    answer = client.post(f"{LIVE}{what}/", {"id": str(id_), "reason": reason, **more})
    said = answer.json()
    return answer.status_code, said.get("said") or said["error"]


# The page


def test_page_is_linked_from_the_index_and_from_the_lists_of_nodes_and_sessions(
    browser: Client,
) -> None:
    assert "Live dashboard" in shown(browser, LIVE)
    for url in ("/admin/", "/admin/graceful_ws/", NODES, SESSIONS):
        assert f'href="{LIVE}"' in shown(browser, url)


@pytest.mark.parametrize("missing", ["node", "session"])
def test_page_is_for_those_who_may_view_nodes_and_sessions(
    browser: Client, operator: User, missing: str
) -> None:
    operator.user_permissions.clear()
    allow(operator, "view_session" if missing == "node" else "view_node")
    assert browser.get(LIVE).status_code == 403
    assert LIVE not in shown(browser, "/admin/")
    lists = NODES if missing == "session" else SESSIONS
    assert LIVE not in shown(browser, lists)


def test_page_sends_who_is_not_staff_to_the_login(browser: Client, operator: User) -> None:
    operator.is_staff = False
    operator.save()
    assert browser.get(LIVE).url.startswith("/admin/login/")  # type: ignore[attr-defined]


def test_buttons_are_for_those_who_may_use_them(browser: Client, operator: User) -> None:
    page = shown(browser, LIVE)
    assert 'data-can-drain=""' in page
    assert 'data-can-close=""' in page
    allow(operator, "drain_node")
    allow(operator, "close_session")
    page = shown(browser, LIVE)
    assert 'data-can-drain="1"' in page
    assert 'data-can-close="1"' in page


def test_page_says_where_the_consumer_is(browser: Client) -> None:
    with override_settings(GRACEFUL_WS={"live_url": ":8000/a/ wss://b.example/a/"}):
        page = shown(browser, LIVE)
    assert 'data-urls=":8000/a/ wss://b.example/a/"' in page
    assert 'data-probe="/graceful/ping/"' in page


class Inline(HTMLParser):
    """What a Content-Security-Policy without 'unsafe-inline' refuses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [f"{tag} {name}" for name in given if name.startswith("on")]
        self.found += [tag for _ in given if "style" in given]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.found.append(tag)


def test_page_has_nothing_inline_and_nothing_from_another_host(browser: Client) -> None:
    page = shown(browser, LIVE)
    assert Inline(page).found == []
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)


# Drain, undo, close


def test_drain_asks_the_node_and_writes_down_who_asked(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node, other = make_node(), make_node("other")
    status, said = post(browser, "drain", node, "new kernel")
    assert (status, said[:6]) == (200, "Asked;")
    node.refresh_from_db()
    other.refresh_from_db()
    assert (node.requested_state, other.requested_state) == ("draining", "")
    assert json.loads(node.drain_options) == {"reason": "new kernel", "actor": "operator"}
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.node, entry.actor) == ("drain_node", "node-1", "operator")
    assert entry.reason == "new kernel"


def test_drain_of_a_node_that_is_not_up_is_refused(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    for row in (make_node(state="dead"), make_node(state="draining"), uuid.uuid4()):
        assert post(browser, "drain", row) == (409, "It is not up: nothing to drain.")
    assert not AuditEntry.objects.exists()


def test_undo_asks_the_node_to_come_back(browser: Client, operator: User) -> None:
    allow(operator, "drain_node")
    node = make_node(state="drained", requested_state="draining")
    assert post(browser, "undo", node, "too early")[0] == 200
    node.refresh_from_db()
    assert node.requested_state == "up"
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.actor, entry.reason) == ("undo_drain", "operator", "too early")
    assert post(browser, "undo", make_node("b", state="draining"))[0] == 409


def test_close_ends_the_session_with_4506(browser: Client, operator: User) -> None:
    allow(operator, "close_session")
    session = make_session()
    status, said = post(browser, "close", session, "too loud")
    assert (status, said[:7]) == (200, "Closed;")
    session.refresh_from_db()
    assert (session.state, session.close_code, session.close_reason) == ("ended", 4506, "too loud")
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.actor, entry.code) == ("close_session", "operator", 4506)
    assert post(browser, "close", session, "again") == (409, "It has ended already.")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 124, "€" * 42])
def test_close_without_a_reason_that_fits_is_refused(
    browser: Client, operator: User, reason: str
) -> None:
    allow(operator, "close_session")
    session = make_session()
    status, said = post(browser, "close", session, reason)
    assert (status, said[:7]) == (400, "Reason:")
    session.refresh_from_db()
    assert session.state == "attached"


@pytest.mark.parametrize("id_", ["", "4711", "nonsense"])
def test_what_is_no_id_is_refused(browser: Client, operator: User, id_: str) -> None:
    allow(operator, "drain_node")
    assert post(browser, "drain", id_)[0] == 400


@pytest.mark.parametrize(
    ("what", "permission"),
    [("drain", "close_session"), ("undo", "close_session"), ("close", "drain_node")],
)
def test_who_has_another_permission_is_refused(
    browser: Client, operator: User, what: str, permission: str
) -> None:
    allow(operator, permission)
    row = make_session() if what == "close" else make_node()
    assert post(browser, what, row, "may I?")[0] == 403
    row.refresh_from_db()
    assert row.state in ("attached", "up")
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("what", ["drain", "undo", "close"])
def test_who_may_not_look_is_refused(browser: Client, operator: User, what: str) -> None:
    operator.user_permissions.clear()
    allow(operator, "drain_node")
    allow(operator, "close_session")
    row = make_session() if what == "close" else make_node()
    assert post(browser, what, row, "may I?")[0] == 403


@pytest.mark.parametrize("what", ["drain", "undo", "close"])
def test_a_post_without_the_csrf_token_and_a_get_are_refused(operator: User, what: str) -> None:
    allow(operator, "drain_node")
    allow(operator, "close_session")
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    row = make_session() if what == "close" else make_node()
    id_ = str(row.uuid) if what == "close" else str(row.pk)
    answer = client.post(f"{LIVE}{what}/", {"id": id_, "reason": "y"})
    assert answer.status_code == 403
    assert client.get(f"{LIVE}{what}/").status_code == 405
    row.refresh_from_db()
    assert row.state in ("attached", "up")
    assert not AuditEntry.objects.exists()
