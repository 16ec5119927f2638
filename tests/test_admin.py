"""The admin: what an operator sees, what it costs, and what may be done by whom."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from graceful_ws import admin as ours
from graceful_ws.models import AuditEntry, Node, Session
from graceful_ws.store import nodes

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.sqlite_only]

SESSIONS = "/admin/graceful_ws/session/"
NODES = "/admin/graceful_ws/node/"
AUDIT = "/admin/graceful_ws/auditentry/"
SECRET = b"\xf0hash of a token that nobody sees"


def make_node(name: str = "node-1", **values: Any) -> Node:
    now = timezone.now()
    given = {"host": "here", "pid": 1, "server": "daphne", "version": "1", **values}
    return Node.objects.create(name=name, **{"started_at": now, "beat_at": now, **given})


def make_session(**values: Any) -> Session:
    now = timezone.now()
    given = {
        "token_hash": SECRET[:1] + uuid.uuid4().bytes,
        "auth_hash": "secret-auth-hash",
        "session_key_hash": "secret-key-hash",
        "consumer": "chat.consumers.Room",
        "started_at": now,
        "attached_at": now,
        "seen_at": now,
        **values,
    }
    return Session.objects.create(**given)


@pytest.fixture
def operator() -> User:
    """Somebody of the staff who may look, and nothing else yet."""
    user = User.objects.create_user("operator", is_staff=True)
    for model in ("session", "node", "auditentry"):
        allow(user, f"view_{model}")
    return user


def allow(user: User, codename: str) -> None:
    user.user_permissions.add(
        Permission.objects.get(codename=codename, content_type__app_label="graceful_ws")
    )


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def shown(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def act(client: Client, url: str, action: str, rows: list[Any], **more: str) -> Any:
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], **more}
    return client.post(url, chosen, follow=True)


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


# Looking


def test_session_list_shows_who_where_since_when_and_the_numbers(browser: Client) -> None:
    node, user = make_node("web-7"), User.objects.create_user("ada")
    session = make_session(
        node=node,
        user=user,
        connection_state="suspect",
        last_seq=120,
        acked_seq=100,
        last_client_seq=7,
        rtt_ms=42,
        resumes=3,
        remote_address="192.0.2.7",
        started_at=timezone.now() - timedelta(hours=2, minutes=10),
    )
    page = shown(browser, SESSIONS)
    for text in ("ada", "web-7", "Room", "suspect", "120 / 100 / 7", "42 ms", "192.0.2.7", "2 h"):
        assert text in page
    assert '<td class="field-unacked">20</td>' in page
    assert '<td class="field-resumes">3</td>' in page
    assert str(session.uuid) in page


def test_live_sessions_come_first(browser: Client) -> None:
    now = timezone.now()
    for number, state in enumerate(["ended", "attached", "detached", "attached"]):
        make_session(state=state, seen_at=now - timedelta(seconds=number), consumer=f"c.C{number}")
    page = shown(browser, SESSIONS)
    table = page[page.index("result_list") :]
    order = sorted("0123", key=lambda number: table.index(f">C{number}<"))
    assert order == ["1", "3", "2", "0"]


def test_lists_take_as_many_queries_for_thirty_rows_as_for_one(browser: Client) -> None:
    node = make_node()

    def add() -> None:
        user = User.objects.create_user(uuid.uuid4().hex)
        make_session(user=user, node=make_node(uuid.uuid4().hex))
        make_session(state="detached", node=None)
        nodes.audit("drain_node", node=node.name, actor="ada")

    add()
    one = {url: count_queries(browser, url) for url in (SESSIONS, NODES, AUDIT)}
    for _ in range(30):
        add()
    assert {url: count_queries(browser, url) for url in (SESSIONS, NODES, AUDIT)} == one
    assert one[SESSIONS] <= 9


def count_queries(client: Client, url: str) -> int:
    client.get(url)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


@pytest.mark.parametrize(
    "term", ["ada", "192.0.2.7", "11111111-2222-3333-4444-555555555555", "11111111-2222"]
)
def test_search_finds_a_session_by_user_address_and_id(browser: Client, term: str) -> None:
    wanted = uuid.UUID("11111111-2222-3333-4444-555555555555")
    make_session(uuid=wanted, user=User.objects.create_user("ada"), remote_address="192.0.2.7")
    make_session(user=User.objects.create_user("grace"), remote_address="198.51.100.1")
    page = shown(browser, f"{SESSIONS}?q={term}")
    assert str(wanted) in page
    assert "1 session" in page


def test_filters_by_state_node_and_consumer(browser: Client) -> None:
    node = make_node("web-1")
    make_session(node=node, consumer="a.First")
    make_session(state="detached", consumer="a.Second")
    page = shown(browser, SESSIONS)
    for choice in (f"?node={node.pk}", "?consumer=a.Second", "?state__exact=detached"):
        assert choice in page
        assert "1 session" in shown(browser, f"{SESSIONS}{choice}")
    assert "0 sessions" in shown(browser, f"{SESSIONS}?node=nonsense")


def test_a_session_whose_user_or_node_is_gone_is_still_listed(browser: Client) -> None:
    user, node = User.objects.create_user("ada"), make_node()
    session = make_session(user=user, node=node)
    User.objects.filter(pk=user.pk)._raw_delete("default")  # type: ignore[attr-defined]
    Node.objects.filter(pk=node.pk)._raw_delete("default")  # type: ignore[attr-defined]
    assert str(session.uuid) in shown(browser, SESSIONS)
    assert str(session.uuid) in shown(browser, f"{SESSIONS}{session.pk}/change/")


def test_no_page_shows_a_hash(browser: Client) -> None:
    session = make_session(token_hash=SECRET)
    pages = shown(browser, SESSIONS) + shown(browser, f"{SESSIONS}{session.pk}/change/")
    for secret in ("secret-auth-hash", "secret-key-hash", "nobody sees", SECRET.hex(), "f068"):
        assert secret not in pages
    assert "token" not in pages.lower().replace("csrfmiddlewaretoken", "").replace("csrftoken", "")


def test_node_list_shows_state_connections_beat_and_drain(browser: Client) -> None:
    progress = {"phase": "notifying", "total": 40, "remaining": 10}
    make_node("busy", state="draining", drain_progress=json.dumps(progress), connections=10)
    make_node("silent", beat_at=timezone.now() - timedelta(minutes=3))
    page = shown(browser, NODES)
    assert "notifying" in page
    assert "10/40 left" in page
    assert '<time datetime="' in page
    assert 'class="gws-late">3 min</time>' in page


def test_audit_trail_links_to_the_session(browser: Client) -> None:
    session = make_session()
    nodes.end_session(session.uuid, 4506, "too loud", actor="ada")
    page = shown(browser, AUDIT)
    for text in ("close_session", "ada", "4506", "too loud", f"?q={session.uuid}"):
        assert text in page


# Nothing can be written


@pytest.mark.parametrize("url", [SESSIONS, NODES, AUDIT])
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, url: str) -> None:
    make_session(node=make_node())
    nodes.audit("drain_node", node="node-1")
    model = {SESSIONS: Session, NODES: Node, AUDIT: AuditEntry}[url]
    row = model._default_manager.get()
    before = list(model._default_manager.values())
    assert admin_client.get(f"{url}add/").status_code == 403
    assert admin_client.post(f"{url}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{url}{row.pk}/change/", {"name": "other"}).status_code == 403
    page = shown(admin_client, f"{url}{row.pk}/change/")
    assert 'name="_save"' not in page
    assert "deletelink" not in page
    assert list(model._default_manager.values()) == before


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
    assert said(act(browser, NODES, "undo_drain", [node])) == ["None of them drains."]


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


# Elsewhere


def test_tables_in_another_database_than_the_users(
    browser: Client, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the alias is looked at: the session's rows and the user's are never joined."""
    make_session(user=User.objects.create_user("ada"))
    with queries() as found:
        shown(browser, f"{SESSIONS}?q=ada")
    joined = [sql for sql in found if "graceful_ws_session" in sql and "JOIN" in sql]
    assert joined == []


@contextmanager
def queries() -> Iterator[list[str]]:
    found: list[str] = []
    with CaptureQueriesContext(connection) as captured:
        yield found
    found.extend(query["sql"] for query in captured)


@pytest.mark.parametrize("model", [Session, Node, AuditEntry])
def test_style_follows_the_theme_of_the_admin(model: type) -> None:
    media = str(admin.site._registry[model].media)
    assert "graceful_ws/admin.css" in media
    css = (Path(ours.__file__).parent / "static/graceful_ws/admin.css").read_text()
    colours = [line for line in css.splitlines() if "color" in line or "background" in line]
    assert colours
    assert all("var(--" in line for line in colours)
