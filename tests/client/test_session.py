"""The client's half of the protocol, without any socket: hello, receiving, acknowledging."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graceful_ws.client.events import (
    CloseNeeded,
    GapTold,
    MessageNacked,
    MessageReceived,
    RoundTrip,
    VolatileReceived,
)
from graceful_ws.client.session import ClientSession

from .kit import T0, joined, message, sent, take, welcome
from .model import ModelServer, Wire

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
    [
        *("nonsense", "[1]", "{}", '{"type":"message","data":1}', '{"type":"ack","seq":"x"}', "7"),
        *(f'{{"type":"message","seq":{seq},"data":1}}' for seq in ('"1"', "1.5", "true", "null")),
    ],
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
    told = link.receive('{"type":"ping","sent_at":9,"rtt":0.25}', T0)
    assert told == [RoundTrip(0.25, own=False)]
    assert sent(link) == [{"type": "pong", "sent_at": 9, "seq": 1, "streams": {"room": 5}}]
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


def test_what_could_not_be_acknowledged_meanwhile_is_when_the_hello_came_to_nothing() -> None:
    """A server whose window is full sends nothing more that would bring the next one about."""
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    take(session, old.receive(message(1), T0))
    assert sent(old, T0 + 1) == []
    assert old.deadline == T0 + 2
    new.closed(1006, T0 + 1)
    assert sent(old, T0 + 2) == [{"type": "ack", "seq": 1}]
    assert old.deadline is None


def test_messages_of_a_lost_session_are_not_acknowledged_in_the_next() -> None:
    session = ClientSession()
    link = joined(session)
    late = link.receive(f"[{message(1)},{message(2)}]", T0)
    link.closed(1006, T0)
    link = joined(session, session_token="new")
    take(session, link.receive(message(1), T0))
    take(session, late)
    assert sent(link, T0 + 2) == [{"type": "ack", "seq": 1}]


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
