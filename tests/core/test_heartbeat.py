from __future__ import annotations

from math import inf

import pytest

from graceful_ws.core.connection import Limits
from graceful_ws.core.transitions import (
    DEADLINE_REACHED,
    FRAME_RECEIVED,
    FRAME_SENT,
    MESSAGE_RECEIVED,
    MESSAGE_SENT,
    WELCOMED,
    DropTransport,
    PongReceived,
    SendClose,
    SendPing,
    State,
)
from tests.core.driver import Driver, welcomed


def test_silent_peer_is_pinged_three_times_and_closed_4102_at_14_seconds() -> None:
    driver = welcomed()
    states = []
    for now in (4.9, 5.0, 7.9, 8.0, 11.0, 13.9, 14.0, 24.0):
        driver.run(now)
        states.append((driver.state, driver.connection.missed))
    assert states == [
        (State.CONNECTED, 0),
        (State.CONNECTED, 0),
        (State.CONNECTED, 0),
        (State.SUSPECT, 1),
        (State.SUSPECT, 2),
        (State.SUSPECT, 2),
        (State.CLOSING, 3),
        (State.DISCONNECTED, 3),
    ]
    assert driver.done == [
        (5.0, SendPing(5000, None)),
        (8.0, SendPing(8000, None)),
        (11.0, SendPing(11000, None)),
        (14.0, SendClose(4102, "heartbeat lost")),
        (24.0, DropTransport()),
    ]


@pytest.mark.parametrize(("jitter", "first"), [(0.5, 2.5), (0.75, 3.75), (1.0, 5.0)])
def test_first_ping_is_due_after_the_jittered_interval_whatever_the_traffic(
    jitter: float, first: float
) -> None:
    driver = welcomed(jitter=jitter)
    driver.at(first - 0.5, MESSAGE_RECEIVED, MESSAGE_SENT)
    driver.run(first)
    assert driver.pings() == [first]


def test_heartbeat_starts_with_the_welcome() -> None:
    driver = Driver()
    driver.at(4.0, WELCOMED)
    driver.run(9.0)
    assert driver.pings() == [9.0]


def test_busy_connection_is_pinged_at_every_rtt_interval() -> None:
    driver = welcomed()
    for second in range(1, 100):
        driver.at(float(second), MESSAGE_RECEIVED, MESSAGE_SENT)
    assert driver.pings() == [5.0, 35.0, 65.0, 95.0]


def test_peer_that_sent_nothing_for_the_interval_is_pinged() -> None:
    driver = welcomed()
    for second in range(1, 13):
        driver.at(float(second), FRAME_SENT)
        if second == 5:
            driver.at(5.5, PongReceived(5000))
    assert driver.pings() == [5.0, 10.5]


def test_peer_that_was_sent_nothing_for_the_interval_is_pinged() -> None:
    driver = welcomed()
    for second in range(1, 17):
        driver.at(float(second), FRAME_RECEIVED)
    assert driver.pings() == [5.0, 10.0, 15.0]


def test_every_pong_comes_back_so_a_quiet_connection_is_pinged_at_each_interval() -> None:
    driver = welcomed()
    for _ in range(4):
        driver.run(driver.connection.deadline or inf)
        driver.handle(PongReceived(int(driver.pings()[-1] * 1000)), driver.pings()[-1])
    assert driver.pings() == [5.0, 10.0, 15.0, 20.0]
    assert driver.state is State.CONNECTED


def test_any_frame_answers_a_ping_but_only_its_pong_measures_the_rtt() -> None:
    driver = welcomed()
    driver.at(5.5, MESSAGE_RECEIVED)
    driver.run(8.5)
    assert (driver.state, driver.connection.rtt) == (State.CONNECTED, None)
    driver.at(8.75, PongReceived(5000))
    assert driver.connection.rtt == 3.75


