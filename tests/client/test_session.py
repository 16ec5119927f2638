"""The client's half of the protocol against the pure parts of the server's, without any socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graceful_ws.client.events import (
    CloseNeeded,
    Draining,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    Superseded,
    VolatileReceived,
    Welcomed,
)
from graceful_ws.client.link import Link
from graceful_ws.client.session import ClientSession
from graceful_ws.core import frames

from .model import ModelServer, Wire

T0 = 100.0


def welcome(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "session_id": "session",
        "session_token": "token",
        "resumed": False,
        "last_client_seq": 0,
        "head": 0,
        "heartbeat": {"interval": 5, "timeout": 3, "max_missed": 3},
        "resume_window": 3600.0,
        "reconnect_window": 5.0,
        "limits": {"message_bytes": 1000, "unacked": 64, "unacked_bytes": 256 * 1024},
        "streams": {},
        "node": "n",
    }
    return frames.encode(frames.Welcome(**{**fields, **changes}))


def message(seq: int, data: Any = None, stream: str | None = None) -> str:
    frame = {"type": "message", "seq": seq, "data": data}
    return json.dumps(frame if stream is None else {**frame, "stream": stream})


def joined(session: ClientSession, **changes: Any) -> Link:
    """A link of the session that has been welcomed."""
    link = session.connect()
    link.hello()
    link.receive(welcome(**changes), T0)
    return link


def sent(link: Link, now: float = T0) -> list[dict[str, Any]]:
    return [json.loads(text) for text in link.data_to_send(now)]


def take(session: ClientSession, events: list[Event], now: float = T0) -> list[Any]:
    """The application takes the messages; returns their data."""
    found = [event for event in events if isinstance(event, MessageReceived)]
    for event in found:
        session.handed(event, now)
    return [event.data for event in found]


# --- hello -------------------------------------------------------------------------------------


def test_first_hello_names_instance_and_attempt_and_nothing_to_resume() -> None:
    session = ClientSession()
    hello = json.loads(session.connect().hello())
    assert hello == {"type": "hello", "version": 1, "instance": session.instance, "attempt": 1}


def test_hello_of_a_resume_says_what_was_received_and_what_waits() -> None:
    session = ClientSession()
    link = joined(session)
    link.receive(
        '{"type":"subscribed","stream":"room","epoch":"e","head":7}',
        T0,
    )
    link.receive(f"[{message(1)},{message(8, stream='room')}]", T0)
    session.send("a")
    link.closed(1006, T0)
    hello = json.loads(session.connect().hello())
    assert hello["attempt"] == 2
    assert hello["session_token"] == "token"
    assert hello["last_seq_id"] == 1
    assert hello["positions"] == {"room": ["e", 8]}
    assert hello["pending_from"] == 1


def test_every_client_object_is_another_instance() -> None:
    assert ClientSession().instance != ClientSession().instance


def test_nothing_is_sent_before_the_welcome() -> None:
    session = ClientSession()
    link = session.connect()
    link.hello()
    session.send(1)
    assert session.volatile(2) is False
    assert link.data_to_send(T0) == []


# --- what the server would close for -----------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    ["hi \ud83d", {"a": float("nan")}, float("inf"), "x" * 1000, json.loads("[" * 70 + "]" * 70)],
    ids=["ill-formed Unicode", "NaN", "infinity", "over message_bytes", "nested too deep"],
)
def test_data_that_the_server_would_close_for_is_refused_here(data: Any) -> None:
    session = ClientSession()
    joined(session)
    with pytest.raises(ValueError):
        session.send(data)
    with pytest.raises(ValueError):
        session.volatile(data)
    assert session.waiting == 0


def test_message_over_a_limit_that_was_not_known_yet_fails_at_the_welcome() -> None:
    session = ClientSession()
    session.send("x" * 2000)
    session.send("small")
    link = session.connect()
    link.hello()
    events = link.receive(welcome(), T0)
    assert [(e.code, e.seq) for e in events if isinstance(e, MessageNacked)] == [("too_big", 1)]
    assert sent(link) == [{"type": "message", "seq": 1, "data": "small"}]


def test_credit_of_the_welcome_is_never_exceeded_as_the_server_counts_it() -> None:
    server = ModelServer(unacked=5, unacked_bytes=1000)
    session = ClientSession()
    wire = Wire(session, server)
    wire.up()
    wire.down(T0)
    for size in (1, 1, 300, 300, 300, 1, 1):
        session.send("x" * size)
    for _ in range(7):
        wire.flush(T0)
        while wire.upward:
            wire.up()  # raises 4201 past the credit
        wire.server.handle("result")
        wire.down(T0)
    assert server.done == 7


# --- receiving ---------------------------------------------------------------------------------


def test_hole_ends_the_connection_with_4000_and_the_resume_asks_for_what_is_missing() -> None:
    session = ClientSession()
    link = joined(session)
    events = link.receive(f"[{message(1, 'a')},{message(3, 'c')}]", T0)
    assert take(session, events) == ["a"]
    assert [e.code for e in events if isinstance(e, CloseNeeded)] == [4000]
    link.closed(4000, T0)
    assert json.loads(session.connect().hello())["last_seq_id"] == 1


@pytest.mark.parametrize(
    "text",
    ["nonsense", "[1]", "{}", '{"type":"message","data":1}', '{"type":"ack","seq":"x"}', "7"],
)
def test_unreadable_text_ends_the_connection_with_4000(text: str) -> None:
    link = joined(ClientSession())
    assert [type(event) for event in link.receive(text, T0)] == [CloseNeeded]


def test_unknown_frames_and_keys_are_ignored() -> None:
    link = joined(ClientSession())
    assert link.receive('[{"type":"news","x":1},{"type":"ping","sent_at":1,"new":2}]', T0) == []
    assert sent(link) == [{"type": "pong", "sent_at": 1}]


def test_volatiles_have_no_number() -> None:
    link = joined(ClientSession())
    assert link.receive('{"type":"volatile","data":5}', T0) == [VolatileReceived(5)]


def test_stream_whose_subscription_was_not_heard_of_starts_with_its_first_message() -> None:
    session = ClientSession()
    link = joined(session)
    events = link.receive(f"[{message(41, 'x', 'room')},{message(42, 'y', 'room')}]", T0)
    assert take(session, events) == ["x", "y"]


def test_gap_moves_the_position_by_itself() -> None:
    session = ClientSession()
    link = joined(session)
    told = link.receive('{"type":"gap","reason":"trimmed","from":1,"oldest":5,"head":9}', T0)
    assert told == [GapTold("trimmed", None, 1, 5, 9)]
    assert take(session, link.receive(message(10, "on"), T0)) == ["on"]


def test_stream_with_another_epoch_counts_from_where_the_gap_says() -> None:
    session = ClientSession()
    link = joined(session)
    link.receive('{"type":"subscribed","stream":"room","epoch":"e","head":90}', T0)
    link.receive('{"type":"gap","stream":"room","reason":"epoch","head":3,"epoch":"f"}', T0)
    assert take(session, link.receive(message(4, "on", "room"), T0)) == ["on"]
    link.closed(1006, T0)
    assert json.loads(session.connect().hello())["positions"] == {"room": ["f", 4]}


# --- acknowledging -----------------------------------------------------------------------------


def test_only_what_the_application_took_is_acknowledged_after_a_second() -> None:
    session = ClientSession()
    link = joined(session)
    events = link.receive(f"[{message(1)},{message(2)}]", T0)
    assert sent(link, T0 + 5) == []
    take(session, events[:1], T0 + 5)
    assert sent(link, T0 + 5.9) == []
    assert link.deadline == T0 + 6
    assert sent(link, T0 + 6) == [{"type": "ack", "seq": 1}]
    assert link.deadline is None
    assert sent(link, T0 + 60) == []


@pytest.mark.parametrize(("count", "size"), [(50, 1), (3, 30_000)])
def test_fifty_messages_or_64_kib_are_acknowledged_at_once(count: int, size: int) -> None:
    session = ClientSession()
    link = joined(session)
    for seq in range(1, count + 1):
        assert sent(link) == []
        take(session, link.receive(message(seq, "x" * size), T0))
    assert sent(link) == [{"type": "ack", "seq": count}]


def test_pong_carries_the_acknowledgement() -> None:
    session = ClientSession()
    link = joined(session)
    link.receive('{"type":"subscribed","stream":"room","epoch":"e","head":4}', T0)
    take(session, link.receive(f"[{message(1)},{message(5, stream='room')}]", T0))
    link.receive('{"type":"ping","sent_at":9,"rtt":0.25}', T0)
    assert sent(link) == [{"type": "pong", "sent_at": 9, "seq": 1, "streams": {"room": 5}}]
    assert session.rtt == 0.25
    assert sent(link, T0 + 9) == []


def test_connection_hears_no_ack_of_what_it_has_not_sent() -> None:
    """What came on the old connection after the new one's hello is ahead of the new one."""
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    take(session, old.receive(f"[{message(1)},{message(2)},{message(3)}]", T0))
    new.receive(welcome(resumed=True, session_token=None, head=3), T0)
    assert new.receive(message(1), T0) == []
    new.receive('{"type":"ping","sent_at":1}', T0)
    assert sent(new) == [{"type": "pong", "sent_at": 1, "seq": 1}]


