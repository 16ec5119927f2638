"""Who has gone is told once for each absence, by whichever node comes first."""

from __future__ import annotations

import json
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User

from graceful_ws.models import Presence, Session, StreamMessage
from graceful_ws.publishing import online
from graceful_ws.store import nodes, presence, retention, streams
from graceful_ws.store.attach import Attached, Identity
from graceful_ws.store.entries import Detach, Later
from graceful_ws.store.following import Subscribe, Unsubscribe
from graceful_ws.store.presence import announce_exits, exit_data, join_data
from tests.store.kit import (
    WITHIN,
    Elsewhere,
    ago,
    attached,
    detach,
    done,
    locked_elsewhere,
    node,
    row,
    stream_rows,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def present(*names: str, **changes: Any) -> Attached:
    """A session whose comings and goings these streams are told."""
    owner = attached(**changes)
    follow(owner, *names or ("room",))
    return owner


def follow(owner: Attached, *names: str) -> None:
    streams.create(list(names))
    joined = join_data(owner.uuid, row(owner).user_id)
    done(*(Subscribe(owner.session, owner.generation, name, joined) for name in names))


def leave(owner: Attached, *, cause: str = "lost", code: int = 1006, end: bool = False) -> None:
    entry = Detach(
        owner.session, owner.generation, end=end, close_code=code, close_reason="", cause=cause
    )
    assert done(entry) == [True]


def away(owner: Attached, seconds: float) -> None:
    """It has been away for so long."""
    Session.objects.filter(pk=owner.session).update(left_at=ago(seconds))


def back(owner: Attached, attempt: int = 2) -> Attached:
    return attached(token=owner.token, attempt=attempt)


def told(stream: str = "room") -> list[dict[str, Any]]:
    """What a stream heard of exits, in order."""
    rows = StreamMessage.objects.filter(stream=stream).order_by("pk")
    heard = [json.loads(data) for data in rows.values_list("data", flat=True)]
    return [one for one in heard if one["type"] == "client_exit"]


def kinds(stream: str = "room") -> list[str]:
    rows = StreamMessage.objects.filter(stream=stream).order_by("pk")
    return [json.loads(data)["type"] for data in rows.values_list("data", flat=True)]


def ids(stream: str = "room") -> list[str]:
    return [one.client_id for one in online(stream)]


# --- who is there -----------------------------------------------------------------------------


def test_who_is_there_is_listed_with_the_longest_first() -> None:
    user = User.objects.create_user("visitor")
    first = present("room")
    second = present("room", "other", identity=Identity(user_id=user.pk))
    attached()  # follows nothing
    listed = online("room")
    assert [one.client_id for one in listed] == [str(first.uuid), str(second.uuid)]
    assert [one.user for one in listed] == [None, user.pk]
    assert [one.since for one in listed] == [row(first).started_at, row(second).started_at]
    assert ids("other") == [str(second.uuid)]
    assert ids("Room") == []
    with pytest.raises(ValueError, match="name"):
        online("")


def test_who_is_away_for_a_moment_is_still_there_and_who_was_announced_is_not() -> None:
    owner = present()
    leave(owner)
    assert ids() == [str(owner.uuid)]
    away(owner, 16)
    announce_exits(absences=True)
    assert ids() == []
    back(owner)
    assert ids() == [str(owner.uuid)]


# --- when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("absences", [False, True])
def test_end_of_a_session_is_announced_at_once(absences: bool) -> None:
    owner = present("room", "other")
    leave(owner, cause="bye", code=1000, end=True)
    assert announce_exits(absences=absences) == ["other", "room"]
    told_of_it = {
        "type": "client_exit",
        "client_id": str(owner.uuid),
        "cause": "bye",
        "code": 1000,
    }
    assert told("room") == told("other") == [told_of_it]
    assert announce_exits(absences=absences) == []
    assert len(told("room")) == 1
    assert ids() == []
    assert not Presence.objects.exists()


def test_absence_is_announced_after_the_grace_and_not_before() -> None:
    owner = present()
    leave(owner)
    away(owner, 14)
    assert announce_exits(absences=True) == []
    assert told() == []
    away(owner, 15.1)
    assert announce_exits(absences=False) == []  # for now only what is over
    assert told() == []
    assert announce_exits(absences=True) == ["room"]
    assert [one["client_id"] for one in told()] == [str(owner.uuid)]
    assert announce_exits(absences=True) == []


def test_session_without_an_audience_is_announced_to_nobody() -> None:
    owner = attached()
    leave(owner, end=True)
    assert announce_exits(absences=True) == []
    assert not StreamMessage.objects.exists()


def test_exits_of_more_sessions_than_a_batch_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BATCH", 2)
    owners = [present() for _ in range(5)]
    for owner in owners:
        leave(owner, end=True)
    rounds = 0
    while announce_exits(absences=False):
        rounds += 1
    assert rounds == 3
    assert {one["client_id"] for one in told()} == {str(owner.uuid) for owner in owners}
    assert len(told()) == 5


def test_exit_is_numbered_like_any_message() -> None:
    owner = present()
    leave(owner, end=True, cause="bye", code=1000)
    announce_exits(absences=False)
    streams.number("room")
    assert stream_rows("room") == [
        (1, join_data(owner.uuid, None)),
        (2, exit_data(owner.uuid, None, "bye", 1000)),
    ]


# --- why --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "code", "said"),
    [
        ("bye", 1000, "bye"),
        ("closed", 4507, "closed"),
        ("lost", 1006, "timeout"),
        ("timeout", 4102, "timeout"),
        ("drain", 1012, "timeout"),
    ],
)
def test_exit_says_why(cause: str, code: int, said: str) -> None:
    user = User.objects.create_user("visitor")
    owner = present(identity=Identity(user_id=user.pk))
    leave(owner, cause=cause, code=code, end=True)
    announce_exits(absences=False)
    [exit] = told()
    assert (exit["cause"], exit["code"], exit["user"]) == (said, code, user.pk)


