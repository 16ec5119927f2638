"""The admin's lists and pages: what an operator sees, and what it costs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from graceful_ws import admin as ours
from graceful_ws.models import AuditEntry, Node, Session, Stream
from graceful_ws.store import nodes, streams
from tests.admin.rows import (
    AUDIT,
    NODES,
    SESSIONS,
    STREAMS,
    count_queries,
    make_node,
    make_session,
    shown,
)

pytestmark = pytest.mark.usefixtures("database")

SECRET = b"\xf0hash of a token that nobody sees"


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
    # Login 3, filters 2, count, rows, users, nodes, of streams, since when; and one to spare.
    assert one[SESSIONS] <= 12


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
    User.objects.filter(pk=user.pk)._raw_delete("default")
    Node.objects.filter(pk=node.pk)._raw_delete("default")
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


@pytest.mark.parametrize("url", [SESSIONS, STREAMS, NODES, AUDIT])
def test_nothing_can_be_added_changed_or_deleted(admin_client: Client, url: str) -> None:
    make_session(node=make_node())
    nodes.audit("drain_node", node="node-1")
    streams.create(["room"])
    model = {SESSIONS: Session, STREAMS: Stream, NODES: Node, AUDIT: AuditEntry}[url]
    row = model._default_manager.get()
    before = list(model._default_manager.values())
    assert admin_client.get(f"{url}add/").status_code == 403
    assert admin_client.post(f"{url}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{url}{row.pk}/change/", {"name": "other"}).status_code == 403
    page = shown(admin_client, f"{url}{row.pk}/change/")
    assert 'name="_save"' not in page
    assert "deletelink" not in page
    assert list(model._default_manager.values()) == before


# Elsewhere


def test_tables_in_another_database_than_the_users(
    browser: Client, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the alias is looked at: the session's rows and the user's are never joined."""
    make_session(user=User.objects.create_user("ada"))
    with queries() as found:
        shown(browser, f"{SESSIONS}?q=ada")
    ours = [sql for sql in found if "graceful_ws_session" in sql]
    joined = [sql for sql in ours if "auth_user" in sql and "JOIN" in sql]
    assert joined == []


@contextmanager
def queries() -> Iterator[list[str]]:
    found: list[str] = []
    with CaptureQueriesContext(connection) as captured:
        yield found
    found.extend(query["sql"] for query in captured)


@pytest.mark.parametrize("model", [Session, Stream, Node, AuditEntry])
def test_style_follows_the_theme_of_the_admin(model: type) -> None:
    media = str(admin.site._registry[model].media)
    assert "graceful_ws/admin.css" in media
    css = (Path(ours.__file__).parent / "static/graceful_ws/admin.css").read_text()
    colours = [line for line in css.splitlines() if "color" in line or "background" in line]
    assert colours
    assert all("var(--" in line for line in colours)
