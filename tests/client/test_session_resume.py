"""What a client sends, sends again, gives up or takes into the next session, without any socket."""

from __future__ import annotations

import json

import pytest

from graceful_ws.client.events import (
    CloseNeeded,
    Draining,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    Superseded,
    Welcomed,
)
from graceful_ws.client.session import ClientSession

from .kit import T0, joined, message, sent, take, welcome

# --- sending -----------------------------------------------------------------------------------


def test_result_of_a_message_comes_with_its_ack() -> None:
    session = ClientSession()
    link = joined(session)
    first, second = session.send("a"), session.send("b")
    assert [frame["seq"] for frame in sent(link)] == [1, 2]
    events = link.receive('{"type":"ack","seq":2,"results":{"2":{"x":1}}}', T0)
    assert events == [
        MessageAcknowledged(1, None, first),
        MessageAcknowledged(2, {"x": 1}, second),
    ]
    assert link.receive('{"type":"ack","seq":2}', T0) == []


def test_nack_with_retry_sends_from_that_number_again_after_its_time() -> None:
    session = ClientSession()
    link = joined(session)
    for data in "abc":
        session.send(data)
    sent(link)
    link.receive('{"type":"ack","seq":1}', T0)
    events = link.receive(
        '{"type":"nack","seq":2,"code":"try_again","retry":true,"retry_after":500}', T0
    )
    assert [(e.seq, e.retry) for e in events if isinstance(e, MessageNacked)] == [(2, True)]
    session.send("d")
    assert sent(link, T0 + 0.4) == []
    assert link.deadline == T0 + 0.5
    assert [frame["data"] for frame in sent(link, T0 + 0.5)] == ["b", "c", "d"]
    assert session.resent == 2


def test_after_a_resume_what_is_done_is_not_sent_again_and_its_result_still_comes() -> None:
    session = ClientSession()
    link = joined(session)
    for data in "abc":
        session.send(data)
    sent(link)
    link.closed(1006, T0)
    link = joined(session, resumed=True, session_token=None, last_client_seq=2)
    assert [frame["data"] for frame in sent(link)] == ["c"]
    events = link.receive('{"type":"ack","seq":2,"results":{"1":"A"}}', T0)
    assert [e.result for e in events if isinstance(e, MessageAcknowledged)] == ["A", None]


def test_lost_session_is_told_as_a_gap_once_and_what_waits_goes_into_the_next() -> None:
    session = ClientSession()
    link = joined(session)
    link.receive(f"[{message(1)},{message(2)}]", T0)
    for data in "abc":
        session.send(data)
    sent(link)
    link.receive('{"type":"ack","seq":1}', T0)
    link.closed(1006, T0)
    link = session.connect()
    link.hello()
    told = link.receive(f'[{welcome()},{{"type":"gap","reason":"expired","head":0}}]', T0)
    assert told[1:] == [GapTold("expired", None, 3, None, 0)]
    assert [(f["seq"], f["data"]) for f in sent(link)] == [(1, "b"), (2, "c")]
    assert take(session, link.receive(message(1, "new"), T0)) == ["new"]
    events = link.receive('{"type":"ack","seq":1}', T0)
    assert [e.message.data for e in events if isinstance(e, MessageAcknowledged)] == ['"b"']


def test_new_instance_of_a_session_numbers_behind_the_old_one() -> None:
    session = ClientSession(token="token", last_seq=3)
    session.send("a")
    link = session.connect()
    hello = json.loads(link.hello())
    assert (hello["session_token"], hello["last_seq_id"]) == ("token", 3)
    assert "pending_from" not in hello
    link.receive(welcome(resumed=True, session_token=None, last_client_seq=7), T0)
    assert [frame["seq"] for frame in sent(link)] == [8]


# --- the end of a connection -------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1009, 1011, 1012, 1013, 4102, 4201, 4401, 4501])
def test_token_is_kept_after(code: int) -> None:
    session = ClientSession()
    joined(session).closed(code, T0)
    assert "session_token" in json.loads(session.connect().hello())


@pytest.mark.parametrize("code", [4300, 4301, 4403])
def test_token_is_dropped_and_the_loss_is_told_after(code: int) -> None:
    session = ClientSession()
    link = joined(session)
    link.receive(message(1), T0)
    link.closed(code, T0)
    link = session.connect()
    assert "session_token" not in json.loads(link.hello())
    events = link.receive(welcome(), T0)
    assert [type(event) for event in events] == [Welcomed, GapTold]


