"""A bye ends the session, whichever of the client's connections says it."""

from __future__ import annotations

import pytest

from graceful_ws.store.attach import Attached
from graceful_ws.store.entries import Detach, Fenced
from graceful_ws.store.rounds import commit_all
from tests.store.kit import append, attached, done, row

pytestmark = pytest.mark.usefixtures("database")


def bye(owner: Attached, instance: str = "one") -> Detach:
    return Detach(
        owner.session, owner.generation, end=True, instance=instance, close_code=1000, cause="bye"
    )


def test_a_bye_on_the_old_connection_ends_what_the_next_one_has_attached() -> None:
    old = attached()
    new = attached(token=old.token, attempt=2)
    assert done(bye(old)) == [True]
    session = row(new)
    assert (session.state, session.cause, session.node_id) == ("ended", "bye", None)
    assert session.generation == new.generation + 1
    [refused] = commit_all([append(new, "1")])
    assert isinstance(refused, Fenced)
    assert done(bye(new)) == [False], "ended once"


def test_a_bye_of_one_who_was_superseded_ends_nothing() -> None:
    old = attached()
    new = attached(token=old.token, attempt=1, instance="other")
    assert done(bye(old)) == [False]
    assert done(append(new, "1")) == [1]


def test_only_a_bye_does_so() -> None:
    old = attached()
    new = attached(token=old.token, attempt=2)
    closed = Detach(old.session, old.generation, end=True, instance="one", cause="closed")
    assert done(closed) == [False]
    assert done(append(new, "1")) == [1]


def test_a_plain_client_has_no_next_connection() -> None:
    one, other = attached(instance=""), attached(instance="")
    assert done(bye(one, instance="")) == [True]
    assert row(other).state == "attached"