def test_pong_of_another_ping_or_for_the_second_time_measures_nothing() -> None:
    driver = welcomed()
    driver.at(5.25, PongReceived(4999))
    assert driver.connection.rtt is None
    driver.at(5.5, PongReceived(5000))
    driver.at(9.0, PongReceived(5000))
    assert driver.connection.rtt == 0.5


def test_pong_before_any_ping_measures_nothing() -> None:
    driver = welcomed()
    driver.at(1.0, PongReceived(0))
    assert driver.connection.rtt is None


def test_ping_carries_the_rtt_measured_last() -> None:
    driver = welcomed()
    driver.at(5.25, PongReceived(5000))
    driver.run(10.0)
    assert driver.done[-1] == (10.0, SendPing(10000, 0.25))


def test_late_pong_ends_suspect_and_the_pong_of_the_second_ping_measures() -> None:
    driver = welcomed()
    driver.at(9.0, PongReceived(5000))
    assert (driver.state, driver.connection.missed) == (State.CONNECTED, 0)
    assert driver.connection.rtt is None
    driver.at(12.0, PongReceived(8000))
    assert driver.connection.rtt == 4.0
    assert driver.pings() == [5.0, 8.0]


def test_misses_count_in_a_row_only() -> None:
    driver = welcomed()
    for silence_ends in (13.0, 24.0, 35.0):
        driver.at(silence_ends, FRAME_RECEIVED)
        assert (driver.state, driver.connection.missed) == (State.CONNECTED, 0)
    assert driver.closes() == []


def test_sending_does_not_answer_a_ping() -> None:
    driver = welcomed()
    for second in range(1, 15):
        driver.at(float(second), MESSAGE_SENT)
    assert driver.closes() == [(14.0, 4102)]


def test_caller_that_was_stalled_counts_one_miss_and_gives_the_peer_its_time() -> None:
    driver = welcomed()
    driver.run(5.0)
    driver.handle(DEADLINE_REACHED, 100.0)
    assert driver.connection.missed == 1
    assert driver.connection.deadline == 103.0


def test_frame_in_suspect_leads_to_idle_when_the_idle_limit_has_passed() -> None:
    driver = welcomed(Limits(idle=9.0))
    driver.at(9.5, FRAME_RECEIVED)
    assert driver.state is State.IDLE


def test_message_in_suspect_leads_to_connected_whatever_the_idle_limit() -> None:
    driver = welcomed(Limits(idle=9.0))
    driver.at(9.5, MESSAGE_RECEIVED)
    assert driver.state is State.CONNECTED


def test_frame_in_suspect_closes_4105_when_the_idle_limit_has_passed_and_closes() -> None:
    driver = welcomed(Limits(idle=9.0, close_when_idle=True))
    driver.at(9.5, FRAME_RECEIVED)
    assert driver.closes() == [(9.5, 4105)]


def test_idle_connection_that_falls_silent_is_suspect_and_closed() -> None:
    driver = welcomed(Limits(idle=2.0))
    driver.run(8.0)
    assert driver.state is State.SUSPECT
    driver.run(14.0)
    assert driver.closes() == [(14.0, 4102)]


def test_connection_is_idle_and_pinged_when_both_are_due_at_once() -> None:
    driver = welcomed(Limits(idle=5.0))
    driver.run(5.0)
    assert (driver.state, driver.pings()) == (State.IDLE, [5.0])


def test_connection_that_closes_when_idle_is_not_pinged_at_that_moment() -> None:
    driver = welcomed(Limits(idle=5.0, close_when_idle=True))
    driver.run(5.0)
    assert (driver.closes(), driver.pings()) == ([(5.0, 4105)], [])


def test_one_miss_is_enough_with_max_missed_1() -> None:
    driver = welcomed(Limits(max_missed=1))
    driver.run(8.0)
    assert driver.closes() == [(8.0, 4102)]


def test_connection_without_heartbeat_is_never_pinged_nor_suspected() -> None:
    driver = welcomed(Limits(heartbeat=False))
    driver.run(10_000.0)
    assert (driver.state, driver.done) == (State.IDLE, [])
    assert driver.connection.deadline is None