@pytest.mark.parametrize("code", [1002, 1008])
def test_third_refusal_in_a_row_drops_the_token(code: int) -> None:
    session = ClientSession()
    joined(session)
    for refusals in range(1, 6):
        link = session.connect()
        hello = json.loads(link.hello())
        assert ("session_token" in hello) == (refusals <= 3)
        session.connect().closed(1006, T0)  # a dial that did not get as far as its hello
        link.closed(code, T0)


def test_welcome_in_between_starts_the_count_of_refusals_afresh() -> None:
    session = ClientSession()
    for _ in range(4):
        link = session.connect()
        link.hello()
        link.closed(1002, T0)
        joined(session, resumed=True).closed(1006, T0)
    assert session.token == "token"


@pytest.mark.parametrize("code", [1007, 1009])
def test_what_was_in_flight_at_a_poison_close_fails_and_the_rest_goes_on(code: int) -> None:
    session = ClientSession()
    link = joined(session, limits={"unacked": 2})
    for data in "abcd":
        session.send(data)
    sent(link)
    failed = link.closed(code, T0)
    assert [(e.seq, e.code) for e in failed if isinstance(e, MessageNacked)] == [
        (1, "poison"),
        (2, "poison"),
    ]
    link = joined(session, resumed=True, session_token=None, last_client_seq=1)
    assert [(f["seq"], f["data"]) for f in sent(link)] == [(2, "c"), (3, "d")]


def test_messages_of_one_identity_are_not_sent_as_another() -> None:
    session = ClientSession()
    joined(session)
    session.send("mine")
    link = session.connect()
    link.hello()
    failed = link.closed(4403, T0)
    assert [e.code for e in failed if isinstance(e, MessageNacked)] == ["other_identity"]
    assert sent(joined(session)) == []


# --- two connections ---------------------------------------------------------------------------


def test_old_connection_counts_until_the_successor_is_welcomed_and_not_after() -> None:
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    assert take(session, old.receive(message(1, "a"), T0)) == ["a"]
    new.receive(welcome(resumed=True, session_token=None), T0)
    assert old.receive(message(2, "late"), T0) == []
    assert old.receive('{"type":"ping","sent_at":1}', T0) == []
    assert old.data_to_send(T0) == []
    session.send("x")
    assert old.closed(1009, T0) == []
    assert session.link is new
    assert [frame["data"] for frame in sent(new)] == ["x"]


def test_refused_successor_leaves_the_old_connection_as_it_was() -> None:
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    assert new.closed(1013, T0) == []
    session.send("x")
    assert [frame["data"] for frame in sent(old)] == ["x"]


def test_welcome_that_comes_after_that_of_a_later_hello_is_worth_nothing() -> None:
    session = ClientSession()
    slow = session.connect()
    slow.hello()
    joined(session)
    events = slow.receive(welcome(), T0)
    assert [type(event) for event in events] == [CloseNeeded]
    assert session.link is not slow


def test_nothing_is_sent_while_a_successor_is_about_to_be_dialled() -> None:
    session = ClientSession()
    link = joined(session)
    session.send("a")
    sent(link)
    session.holding = True
    session.send("b")
    assert sent(link) == []
    assert not session.quiet
    link.receive('{"type":"ack","seq":1}', T0)
    assert session.quiet
    new = joined(session, resumed=True, session_token=None, last_client_seq=1)
    assert [frame["data"] for frame in sent(new)] == ["b"]


def test_drain_notice_is_told_in_seconds() -> None:
    link = joined(ClientSession())
    text = '{"type":"drain","reconnect_in":1500,"close_in":9000,"reason":"deploy"}'
    assert link.receive(text, T0) == [Draining(1.5, 9.0, "deploy")]


def test_only_another_instance_supersedes() -> None:
    session = ClientSession()
    link = joined(session)
    assert link.receive(f'{{"type":"superseded","instance":"{session.instance}"}}', T0) == []
    assert link.superseded_by_self
    assert link.receive('{"type":"superseded","instance":"x"}', T0) == [Superseded("x")]
