"""Sessions that nobody resumes come to an end."""

from __future__ import annotations

from typing import Any

import pytest

from graceful_ws.models import Session, Subscription
from graceful_ws.publishing import send_to_session
from graceful_ws.store import retention
from graceful_ws.store.attach import Attached, Identity
from tests.store.kit import (
    Elsewhere,
    ago,
    append,
    attached,
    complete,
    detach,
    done,
    locked_elsewhere,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")

ANNA = Identity(user_id=1)


def left(owner: Attached, seconds: float) -> None:
    Session.objects.filter(pk=owner.session).update(left_at=ago(seconds))


def test_a_detached_session_expires_after_its_window(limits: Any) -> None:
    limits(resume_window=100)
    late, early, live = (attached(identity=ANNA) for _ in range(3))
    for owner in (late, early, live):
        done(append(owner, "1"))
    done(detach(late), detach(early))
    left(late, 101)
    left(early, 99)
    Session.objects.filter(pk=live.session).update(attached_at=ago(1e6), seen_at=ago(1e6))
    assert retention.expire() == [(late.uuid, "tests.consumers.Echo")]
    kept = row(late)
    assert (kept.state, kept.generation, kept.cause) == ("ended", 2, "expired")
    assert kept.ended_at is not None
    assert (row(early).state, row(live).state) == ("detached", "attached")
    assert retention.expire() == []
    assert not attached(token=late.token, attempt=2, identity=ANNA).resumed


def test_a_window_shorter_than_that_of_unused_sessions_counts(limits: Any) -> None:
    limits(resume_window=10, anonymous_unused=60)
    owner = attached(identity=ANNA)
    done(append(owner, "1"), detach(owner))
    left(owner, 11)
    assert [one for one, _ in retention.expire()] == [owner.uuid]


def test_an_anonymous_session_that_was_never_used_expires_early(limits: Any) -> None:
    limits(resume_window=1000, anonymous_unused=60)
    unused, young, known, sent, received, waiting, subscribed, live = (
        attached(identity=ANNA if name == "known" else Identity())
        for name in ("", "", "known", "", "", "", "", "")
    )
    done(append(sent, "1"), complete(received, 1))
    send_to_session(waiting.uuid, 1)
    Subscription.objects.create(session_id=subscribed.session, stream="s", epoch="e", from_seq=1)
    for owner in (unused, young, known, sent, received, waiting, subscribed):
        done(detach(owner))
        left(owner, 59 if owner is young else 61)
    Session.objects.filter(pk=live.session).update(attached_at=ago(1e6))
    assert [one for one, _ in retention.expire()] == [unused.uuid]


def test_only_one_batch_expires_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    owners = [attached() for _ in range(5)]
    done(*(detach(owner) for owner in owners))
    Session.objects.update(left_at=ago(1e6))
    assert [len(retention.expire()) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.postgres_only
def test_a_session_that_is_being_resumed_does_not_expire(
    database: Database, elsewhere: Elsewhere
) -> None:
    owner, other = attached(), attached()
    done(detach(owner), detach(other))
    left(owner, 1e6)
    left(other, 1e6)
    with locked_elsewhere(database, owner):
        assert [one for one, _ in elsewhere.run(retention.expire)] == [other.uuid]
    assert [one for one, _ in retention.expire()] == [owner.uuid]


@pytest.mark.postgres_only
def test_a_session_that_came_and_left_again_has_its_whole_window(
    limits: Any, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row changes between the look for what is due and the lock."""
    limits(resume_window=1000)
    owner = attached(identity=ANNA)
    done(append(owner, "1"), detach(owner))
    left(owner, 1001)
    locked_rows = retention.locked_rows

    def come_and_leave(*args: Any, **kwargs: Any) -> Any:
        elsewhere.run(left, owner, 500)
        return locked_rows(*args, **kwargs)

    monkeypatch.setattr(retention, "locked_rows", come_and_leave)
    assert retention.expire() == []
    assert row(owner).state == "detached"
