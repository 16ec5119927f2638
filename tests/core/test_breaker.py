from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.breaker import TRANSITIONS, Breaker, BreakerEvent, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened(now: float = 0.0, **parameters: float) -> Breaker:
    breaker = Breaker(**parameters)  # type: ignore[arg-type]
    for _ in range(breaker.failures):
        breaker.failed(now)
    return breaker


def test_breaker_opens_at_the_tenth_failure_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.failed(0.0)
    assert breaker.state(0.0) is CLOSED
    assert breaker.allow(0.0)

    breaker.failed(0.0)

    assert breaker.state(0.0) is OPEN
    assert not breaker.allow(0.0)


def test_success_makes_the_count_of_failures_start_afresh() -> None:
    breaker = Breaker(failures=2)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.succeeded(0.0)
    assert breaker.state(0.0) is CLOSED


def test_closed_breaker_lets_everyone_through_and_forgets_who_gave_up() -> None:
    breaker = Breaker(failures=2)
    breaker.failed(0.0)
    breaker.abandoned(0.0)
    breaker.failed(0.0)
    assert breaker.state(0.0) is OPEN
    assert Breaker().retry_after(0.0) == 0


def test_open_breaker_becomes_half_open_by_the_clock_alone() -> None:
    breaker = opened(now=100.0)
    assert breaker.state(129.9) is OPEN
    assert breaker.retry_after(129.0) == 1.0
    assert breaker.state(130.0) is HALF_OPEN
    assert breaker.retry_after(130.0) == 0


def test_jitter_scales_the_time_that_it_stays_open() -> None:
    assert opened(jitter=0.8).state(24.0) is HALF_OPEN
    assert opened(jitter=1.2).state(35.9) is OPEN


def test_results_that_come_late_while_it_is_open_change_nothing() -> None:
    breaker = opened()
    breaker.succeeded(1.0)
    breaker.failed(29.0)
    breaker.abandoned(29.0)
    assert breaker.state(29.0) is OPEN
    assert breaker.state(30.0) is HALF_OPEN


def test_half_open_breaker_lets_one_caller_through() -> None:
    breaker = opened()
    assert [breaker.allow(30.0) for _ in range(3)] == [True, False, False]
    assert breaker.retry_after(31.0) == 29.0


def test_half_open_breaker_counts_reports_of_a_caller_that_did_not_ask() -> None:
    breaker = opened(probes=1)
    breaker.failed(30.0)
    assert breaker.state(59.9) is OPEN
    breaker.succeeded(60.0)
    assert breaker.state(60.0) is CLOSED


def test_report_of_a_caller_that_did_not_ask_neither_keeps_others_out_nor_counts_for_them() -> None:
    breaker = opened(probes=2)
    breaker.succeeded(30.0)
    assert breaker.allow(30.0)
    breaker.succeeded(30.0)
    assert breaker.state(30.0) is HALF_OPEN
    breaker.succeeded(30.0)
    assert breaker.state(30.0) is CLOSED


def test_probes_before_it_opened_again_do_not_count_afterwards() -> None:
    breaker = opened(probes=3)
    breaker.succeeded(30.0)
    breaker.succeeded(30.0)
    breaker.failed(30.0)
    breaker.succeeded(60.0)
    assert breaker.state(60.0) is HALF_OPEN


def test_one_success_closes_a_breaker_with_one_probe() -> None:
    breaker = opened(probes=1)
    assert breaker.allow(30.0)
    breaker.succeeded(31.0)
    assert breaker.state(31.0) is CLOSED
    assert [breaker.allow(31.0) for _ in range(3)] == [True] * 3


def test_one_failure_opens_a_breaker_with_one_probe_for_the_whole_time_again() -> None:
    breaker = opened(probes=1)
    assert breaker.allow(30.0)
    breaker.failed(31.0)
    assert breaker.state(60.9) is OPEN
    assert breaker.state(61.0) is HALF_OPEN
    assert breaker.allow(61.0)


def test_twenty_successes_close_it_and_nineteen_do_not() -> None:
    breaker = opened()
    assert breaker.allow(30.0)
    for _ in range(19):
        breaker.succeeded(30.0)
    assert breaker.state(30.0) is HALF_OPEN
    breaker.succeeded(30.0)
    assert breaker.state(30.0) is CLOSED