def test_session_closed_by_an_operator_is_announced_at_once_and_once() -> None:
    owner = present()
    assert nodes.end_session(owner.uuid, 4506, "", actor="root")
    assert announce_exits(absences=False) == ["room"]
    [exit] = told()
    assert (exit["cause"], exit["code"]) == ("closed", 4506)
    assert not nodes.end_session(owner.uuid, 4506, "")
    assert announce_exits(absences=True) == []


def test_session_closed_by_an_operator_after_its_exit_has_no_second_one() -> None:
    owner = present()
    leave(owner)
    away(owner, 20)
    announce_exits(absences=True)
    assert nodes.end_session(owner.uuid, 4506, "")
    assert announce_exits(absences=True) == []
    assert len(told()) == 1


def test_session_of_a_dead_node_is_announced_after_the_grace_with_the_cause() -> None:
    where = node()
    owner = present(node=where)
    nodes.report(where, "dead")
    assert nodes.detach_dead() == 1
    assert announce_exits(absences=True) == []
    away(owner, 16)
    assert announce_exits(absences=True) == ["room"]
    [exit] = told()
    assert exit["cause"] == "node_lost"


def test_session_that_nobody_resumed_has_no_second_exit_when_it_expires() -> None:
    owner = present()
    leave(owner)
    away(owner, 4000)
    announce_exits(absences=True)
    assert retention.expire() == [(owner.uuid, "tests.consumers.Echo")]
    assert announce_exits(absences=True) == []
    assert len(told()) == 1


def test_nothing_is_left_of_the_audience_of_a_session_that_expired_and_was_purged() -> None:
    owner = present()
    leave(owner)
    away(owner, 4000)
    announce_exits(absences=True)
    retention.expire()
    old = ago(100_000)
    Session.objects.filter(pk=owner.session).update(left_at=old, ended_at=old)
    for _ in range(3):
        retention.purge()
    assert not Session.objects.filter(pk=owner.session).exists()
    assert not Presence.objects.exists()


def test_who_unsubscribes_is_announced_by_that_and_not_again() -> None:
    owner = present("room", "other")
    left = exit_data(owner.uuid, None, "unsubscribed")
    done(Unsubscribe(owner.session, owner.generation, "room", left))
    assert [one["cause"] for one in told("room")] == ["unsubscribed"]
    leave(owner, end=True)
    assert announce_exits(absences=False) == ["other"]
    assert len(told("room")) == len(told("other")) == 1


def test_who_unsubscribed_from_everything_is_announced_no_more() -> None:
    owner = present("room")
    left = exit_data(owner.uuid, None, "unsubscribed")
    done(Unsubscribe(owner.session, owner.generation, "room", left))
    leave(owner, end=True)
    assert announce_exits(absences=True) == []
    assert len(told()) == 1


