"""Rows and clicks for the tests of the admin."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from graceful_ws.models import Node, Session

SESSIONS = "/admin/graceful_ws/session/"
NODES = "/admin/graceful_ws/node/"
AUDIT = "/admin/graceful_ws/auditentry/"
STREAMS = "/admin/graceful_ws/stream/"


def make_node(name: str = "node-1", **values: Any) -> Node:
    now = timezone.now()
    given = {"host": "here", "pid": 1, "server": "daphne", "version": "1", **values}
    return Node.objects.create(name=name, **{"started_at": now, "beat_at": now, **given})


def make_session(**values: Any) -> Session:
    now = timezone.now()
    given = {
        "token_hash": uuid.uuid4().bytes,
        "auth_hash": "secret-auth-hash",
        "session_key_hash": "secret-key-hash",
        "consumer": "chat.consumers.Room",
        "started_at": now,
        "attached_at": now,
        "seen_at": now,
        **values,
    }
    return Session.objects.create(**given)


def allow(user: User, codename: str) -> None:
    user.user_permissions.add(
        Permission.objects.get(codename=codename, content_type__app_label="graceful_ws")
    )


def shown(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200
    return response.content.decode()


def count_queries(client: Client, url: str) -> int:
    shown(client, url)
    with CaptureQueriesContext(connection) as queries:
        shown(client, url)
    return len(queries)


def act(client: Client, url: str, action: str, rows: list[Any], **more: str) -> Any:
    """Chooses rows of a list and an action; with ``confirmed`` the answer to its question."""
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], **more}
    return client.post(url, chosen, follow=True)


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]
