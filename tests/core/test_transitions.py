from __future__ import annotations

from typing import get_args

import pytest

from graceful_ws.core.connection import Connection, Limits
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    DRAIN_STARTED,
    FRAME_RECEIVED,
    FRAME_SENT,
    MESSAGE_RECEIVED,
    MESSAGE_SENT,
    OPENED,
    TRANSITIONS,
    WELCOMED,
    CloseRequested,
    Event,
    IllegalTransition,
    PongReceived,
    State,
    TransportClosed,
    Trigger,
)
from tests.core import make_states

# Written by hand, not taken from the table. A dot: the state stays; a dash: it cannot happen.
MATRIX = """
                 disconnected connecting   connected    idle         suspect      draining     closing
Opened           connecting   -            -            -            -            -            -
Welcomed         -            connected    -            -            -            .            -
FrameReceived    .            .            .            .            connected    .            .
MessageReceived  .            .            .            connected    connected    .            .
PongReceived     .            -            .            .            connected    .            .
FrameSent        .            .            .            .            .            .            .
MessageSent      .            .            .            connected    .            .            .
DrainStarted     .            draining     draining     draining     draining     .            .
CloseRequested   .            closing      closing      closing      closing      closing      .
TransportClosed  .            disconnected disconnected disconnected disconnected disconnected disconnected
DeadlineReached  .            .            .            .            .            .            .
"""  # noqa: E501

EVENTS: dict[str, Event] = {
    type(event).__name__: event
    for event in (
        OPENED,
        WELCOMED,
        FRAME_RECEIVED,
        MESSAGE_RECEIVED,
        PongReceived(sent_at=1),
        FRAME_SENT,
        MESSAGE_SENT,
        DRAIN_STARTED,
        CloseRequested(1012, "drained"),
        TransportClosed(1006),
        DEADLINE_REACHED,
    )
}


def connection_that_is(state: State) -> tuple[Connection, float]:
    """A connection that came into ``state`` the ordinary way, and the time it is there."""
    limits = Limits(idle=2.0) if state is State.IDLE else Limits()
    connection = Connection(limits)
    if state is State.DISCONNECTED:
        return connection, 0.0
    connection.handle(OPENED, 0.0)
    if state is State.CONNECTING:
        return connection, 0.0
    connection.handle(WELCOMED, 0.0)
    now = 0.0
    if state is State.DRAINING:
        connection.handle(DRAIN_STARTED, now)
    elif state is State.CLOSING:
        connection.handle(CloseRequested(1012), now)
    while connection.state is not state:
        assert connection.deadline is not None
        now = connection.deadline
        connection.handle(DEADLINE_REACHED, now)
    return connection, now


def cells() -> list[tuple[State, str, str]]:
    head, *rows = (line.split() for line in MATRIX.strip().splitlines())
    return [
        (State(state), event, cell)
        for event, *row in rows
        for state, cell in zip(head, row, strict=True)
    ]


@pytest.mark.parametrize(("state", "event", "cell"), cells())
def test_each_event_in_each_state_does_what_the_matrix_says(
    state: State, event: str, cell: str
) -> None:
    connection, now = connection_that_is(state)

    if cell == "-":
        with pytest.raises(IllegalTransition, match=f"^{event} .* {state}$") as caught:
            connection.handle(EVENTS[event], now)
        assert (caught.value.state, caught.value.kind) == (state, type(EVENTS[event]))
        assert connection.state is state
    else:
        connection.handle(EVENTS[event], now)
        assert connection.state is (state if cell == "." else State(cell))


def test_matrix_and_table_have_the_same_events_states_and_results() -> None:
    expected = {
        (state, type(EVENTS[event])): state if cell == "." else State(cell)
        for state, event, cell in cells()
        if cell != "-"
    }
    assert {pair: to for pair, to in TRANSITIONS.items() if isinstance(pair[1], type)} == expected
    assert {state for state, _, _ in cells()} == set(State)
    assert {type(event) for event in EVENTS.values()} == set(get_args(Event))


def test_every_state_reaches_disconnected_by_the_clock_or_the_transport() -> None:
    for state in set(State) - {State.DISCONNECTED}:
        assert TRANSITIONS[state, TransportClosed] is State.DISCONNECTED


def test_every_trigger_is_in_the_table() -> None:
    assert {kind for _, kind in TRANSITIONS if isinstance(kind, Trigger)} == set(Trigger)


def test_something_that_is_no_event_is_an_illegal_transition() -> None:
    with pytest.raises(IllegalTransition, match="str cannot happen"):
        Connection(Limits()).handle("opened", 0.0)  # type: ignore[arg-type]


def test_illegal_transition_names_a_trigger_as_the_docs_do() -> None:
    error = IllegalTransition(State.CLOSING, Trigger.PONG_MISSED)
    assert str(error) == "PongMissed cannot happen to a connection that is closing"


def test_connection_cannot_be_opened_again_after_its_end() -> None:
    connection, now = connection_that_is(State.CONNECTED)
    connection.handle(TransportClosed(1006), now)

    with pytest.raises(IllegalTransition, match="Opened"):
        connection.handle(OPENED, now)

    assert connection.state is State.DISCONNECTED


def test_checked_in_diagram_is_the_one_drawn_from_the_tables() -> None:
    checked_in = make_states.PATH.read_text(encoding="utf-8")
    assert checked_in == make_states.render(), "stale: run python -m tests.core.make_states"
