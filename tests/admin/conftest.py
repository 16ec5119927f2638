from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.admin.rows import allow
from tests.support.databases import Database


@pytest.fixture
def operator(database: Database) -> User:
    """Somebody of the staff who may look, and nothing else yet."""
    user = User.objects.create_user("operator", is_staff=True)
    for model in ("session", "stream", "node", "auditentry"):
        allow(user, f"view_{model}")
    return user


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client