def test_nothing_is_acknowledged_while_another_hello_is_on_its_way() -> None:
    """It says that less was received, and what is acknowledged may be deleted."""
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    take(session, old.receive(f'[{message(1)},{{"type":"ping","sent_at":1}}]', T0))
    assert sent(old, T0 + 5) == [{"type": "pong", "sent_at": 1}]
    new.closed(1006, T0)
    old.receive('{"type":"ping","sent_at":2}', T0)
    assert sent(old, T0 + 5) == [{"type": "pong", "sent_at": 2, "seq": 1}]


def test_messages_of_a_lost_session_are_not_acknowledged_in_the_next() -> None:
    session = ClientSession()
    link = joined(session)
    late = link.receive(f"[{message(1)},{message(2)}]", T0)
    link.closed(1006, T0)
    link = joined(session, session_token="new")
    take(session, link.receive(message(1), T0))
    take(session, late)
    assert sent(link, T0 + 2) == [{"type": "ack", "seq": 1}]


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


# --- an application that does not read ----------------------------------------------------------


def test_messages_that_nobody_took_can_be_given_up_and_come_again() -> None:
    session = ClientSession()
    link = joined(session)
    events = link.receive(f"[{message(1)},{message(2)},{message(3)}]", T0)
    take(session, events[:1])
    link.closed(1006, T0)
    unread = [event for event in events[1:] if isinstance(event, MessageReceived)]
    assert session.forget(unread) == []
    assert json.loads(session.connect().hello())["last_seq_id"] == 1
    link = joined(session, resumed=True, session_token=None, head=3)
    again = take(session, link.receive(f"[{message(2, 'b')},{message(3, 'c')}]", T0))
    assert again == ["b", "c"]
    assert session.replayed == 2
