from __future__ import annotations

from math import inf, nan

import pytest

from graceful_ws.core.connection import Connection, Limits
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    DRAIN_STARTED,
    FRAME_RECEIVED,
    FRAME_SENT,
    MESSAGE_RECEIVED,
    MESSAGE_SENT,
    NOTHING,
    OPENED,
    RESCHEDULE,
    WELCOMED,
    CloseRequested,
    DropTransport,
    Event,
    PongReceived,
    SendClose,
    State,
    TransportClosed,
)
from tests.core.driver import Driver, welcomed


def test_connection_without_hello_is_closed_4400_at_the_connecting_limit() -> None:
    driver = Driver()
    driver.run(4.999)
    assert driver.state is State.CONNECTING
    driver.run(5.0)
    assert driver.state is State.CLOSING
    assert driver.done == [(5.0, SendClose(4400, "no hello"))]


def test_frames_do_not_put_the_connecting_limit_off() -> None:
    driver = Driver()
    driver.at(4.0, FRAME_RECEIVED, FRAME_SENT)
    driver.run(5.0)
    assert driver.closes() == [(5.0, 4400)]


def test_connection_is_idle_after_the_limit_without_messages_from_its_welcome() -> None:
    driver = welcomed(Limits(heartbeat=False))
    driver.at(59.9, FRAME_RECEIVED, FRAME_SENT)
    assert driver.state is State.CONNECTED
    driver.run(60.0)
    assert driver.state is State.IDLE
    assert driver.done == []


@pytest.mark.parametrize("message", [MESSAGE_RECEIVED, MESSAGE_SENT])
def test_messages_in_either_direction_put_the_idle_limit_off_and_end_idle(message: Event) -> None:
    driver = welcomed(Limits(heartbeat=False))
    driver.at(50.0, message)
    driver.run(109.9)
    assert driver.state is State.CONNECTED
    driver.run(110.0)
    assert driver.state is State.IDLE
    driver.at(200.0, message)
    assert driver.state is State.CONNECTED
    assert driver.connection.last_message_at == 200.0
    assert driver.connection.deadline == 260.0


def test_idle_connection_is_closed_4105_with_close_when_idle() -> None:
    driver = welcomed(Limits(heartbeat=False, close_when_idle=True))
    driver.run(60.0)
    assert driver.state is State.CLOSING
    assert driver.done == [(60.0, SendClose(4105, "idle"))]


def test_transport_is_dropped_when_no_close_reply_comes_within_the_closing_limit() -> None:
    driver = welcomed()
    driver.at(1.0, CloseRequested(1012, "drained"))
    driver.at(9.0, FRAME_RECEIVED, MESSAGE_RECEIVED, MESSAGE_SENT)  # put nothing off
    driver.run(10.9)
    assert driver.state is State.CLOSING
    driver.run(inf)
    assert driver.state is State.DISCONNECTED
    assert driver.done == [(1.0, SendClose(1012, "drained")), (11.0, DropTransport())]
    assert driver.connection.deadline is None


def test_first_close_wins() -> None:
    driver = welcomed()
    driver.at(1.0, CloseRequested(4506, "operator"))
    driver.at(2.0, CloseRequested(1012, "drained"))
    driver.at(3.0, TransportClosed(1006), CloseRequested(4501))
    assert driver.done == [(1.0, SendClose(4506, "operator"))]
    assert (driver.connection.close_code, driver.connection.close_reason) == (4506, "operator")


def test_code_of_the_transport_is_kept_when_this_side_did_not_close() -> None:
    driver = welcomed()
    driver.at(1.0, TransportClosed(1001))
    assert driver.state is State.DISCONNECTED
    assert (driver.connection.close_code, driver.connection.close_reason) == (1001, "")
    assert driver.done == []


def test_deadline_that_comes_too_early_or_too_late_for_the_connection_does_nothing() -> None:
    driver = welcomed()
    assert driver.connection.handle(DEADLINE_REACHED, 4.9) == NOTHING
    driver.at(5.0, TransportClosed(1006))
    assert driver.connection.handle(DEADLINE_REACHED, 100.0) == NOTHING
    assert driver.state is State.DISCONNECTED