def test_one_failure_among_twenty_probes_opens_it_again() -> None:
    breaker = opened()
    assert breaker.allow(30.0)
    for _ in range(19):
        breaker.succeeded(30.0)
    breaker.failed(30.0)
    assert breaker.state(30.0) is OPEN


def test_more_probes_tolerate_failures_up_to_the_part_asked_for() -> None:
    breaker = opened(probes=40)
    assert breaker.allow(30.0)
    breaker.failed(30.0)
    assert breaker.state(30.0) is HALF_OPEN
    for _ in range(39):
        breaker.succeeded(30.0)
    assert breaker.state(30.0) is CLOSED

    breaker = opened(probes=40)
    assert breaker.allow(30.0)
    breaker.failed(30.0)
    breaker.failed(30.0)
    assert breaker.state(30.0) is OPEN


def test_caller_that_never_reports_is_replaced_after_the_open_time() -> None:
    breaker = opened(probes=2)
    assert breaker.allow(30.0)
    breaker.succeeded(40.0)
    assert not breaker.allow(69.9)  # heard of at 40
    assert breaker.allow(70.0)
    breaker.succeeded(70.0)
    assert breaker.state(70.0) is HALF_OPEN  # the first caller's success does not count for it
    assert not breaker.allow(71.0)


def test_caller_that_reports_is_not_replaced_whatever_it_reports() -> None:
    breaker = opened(probes=100)
    assert breaker.allow(30.0)
    breaker.failed(50.0)
    assert not breaker.allow(60.0)
    breaker.succeeded(70.0)
    assert not breaker.allow(99.9)


def test_caller_that_gives_up_makes_room_for_the_next_at_once() -> None:
    breaker = opened()
    assert breaker.allow(30.0)
    breaker.abandoned(31.0)
    assert breaker.state(31.0) is HALF_OPEN
    assert breaker.allow(31.0)


def test_failures_before_it_opened_do_not_count_after_it_closed() -> None:
    breaker = opened(failures=2, probes=1)
    assert breaker.allow(30.0)
    breaker.succeeded(30.0)
    breaker.failed(30.0)
    assert breaker.state(30.0) is CLOSED


@pytest.mark.parametrize(
    "parameters",
    [
        {"failures": 0},
        {"probes": 0},
        {"open_for": 0.0},
        {"jitter": 0.0},
        {"close_above": 1.0},
        {"close_above": -0.1},
        {"open_for": float("nan")},
    ],
)
def test_parameters_that_could_never_open_or_close_are_refused(
    parameters: dict[str, float],
) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Breaker(**parameters)  # type: ignore[arg-type]


def test_every_state_takes_every_report() -> None:
    for state in BreakerState:
        for event in (BreakerEvent.SUCCEEDED, BreakerEvent.FAILED, BreakerEvent.ABANDONED):
            assert TRANSITIONS[state, event] is state


CALLS = st.tuples(
    st.sampled_from(["allow", "succeeded", "failed", "abandoned", "state", "retry_after"]),
    st.sampled_from([0.0, 0.25, 1.0, 8.0]),
)


@given(
    st.lists(CALLS, max_size=80),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5, 0.95]),
)
def test_any_calls_move_it_only_along_the_table_and_never_bar_it_for_good(
    calls: list[tuple[str, float]], failures: int, probes: int, close_above: float
) -> None:
    breaker = Breaker(failures, 8.0, probes, close_above)
    now = 0.0
    states = [CLOSED]
    for call, pause in calls:
        now += pause
        states.append(breaker.state(now))
        wait = breaker.retry_after(now)
        assert states[-1] is not OPEN or wait > 0
        answer = getattr(breaker, call)(now)
        states.append(breaker.state(now))
        if call == "allow":
            assert answer is (wait == 0)
    edges = {(state, to) for (state, _), to in TRANSITIONS.items()}
    assert set(pairwise(states)) <= edges
    assert breaker.retry_after(now) <= 8.0
    assert breaker.allow(now + 8.0)
