"""Where a client goes on in its streams, as its welcome says."""

from __future__ import annotations

import json

import pytest

from graceful_ws.client.events import GapTold, MessageReceived
from graceful_ws.client.session import ClientSession

from .kit import T0, joined, message, take, welcome


def subscribed(stream: str, head: int, epoch: str = "e") -> str:
    return json.dumps({"type": "subscribed", "stream": stream, "epoch": epoch, "head": head})


def new(head: int, epoch: str = "e") -> dict[str, dict[str, object]]:
    return {"s": {"epoch": epoch, "head": head, "state": "new"}}


def test_what_the_old_connection_brought_after_the_hello_is_not_delivered_again() -> None:
    session = ClientSession()
    old = joined(session)
    successor = session.connect()
    assert "positions" not in json.loads(successor.hello()), "it follows nothing yet"
    old.receive(subscribed("s", 10), T0)
    assert take(session, old.receive(message(11, "a", "s"), T0)) == ["a"]
    successor.receive(welcome(resumed=True, session_token=None, streams=new(10)), T0)
    assert take(session, successor.receive(message(11, "a", "s"), T0)) == []
    assert take(session, successor.receive(message(12, "b", "s"), T0)) == ["b"]


@pytest.mark.parametrize("told", [new(20), new(5, "f")], ids=["further on", "another epoch"])
def test_a_stream_that_begins_elsewhere_begins_there(told: dict[str, dict[str, object]]) -> None:
    session = ClientSession()
    old = joined(session)
    old.receive(subscribed("s", 10), T0)
    take(session, old.receive(message(11, "a", "s"), T0))
    head = int(str(told["s"]["head"]))
    link = joined(session, resumed=True, session_token=None, streams=told)
    events = link.receive(message(head + 1, "b", "s"), T0)
    assert [type(event) for event in events] == [MessageReceived]
    assert take(session, events) == ["b"]


def test_a_denied_stream_is_forgotten() -> None:
    session = ClientSession()
    joined(session).receive(subscribed("s", 10), T0)
    joined(session, resumed=True, session_token=None, streams={"s": {"state": "denied"}})
    assert session.streams == {}


def test_a_gap_of_a_stream_moves_its_position_and_epoch() -> None:
    session = ClientSession()
    link = joined(session)
    link.receive(subscribed("s", 10), T0)
    gap = {"type": "gap", "stream": "s", "reason": "epoch", "head": 4, "epoch": "f"}
    [told] = link.receive(json.dumps(gap), T0)
    assert isinstance(told, GapTold)
    assert take(session, link.receive(message(5, "x", "s"), T0)) == ["x"]
    assert json.loads(session.connect().hello())["positions"] == {"s": ["f", 5]}
