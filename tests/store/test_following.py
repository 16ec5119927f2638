"""Following streams: kept by the session's owner, once, whatever happens to its commits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from graceful_ws.models import Presence, StreamMessage, Subscription
from graceful_ws.store import streams
from graceful_ws.store.attach import Attached
from graceful_ws.store.base import forget_connection, is_outage
from graceful_ws.store.entries import Entry, Note
from graceful_ws.store.following import Audience, Publish, Subscribe, Unsubscribe
from graceful_ws.store.presence import exit_data, join_data
from graceful_ws.store.rounds import commit_all
from graceful_ws.store.streams import Tip
from tests.store.kit import (
    AFTER,
    BEFORE,
    append,
    attached,
    breaking_commits,
    detach,
    done,
    filled,
    kinds,
    number_all,
    refused_by,
    row,
    settle,
    stream_rows,
    unnumbered,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")
lost = pytest.mark.parametrize("when", [BEFORE, AFTER])


@pytest.fixture
def broken(database: Database) -> Callable[..., list[Any]]:
    """Tries entries in a round whose commit breaks."""

    def commit_breaks(when: str, *entries: Entry) -> None:
        with breaking_commits(database, iter([when])):
            outcomes = commit_all(entries)
        assert all(is_outage(outcome) for outcome in outcomes), outcomes
        forget_connection()

    return commit_breaks


def subscribe(owner: Attached, stream: str, *, presence: bool = False) -> Subscribe:
    joined = join_data(owner.uuid, None) if presence else None
    return Subscribe(owner.session, owner.generation, stream=stream, joined=joined)


def unsubscribe(owner: Attached, stream: str) -> Unsubscribe:
    left = exit_data(owner.uuid, None, "unsubscribed")
    return Unsubscribe(owner.session, owner.generation, stream=stream, left=left)


def audience(owner: Attached, *names: str) -> Audience:
    return Audience(
        owner.session,
        owner.generation,
        streams=names,
        joined=join_data(owner.uuid, None),
        left=exit_data(owner.uuid, None, "unsubscribed"),
    )


def publish(owner: Attached, stream: str, data: str) -> Publish:
    return Publish(owner.session, owner.generation, stream=stream, data=data)


def acked(owner: Attached, **positions: tuple[str, int]) -> Note:
    return Note(owner.session, owner.generation, streams=positions)


def followed(owner: Attached) -> dict[str, tuple[str, int, int]]:
    rows = Subscription.objects.filter(session=owner.session).order_by("pk")
    return {one.stream: (one.epoch, one.from_seq, one.acked_seq) for one in rows}


def told(owner: Attached) -> set[str]:
    """The streams that hear of the session."""
    return set(Presence.objects.filter(session=owner.session).values_list("stream", flat=True))


def heard(stream: str) -> list[str]:
    """What a stream hears of comings and goings, in order."""
    rows = StreamMessage.objects.filter(stream=stream).order_by("pk")
    return [json.loads(data)["type"] for data in rows.values_list("data", flat=True)]


# --- subscribe --------------------------------------------------------------------------------


def test_subscription_begins_behind_what_there_is() -> None:
    tip = filled("room", 3)
    owner = attached()
    streams.leave("room", "not numbered yet")
    assert done(subscribe(owner, "room")) == [tip]
    assert tip.head == 3
    assert followed(owner) == {"room": (tip.epoch, 3, 0)}
    assert not row(owner).present


def test_subscribing_again_goes_on_from_the_first_time() -> None:
    tip = filled("room", 3)
    owner = attached()
    assert done(subscribe(owner, "room"), subscribe(owner, "room")) == [tip, tip]
    filled("room", 2)
    assert done(subscribe(owner, "room")) == [tip]
    done(acked(owner, room=(tip.epoch, 4)))
    assert done(subscribe(owner, "room")) == [Tip(tip.epoch, 4)]
    assert followed(owner) == {"room": (tip.epoch, 3, 4)}


def test_subscribing_again_to_what_was_left_begins_behind_the_head() -> None:
    tip = filled("room", 1)
    owner = attached()
    done(subscribe(owner, "room"))
    filled("room", 2)
    outcomes = done(unsubscribe(owner, "room"), subscribe(owner, "room"))
    assert outcomes == [False, Tip(tip.epoch, 3)]
    assert followed(owner) == {"room": (tip.epoch, 3, 0)}
    done(unsubscribe(owner, "room"), unsubscribe(owner, "room"))
    assert followed(owner) == {}


def test_unknown_stream_says_so_and_harms_nobody_else_in_the_round() -> None:
    filled("room", 1)
    owner, other = attached(), attached()
    entries = [subscribe(owner, "new"), subscribe(owner, "room"), append(other, "1")]
    assert kinds(commit_all(entries)) == ["StreamUnknown", "", ""]
    assert list(followed(owner)) == ["room"]
    streams.create(["new"])
    [tip] = done(subscribe(owner, "new"))
    assert tip.head == 0
    assert list(followed(owner)) == ["room", "new"]


def test_unknown_stream_is_not_told_of_a_session_that_does_not_follow_it() -> None:
    owner = attached()
    assert kinds(commit_all([subscribe(owner, "new", presence=True)])) == ["StreamUnknown"]
    assert (told(owner), heard("new"), row(owner).present) == (set(), [], False)


def test_streams_of_many_sessions_in_one_round_do_not_mix() -> None:
    tips = {name: filled(name, n) for n, name in enumerate(("a", "b", "c"))}
    owners = [attached() for _ in range(3)]
    entries = [subscribe(owner, name) for owner in owners for name in ("a", "b", "c")]
    assert done(*entries) == [tips[name] for _ in owners for name in ("a", "b", "c")]
    done(unsubscribe(owners[1], "b"))
    assert [list(followed(owner)) for owner in owners] == [["a", "b", "c"], ["a", "c"], [*"abc"]]


def test_refused_entry_takes_no_subscription_of_others_with_it(database: Database) -> None:
    filled("room", 1)
    owner, other = attached(), attached()
    entries = [subscribe(owner, "room", presence=True), append(other, refused_by(database))]
    outcomes = commit_all(entries)
    assert isinstance(outcomes[0], Tip)
    assert isinstance(outcomes[1], Exception)
    assert len(unnumbered("room")) == 1
    assert told(owner) == {"room"}


# --- a commit whose answer was lost -----------------------------------------------------------


@lost
def test_subscription_whose_commit_broke_joins_once_and_misses_nothing(
    when: str, broken: Any
) -> None:
    tip = filled("room", 2)
    owner = attached()
    entry = subscribe(owner, "room", presence=True)
    broken(when, entry)
    streams.leave("room", '"meanwhile"')
    number_all("room")
    [found] = settle([entry])
    number_all("room")
    # What came between the two tries is behind the position, unless nothing was kept at first.
    assert found.head in ((2,) if when == AFTER else (3, 4))
    assert followed(owner) == {"room": (tip.epoch, found.head, 0)}
    joins = [data for _, data in stream_rows("room") if "client_join" in data]
    assert joins == [join_data(owner.uuid, None)]
    assert told(owner) == {"room"}
    assert row(owner).present


@lost
def test_end_of_a_subscription_whose_commit_broke_is_told_once(when: str, broken: Any) -> None:
    streams.create(["room"])
    owner = attached()
    done(subscribe(owner, "room", presence=True))
    entry = unsubscribe(owner, "room")
    broken(when, entry)
    settle([entry])
    assert heard("room") == ["client_join", "client_exit"]
    assert (followed(owner), told(owner), row(owner).present) == ({}, set(), False)


@lost
def test_message_whose_commit_broke_is_kept_once(when: str, broken: Any) -> None:
    owner = attached()
    entries = [publish(owner, "room", "same"), publish(owner, "room", "same")]
    broken(when, *entries)
    number_all("room")  # it may have been sent already
    settle(entries)
    number_all("room")
    assert stream_rows("room") == [(1, "same"), (2, "same")]


@lost
def test_message_whose_commit_broke_twice_is_kept_once(when: str, broken: Any) -> None:
    owner = attached()
    entry = publish(owner, "room", "1")
    broken(BEFORE, entry)
    broken(when, entry)
    settle([entry])
    number_all("room")
    assert stream_rows("room") == [(1, "1")]


@lost
def test_message_whose_commit_broke_is_kept_once_when_other_data_is_refused_then(
    when: str, broken: Any, database: Database
) -> None:
    owner, other = attached(), attached()
    entry = publish(owner, "room", "1")
    broken(when, entry)
    outcomes = settle([append(other, refused_by(database)), entry])
    assert isinstance(outcomes[0], Exception)
    number_all("room")
    assert stream_rows("room") == [(1, "1")]


@lost
def test_audience_whose_commit_broke_hears_once(when: str, broken: Any) -> None:
    owner = attached()
    done(audience(owner, "old"))
    entry = audience(owner, "new")
    broken(when, entry)
    settle([entry])
    assert heard("old") == ["client_join", "client_exit"]
    assert heard("new") == ["client_join"]
    assert told(owner) == {"new"}


# --- who may ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
def test_connection_that_is_over_can_neither_follow_nor_publish(ended: bool) -> None:
    streams.create(["room"])
    owner = attached()
    done(subscribe(owner, "room", presence=True))
    done(detach(owner, end=ended))
    entries: list[Entry] = [
        subscribe(owner, "other"),
        unsubscribe(owner, "room"),
        publish(owner, "room", "late"),
        audience(owner, "other"),
    ]
    assert kinds(commit_all(entries)) == ["Fenced"] * 4
    assert heard("room") == ["client_join"]
    assert list(followed(owner)) == ["room"]


def test_connection_that_was_taken_over_can_neither_follow_nor_publish() -> None:
    filled("room", 1)
    old = attached()
    done(subscribe(old, "room"))
    new = attached(token=old.token, instance="two")
    entries: list[Entry] = [
        subscribe(old, "room"),
        unsubscribe(old, "room"),
        publish(old, "room", '"late"'),
        audience(old, "room"),
        publish(new, "room", '"mine"'),
    ]
    assert kinds(commit_all(entries)) == ["Fenced"] * 4 + [""]
    assert unnumbered("room") == ['"mine"']
    assert list(followed(new)) == ["room"]


def test_late_acknowledgement_of_a_connection_that_was_taken_over_counts_for_nothing() -> None:
    tip = filled("room", 3)
    old = attached()
    done(subscribe(old, "room"))
    attached(token=old.token, instance="two")
    assert kinds(commit_all([acked(old, room=(tip.epoch, 3))])) == ["Fenced"]
    assert followed(old)["room"] == (tip.epoch, 3, 0)


# --- the audience -----------------------------------------------------------------------------


def test_audience_is_exactly_what_was_said_last() -> None:
    owner = attached()
    assert done(audience(owner, "a", "b")) == [["a", "b"]]
    assert row(owner).present
    assert done(audience(owner, "b", "a")) == [[]]
    assert done(audience(owner, "b", "c")) == [["a", "c"]]
    assert told(owner) == {"b", "c"}
    assert done(audience(owner)) == [["b", "c"]]
    assert (told(owner), row(owner).present) == (set(), False)
    assert heard("a") == heard("b") == heard("c") == ["client_join", "client_exit"]


def test_audience_follows_nothing_and_who_follows_need_not_be_audience() -> None:
    filled("room", 0)
    owner = attached()
    done(audience(owner, "watchers"), subscribe(owner, "room"))
    assert list(followed(owner)) == ["room"]
    assert told(owner) == {"watchers"}
    assert heard("room") == []


def test_presence_asked_for_later_joins_once() -> None:
    filled("room", 0)
    owner = attached()
    done(subscribe(owner, "room"))
    assert heard("room") == []
    done(subscribe(owner, "room", presence=True), subscribe(owner, "room", presence=True))
    assert heard("room") == ["client_join"]


def test_comings_and_goings_within_one_round_are_told_in_order() -> None:
    filled("room", 0)
    owner = attached()
    on, off = subscribe(owner, "room", presence=True), unsubscribe(owner, "room")
    again = subscribe(owner, "room", presence=True)
    done(on, off, again)
    assert heard("room") == ["client_join", "client_exit", "client_join"]
    assert (told(owner), list(followed(owner)), row(owner).present) == ({"room"}, ["room"], True)
    done(unsubscribe(owner, "room"), subscribe(owner, "room", presence=True))
    assert heard("room")[3:] == ["client_exit", "client_join"]
    assert (told(owner), list(followed(owner)), row(owner).present) == ({"room"}, ["room"], True)


# --- acknowledgements -------------------------------------------------------------------------


def test_acknowledgement_is_kept_and_never_goes_back() -> None:
    tip = filled("room", 5)
    owner = attached()
    done(subscribe(owner, "room"))
    filled("room", 5)
    done(acked(owner, room=(tip.epoch, 8)))
    assert followed(owner) == {"room": (tip.epoch, 5, 8)}
    done(acked(owner, room=(tip.epoch, 6)), acked(owner, elsewhere=(tip.epoch, 9)))
    assert followed(owner) == {"room": (tip.epoch, 5, 8)}


def test_acknowledgement_of_another_epoch_replaces_the_numbers_of_the_old_one() -> None:
    tip = filled("room", 9)
    owner, other = attached(), attached()
    done(subscribe(owner, "room"), subscribe(other, "room"))
    done(acked(owner, room=("another", 4)))
    assert followed(owner) == {"room": ("another", 4, 4)}
    done(acked(owner, room=("another", 6)))
    assert followed(owner) == {"room": ("another", 4, 6)}
    assert followed(other) == {"room": (tip.epoch, 9, 0)}


def test_acknowledgements_are_kept_with_the_end_of_the_connection() -> None:
    tip = filled("room", 2)
    owner = attached()
    done(subscribe(owner, "room"))
    entry = detach(owner)
    entry.streams = {"room": (tip.epoch, 7)}
    assert done(entry) == [True]
    assert followed(owner) == {"room": (tip.epoch, 2, 7)}


def test_resumed_session_is_told_what_it_follows_and_where_that_stands() -> None:
    tips = {name: filled(name, 2) for name in ("a", "b", "gone")}
    owner = attached()
    done(*(subscribe(owner, name) for name in ("a", "b", "gone")))
    now = filled("b", 3)
    StreamMessage.objects.all()._raw_delete("default")
    streams.Stream.objects.filter(name="gone").delete()
    back = attached(token=owner.token, attempt=2)
    found = {one.stream: (one.epoch, one.from_seq, one.tip) for one in back.subscriptions}
    assert found == {
        "a": (tips["a"].epoch, 2, tips["a"]),
        "b": (tips["b"].epoch, 2, now),
        "gone": (tips["gone"].epoch, 2, None),
    }