# --- coming back ------------------------------------------------------------------------------


def test_resume_in_time_says_nothing() -> None:
    owner = present()
    leave(owner)
    away(owner, 14)
    assert back(owner).told == []
    assert announce_exits(absences=True) == []
    assert kinds() == ["client_join"]


def test_resume_between_the_look_and_the_exit_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = present()
    leave(owner)
    away(owner, 20)
    writing, resumed = presence.writing, []

    def later() -> Any:
        if not resumed:
            resumed.append(back(owner))
        return writing()

    monkeypatch.setattr(presence, "writing", later)
    assert announce_exits(absences=True) == []
    assert resumed
    assert resumed[0].resumed
    assert kinds() == ["client_join"]
    assert row(owner).present


@pytest.mark.postgres_only
def test_resume_that_is_under_way_is_not_waited_for(database: Database) -> None:
    owner, other = present(), present()
    for one in (owner, other):
        leave(one)
        away(one, 20)
    with locked_elsewhere(database, owner):
        assert announce_exits(absences=True) == ["room"]
        assert [one["client_id"] for one in told()] == [str(other.uuid)]
    assert announce_exits(absences=True) == ["room"]
    assert [one["client_id"] for one in told()] == [str(other.uuid), str(owner.uuid)]


def test_resume_after_the_exit_is_a_join_and_the_next_absence_an_exit_again() -> None:
    owner = present("room", "other")
    leave(owner)
    away(owner, 16)
    announce_exits(absences=True)
    returned = back(owner)
    assert returned.told == ["other", "room"]
    assert kinds() == kinds("other") == ["client_join", "client_exit", "client_join"]
    assert back(owner, attempt=3).told == []
    again = attached(token=owner.token, attempt=4)
    leave(again)
    away(again, 16)
    assert announce_exits(absences=True) == ["other", "room"]
    assert announce_exits(absences=True) == []
    assert kinds() == ["client_join", "client_exit"] * 2


def test_subscription_after_a_return_is_not_a_second_join() -> None:
    owner = present()
    leave(owner)
    away(owner, 16)
    announce_exits(absences=True)
    follow(back(owner), "room")
    assert kinds() == ["client_join", "client_exit", "client_join"]


# --- at once ----------------------------------------------------------------------------------


def test_nodes_that_announce_at_once_tell_of_each_absence_once(elsewhere: Elsewhere) -> None:
    owners = [present("room", "other") for _ in range(12)]
    for n, owner in enumerate(owners):
        leave(owner, end=bool(n % 2))
        away(owner, 20)
    start = Barrier(4)

    def announces() -> None:
        start.wait(WITHIN)
        while announce_exits(absences=True):
            pass

    for future in [elsewhere.start(announces) for _ in range(4)]:
        future.result(WITHIN)
    announces_what_is_left = announce_exits(absences=True)
    assert announces_what_is_left == []
    everybody = sorted(str(owner.uuid) for owner in owners)
    assert sorted(one["client_id"] for one in told("room")) == everybody
    assert sorted(one["client_id"] for one in told("other")) == everybody


def test_exit_and_return_at_once_end_with_who_is_there(elsewhere: Elsewhere) -> None:
    """Either the exit comes first and the return is told, or neither is."""
    for _ in range(5):
        owner = present("room")
        leave(owner)
        away(owner, 20)
        start = Barrier(2)

        def announces(start: Barrier = start) -> None:
            start.wait(WITHIN)
            announce_exits(absences=True)

        def returns(start: Barrier = start, owner: Attached = owner) -> Attached:
            start.wait(WITHIN)
            while True:
                try:
                    return back(owner)
                except Later:
                    continue

        announcing, returning = elsewhere.start(announces), elsewhere.start(returns)
        announcing.result(WITHIN)
        returned = returning.result(WITHIN)
        announce_exits(absences=True)
        mine = [
            json.loads(data)["type"]
            for data in StreamMessage.objects.order_by("pk").values_list("data", flat=True)
            if str(owner.uuid) in data
        ]
        assert mine in (["client_join"], ["client_join", "client_exit", "client_join"])
        assert str(owner.uuid) in ids()
        done(detach(returned))
