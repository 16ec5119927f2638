"""Messages for a user: one for each session that the user has when they are handed out."""

from __future__ import annotations

from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

from graceful_ws.models import OutboundMessage, StreamMessage
from graceful_ws.publishing import send_to_user
from graceful_ws.store import nodes, pending, streams
from graceful_ws.store.attach import Attached, Identity
from graceful_ws.store.base import connection
from graceful_ws.store.entries import TakePending
from tests.store.kit import WITHIN, Elsewhere, attached, detach, done, messages, node, unnumbered

pytestmark = pytest.mark.usefixtures("database")


class Undone(Exception):
    pass


@pytest.fixture
def user(database: object) -> User:
    return User.objects.create_user("visitor")


def session_of(user: Any, **changes: Any) -> Attached:
    return attached(identity=Identity(user_id=user.pk), **changes)


def inbox(owner: Attached) -> list[str]:
    """What waits for a session's owner, in order."""
    rows = OutboundMessage.objects.filter(session=owner.session, seq__isnull=True)
    return list(rows.order_by("pk").values_list("data", flat=True))


def left_for(user: User, *items: int) -> str:
    for item in items:
        name = pending.leave_for_user(user.pk, str(item))
    return name


def test_every_session_of_the_user_gets_it_and_nobody_else(user: User) -> None:
    other = User.objects.create_user("other")
    first, second = session_of(user), session_of(user)
    strangers = [session_of(other), attached()]
    send_to_user(user, {"n": 1})
    send_to_user(user.pk, 2)
    assert inbox(first) == inbox(second) == ['{"n":1}', "2"]
    assert [inbox(one) for one in strangers] == [[], []]
    assert streams.waiting() == []
    assert not StreamMessage.objects.exists()


def test_large_messages_are_copied_inside_the_database(user: User) -> None:
    """A hundred copies of each would be a statement that PostgreSQL does not take."""
    sessions = [session_of(user) for _ in range(5)]
    large = ["\\" * 10_000, '"' * 10_000]
    for text in large:
        name = pending.leave_for_user(user.pk, text)
    sent: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.append(f"{sql} {params}")
        return execute(sql, params, many, context)

    with connection().execute_wrapper(note):
        found = pending.hand_out(name)
    assert found is not None
    assert len(found) == 5
    assert [inbox(one) for one in sessions] == [large] * 5
    assert sum(map(len, sent)) < 10_000


def test_many_messages_for_many_sessions_are_handed_out_in_several_transactions(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "COPIES", 5)
    sessions = [session_of(user) for _ in range(2)]
    name = left_for(user, *range(5))
    handed = 0
    while pending.hand_out(name) is not None:
        handed += 1
        assert inbox(sessions[0]) == inbox(sessions[1]) == list(map(str, range(5)))[: handed * 2]
    assert handed == 3
    monkeypatch.setattr(pending, "COPIES", 1)  # one message at least
    name = left_for(user, 5)
    assert pending.hand_out(name)
    assert [inbox(one)[-1] for one in sessions] == ["5", "5"]


def test_it_is_one_of_each_sessions_own_messages(user: User) -> None:
    owner = session_of(user)
    send_to_user(user, "hello")
    assert done(TakePending(owner.session, owner.generation)) == [(1, ['"hello"'])]
    assert messages(owner) == [(1, '"hello"')]


def test_detached_session_gets_it_and_an_ended_one_does_not(user: User) -> None:
    away, over, closed = session_of(user), session_of(user), session_of(user)
    done(detach(away), detach(over, end=True))
    nodes.end_session(closed.uuid, 4506, "")
    send_to_user(user, 1)
    assert (inbox(away), inbox(over), inbox(closed)) == (["1"], [], [])


def test_user_without_a_session_costs_nothing(user: User) -> None:
    send_to_user(user, 1)
    assert streams.waiting() == []
    assert not StreamMessage.objects.exists()
    later = session_of(user)
    assert inbox(later) == []


def test_it_is_sent_if_and_only_if_the_transaction_commits(user: User) -> None:
    owner = session_of(user)
    with pytest.raises(Undone), transaction.atomic():
        send_to_user(user, "rolled back")
        raise Undone
    with transaction.atomic():
        send_to_user(user, 1)
        assert inbox(owner) == []
    assert inbox(owner) == ["1"]


def test_session_that_opens_during_the_transaction_gets_it(user: User) -> None:
    with transaction.atomic():
        send_to_user(user, 1)
        owner = session_of(user)
    assert inbox(owner) == ["1"]


@pytest.mark.postgres_only
def test_session_that_another_process_opens_during_the_transaction_gets_it(
    user: User, elsewhere: Elsewhere
) -> None:
    """SQLite lets one transaction write at a time."""
    with transaction.atomic():
        send_to_user(user, 1)
        owner = elsewhere.run(session_of, user)
    assert inbox(owner) == ["1"]


def test_two_that_hand_out_at_once_do_it_once_and_in_order(
    user: User, elsewhere: Elsewhere
) -> None:
    owners = [session_of(user) for _ in range(3)]
    name = left_for(user, *range(20))
    start = Barrier(3)

    def hands_out() -> int:
        start.wait(WITHIN)
        count = 0
        while pending.hand_out(name) is not None:
            count += 1
        return count

    work = [elsewhere.start(hands_out) for _ in range(3)]
    assert sum(future.result(WITHIN) for future in work) >= 1
    for owner in owners:
        assert inbox(owner) == [str(n) for n in range(20)]
    assert unnumbered(name) == []


def test_more_than_a_batch_is_handed_out(user: User) -> None:
    owner = session_of(user)
    count = streams.BATCH + 3
    with transaction.atomic():
        for n in range(count):
            send_to_user(user, n)
    assert inbox(owner) == [str(n) for n in range(count)]


def test_who_hands_out_learns_which_nodes_to_tell(user: User) -> None:
    where = node()
    here, away = session_of(user, node=where), session_of(user)
    done(detach(away))
    name = left_for(user, 1)
    assert pending.hand_out(name) == [(here.session, where), (away.session, None)]
    assert pending.hand_out(name) is None


@pytest.mark.parametrize("nobody", [None, AnonymousUser(), User(username="not saved")])
def test_who_is_no_user_is_refused(nobody: Any) -> None:
    with pytest.raises(ValueError, match="no user"):
        send_to_user(nobody, 1)
    assert not StreamMessage.objects.exists()


@pytest.mark.parametrize("nobody", ["nobody", [1], "1; --", "x" * 120])
def test_what_cannot_be_a_users_key_is_refused_and_never_handed_out(nobody: Any) -> None:
    """Kept, it would fail every look of every node for ever."""
    with pytest.raises(ValueError, match="user"):
        send_to_user(nobody, 1)
    assert not StreamMessage.objects.exists()


def test_key_that_nobody_has_is_handed_out_to_nobody() -> None:
    send_to_user(-1, 1)
    assert streams.waiting() == []


@pytest.mark.parametrize("nobody", [10**30, "9" * 40])
def test_key_that_nobody_can_have_is_refused(nobody: Any) -> None:
    with pytest.raises(ValueError, match="user"):
        send_to_user(nobody, 1)


@pytest.mark.parametrize("bad", [float("nan"), "\ud83d", {"\udc00": 1}])
def test_poison_is_refused(bad: Any, user: User) -> None:
    owner = session_of(user)
    with pytest.raises(ValueError, match=r"."):
        send_to_user(user, bad)
    assert inbox(owner) == []
