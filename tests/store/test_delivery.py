"""Loss accounting: each message is acknowledged, reported, ended on purpose, waiting, or found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from graceful_ws.models import OutboundMessage, Session, StreamMessage, Subscription
from graceful_ws.publishing import publish, send_to_session
from graceful_ws.store import delivery, nodes, retention, streams
from graceful_ws.store.delivery import Audit, Finding
from graceful_ws.store.entries import Detach, Note
from graceful_ws.store.following import Subscribe
from graceful_ws.store.hello import Attached, Identity
from tests.store.kit import append, attached, detach, done

pytestmark = pytest.mark.usefixtures("database")

DAY = 86_400.0


def look(**options: Any) -> tuple[list[Finding], delivery.Summary]:
    audit = Audit(**options)
    return list(audit.findings()), audit.summary


def follow(owner: Attached, stream: str) -> None:
    streams.create([stream])
    done(Subscribe(owner.session, owner.generation, stream=stream, joined=None))


def published(stream: str, *texts: str) -> None:
    for text in texts:
        publish(stream, text)  # without a node, whoever publishes numbers as well


def acknowledge(owner: Attached, seq: int, **at: tuple[str, int]) -> None:
    done(Note(owner.session, owner.generation, acked_seq=seq, streams=at))


def aged(owner: Attached, seconds: float) -> None:
    """As if it had left, and everything had been kept, so long ago."""
    then = timezone.now() - timedelta(seconds=seconds)
    Session.objects.filter(pk=owner.session, left_at__isnull=False).update(left_at=then)
    OutboundMessage.objects.filter(session=owner.session).update(created_at=then)


def test_what_was_acknowledged_or_waits_is_no_finding() -> None:
    all_of_it, some, none = attached(), attached(), attached()
    for owner in (all_of_it, some, none):
        done(append(owner, '"1"', '"2"', '"3"'))
    acknowledge(all_of_it, 3)
    acknowledge(some, 1)
    done(detach(none))
    findings, summary = look()
    assert findings == []
    assert (summary.sessions, summary.waiting) == (2, 5)
    assert summary.oldest is not None


def test_what_waits_for_too_long_is_found_when_it_is_asked_for() -> None:
    owner, other = attached(), attached()
    done(append(owner, '"1"', '"2"'), append(other, '"x"'))
    done(detach(owner))
    aged(owner, 100.0)
    assert look(waiting=200.0)[0] == []
    [finding], summary = look(waiting=50.0)
    assert (finding.session, finding.first, finding.last, finding.count) == (owner.uuid, 1, 2, 2)
    assert summary.waiting == 3


@pytest.mark.parametrize("cause", ["bye", "closed", "credentials"])
def test_what_was_ended_on_purpose_owes_nothing(cause: str) -> None:
    owner = attached()
    done(append(owner, '"1"'))
    done(Detach(owner.session, owner.generation, end=True, cause=cause))
    assert look() == ([], delivery.Summary())


def test_an_operator_ends_on_purpose() -> None:
    owner = attached()
    done(append(owner, '"1"'))
    nodes.end_session(owner.uuid, 4506, "enough")
    assert look()[0] == []


def expired() -> Attached:
    """A session whose client never came back, with three messages, one of them acknowledged."""
    owner = attached(identity=Identity(user_id=7))
    done(append(owner, '"1"', '"2"', '"3"'))
    acknowledge(owner, 1)
    done(detach(owner))
    aged(owner, DAY)
    assert [one for one, _ in retention.expire()] == [owner.uuid]
    return owner


def test_a_session_that_expired_has_lost_what_was_not_acknowledged() -> None:
    owner = expired()
    [finding], _ = look()
    assert (finding.session, finding.user, finding.stream) == (owner.uuid, 7, None)
    assert (finding.first, finding.last, finding.count) == (2, 3, 2)
    assert "expired" in finding.why
    OutboundMessage.objects.all().delete()  # their rows go long before the session's
    assert look()[0] == [finding]


def test_a_client_that_comes_too_late_is_told_and_then_nothing_is_unaccounted_for() -> None:
    owner = expired()
    new = attached(token=owner.token, attempt=2, identity=Identity(user_id=7))
    assert not new.resumed
    assert look()[0] == []


def test_somebody_else_with_the_token_is_not_its_client() -> None:
    owner = expired()
    attached(token=owner.token, attempt=2, identity=Identity(user_id=8))
    assert len(look()[0]) == 1


def test_what_was_cleared_while_its_client_is_away_is_found_by_number() -> None:
    owner = attached()
    done(append(owner, *(f'"{n}"' for n in range(1, 10))))
    acknowledge(owner, 1)
    OutboundMessage.objects.filter(session=owner.session, seq__in=[2, 3, 6]).delete()
    findings, summary = look()
    assert [(one.first, one.last, one.count) for one in findings] == [(2, 3, 2), (6, 6, 1)]
    assert summary.waiting == 5
    OutboundMessage.objects.all().delete()
    [finding], _ = look()
    assert (finding.first, finding.last, finding.count) == (2, 9, 8)


def test_what_was_left_and_never_numbered_waits_while_its_session_lives() -> None:
    owner = attached()
    done(detach(owner))
    send_to_session(owner.uuid, "left")
    findings, summary = look()
    assert (findings, summary.waiting) == ([], 1)
    aged(owner, DAY)
    retention.expire()
    [finding], _ = look()
    assert (finding.first, finding.count) == (0, 1)


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_is_accounted_for_by_each_of_its_followers() -> None:
    here, late = attached(), attached()
    for owner in (here, late):
        follow(owner, "news")
    published("news", "a", "b", "c")
    [tip] = streams.tips(["news"]).values()
    acknowledge(here, 0, news=(tip.epoch, 3))
    acknowledge(late, 0, news=(tip.epoch, 1))
    findings, summary = look()
    assert (findings, summary.waiting) == ([], 2)
    StreamMessage.objects.filter(seq=2).delete()
    [finding], summary = look()
    assert (finding.session, finding.stream) == (late.uuid, "news")
    assert (finding.first, finding.last, finding.count) == (2, 2, 1)
    assert summary.waiting == 1


def test_who_follows_from_now_on_is_owed_nothing_from_before() -> None:
    published("news", "a", "b", "c")
    follow(attached(), "news")
    StreamMessage.objects.all().delete()
    assert look()[0] == []


def test_a_follower_that_expired_is_not_owed_what_came_later() -> None:
    owner = attached()
    follow(owner, "news")
    published("news", "a")
    done(detach(owner))
    aged(owner, DAY)
    retention.expire()
    ended = timezone.now() - timedelta(seconds=60)
    Session.objects.filter(pk=owner.session).update(ended_at=ended)
    StreamMessage.objects.filter(seq=1).update(created_at=ended - timedelta(seconds=1))
    published("news", "b")
    [finding], _ = look()
    assert (finding.stream, finding.first, finding.last) == ("news", 1, 1)


def test_numbers_that_began_anew_are_found_until_the_client_is_told() -> None:
    owner = attached()
    follow(owner, "news")
    published("news", "a")
    streams.rotate_all()
    assert look()[0] == []  # its node tells it
    done(detach(owner))
    [finding], _ = look()
    assert (finding.stream, finding.count) == ("news", 0)


def test_one_session_can_be_asked_about() -> None:
    one, other = expired(), expired()
    assert {finding.session for finding in look()[0]} == {one.uuid, other.uuid}
    assert [finding.session for finding in look(session=other.uuid)[0]] == [other.uuid]


def test_many_sessions_are_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 2)
    owners = [attached() for _ in range(5)]
    for owner in owners:
        done(append(owner, '"x"'))
        follow(owner, "news")
    findings, summary = look(waiting=0.0)
    assert [finding.session for finding in findings] == [owner.uuid for owner in owners]
    assert summary.sessions == 5


def test_an_acknowledgement_between_the_looks_is_no_hole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = attached()
    done(append(owner, '"1"', '"2"', '"3"'))
    follow(owner, "news")
    published("news", "a", "b")
    [tip] = streams.tips(["news"]).values()
    with_rows: Callable[..., Any] = delivery._with_rows

    class Late(list[Any]):
        """The rows as they were read, before the acknowledgement."""

    def read(sessions: Any) -> Any:
        rows = with_rows(sessions)
        known = list(rows)

        class Rows:
            def order_by(self, *names: str) -> Any:
                if known:
                    acknowledge(owner, 2, news=(tip.epoch, 2))
                    StreamMessage.objects.filter(seq__lte=2).delete()
                    known[0].kept -= 1  # as if the two had been of different moments
                return Late(known)

        return Rows()

    monkeypatch.setattr(delivery, "_with_rows", read)
    findings, _ = look()
    assert [one for one in findings if one.stream is None] == []
    assert [one for one in findings if one.stream == "news"] == []


def test_the_admin_asks_for_a_page_of_sessions_in_one_query_each() -> None:
    one, two = attached(), attached()
    done(append(one, '"1"', '"2"'), append(two, '"x"'))
    acknowledge(two, 1)
    for owner in (one, two):
        follow(owner, "news")
    published("news", "a", "b")
    [tip] = streams.tips(["news"]).values()
    acknowledge(two, 1, news=(tip.epoch, 1))
    pks = [one.session, two.session]
    assert set(delivery.oldest_unacked(pks)) == {one.session}
    assert delivery.behind(pks) == {one.session: 2, two.session: 1}
    Subscription.objects.all().delete()
    assert delivery.behind(pks) == {}