@pytest.mark.parametrize("name", ["connecting", "idle", "closing", "rtt_interval", "max_missed"])
@pytest.mark.parametrize("value", [0, -1.0, nan])
def test_limits_that_are_not_above_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}.* above zero"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_limit_of_infinity_switches_it_off() -> None:
    driver = welcomed(Limits(idle=inf, heartbeat=False))
    assert driver.connection.deadline is None


# The drain


def test_draining_connection_is_never_idle() -> None:
    driver = welcomed(Limits(heartbeat=False, close_when_idle=True))
    driver.at(1.0, DRAIN_STARTED, DRAIN_STARTED)
    driver.run(10_000.0)
    assert (driver.state, driver.done) == (State.DRAINING, [])


def test_misses_count_on_while_draining() -> None:
    driver = welcomed()
    driver.at(9.0, DRAIN_STARTED)
    assert driver.connection.missed == 1
    driver.run(14.0)
    assert driver.closes() == [(14.0, 4102)]


def test_frame_clears_the_misses_of_a_draining_connection() -> None:
    driver = welcomed()
    driver.at(9.0, DRAIN_STARTED, MESSAGE_RECEIVED)
    assert (driver.state, driver.connection.missed) == (State.DRAINING, 0)
    driver.run(14.0)
    assert driver.pings() == [5.0, 8.0, 13.0]


def test_connection_that_drains_before_its_hello_keeps_the_connecting_limit() -> None:
    driver = Driver()
    driver.at(1.0, DRAIN_STARTED)
    driver.run(5.0)
    assert driver.closes() == [(5.0, 4400)]


def test_connection_that_drains_before_its_hello_can_still_be_welcomed() -> None:
    driver = Driver()
    driver.at(1.0, DRAIN_STARTED)
    driver.at(2.0, WELCOMED)
    driver.run(7.0)
    assert (driver.state, driver.pings()) == (State.DRAINING, [7.0])


# What the caller relies on


def test_traffic_of_a_live_connection_gives_the_shared_empty_tuple() -> None:
    connection = welcomed().connection
    for event in (MESSAGE_RECEIVED, FRAME_RECEIVED, MESSAGE_SENT, FRAME_SENT, PongReceived(1)):
        assert connection.handle(event, 1.0) is NOTHING


def test_caller_is_told_when_the_deadline_moved_earlier_and_only_then() -> None:
    connection = Connection(Limits(closing=1.0))
    assert connection.handle(OPENED, 0.0) == (RESCHEDULE,)  # 5
    assert connection.handle(WELCOMED, 1.0) == NOTHING  # 6
    assert connection.handle(CloseRequested(1012), 2.0) == (SendClose(1012, ""), RESCHEDULE)  # 3


def test_message_that_ends_idle_without_heartbeat_starts_a_deadline() -> None:
    driver = welcomed(Limits(heartbeat=False))
    driver.run(60.0)
    assert driver.connection.handle(MESSAGE_SENT, 70.0) == (RESCHEDULE,)
    driver.run(130.0)
    assert driver.connection.handle(MESSAGE_RECEIVED, 140.0) == (RESCHEDULE,)


def test_times_for_operators() -> None:
    driver = Driver()
    connection = driver.connection
    assert (connection.opened_at, connection.welcomed_at) == (0.0, None)
    driver.at(1.0, WELCOMED)
    assert connection.last_message_at is None
    driver.at(2.0, MESSAGE_RECEIVED)
    driver.at(3.0, MESSAGE_SENT)
    driver.at(3.5, FRAME_RECEIVED)
    assert (connection.opened_at, connection.welcomed_at) == (0.0, 1.0)
    assert (connection.last_message_at, connection.last_sent) == (3.0, 3.0)
    assert connection.last_received == 3.5
    driver.at(4.0, CloseRequested(1000))
    assert connection.closing_at == 4.0
