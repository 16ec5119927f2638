from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.retry import DATABASE_RETRIES, Backoff, request_delays

# random.random() gives 0 <= r < 1; the bounds show the range.
LOWEST, HIGHEST = (lambda: 0.0), (lambda: 1.0)


def test_delays_double_from_one_second_and_add_a_random_second() -> None:
    backoff = Backoff()
    assert [backoff.delay(n, LOWEST) for n in range(5)] == [1, 2, 4, 8, 16]
    assert [backoff.delay(n, HIGHEST) for n in range(5)] == [2, 3, 5, 9, 17]


def test_delay_is_capped_before_the_random_part_is_added() -> None:
    backoff = Backoff(max_retries=10)
    assert backoff.delay(7, LOWEST) == 30
    assert backoff.delay(7, HIGHEST, window=20) == 50


@pytest.mark.parametrize(("window", "longest"), [(0.0, 2.0), (0.5, 2.0), (1.0, 2.0), (60.0, 61.0)])
def test_random_part_spreads_over_the_window_of_the_server(window: float, longest: float) -> None:
    assert Backoff().delay(0, HIGHEST, window) == longest


def test_client_is_parked_without_end_after_its_tries() -> None:
    backoff = Backoff()
    for attempt in (5, 6, 1000, 10**9):
        assert backoff.exhausted(attempt)
        assert backoff.delay(attempt, LOWEST) == 15
        assert backoff.delay(attempt, HIGHEST) == 45
    assert not backoff.exhausted(4)


def test_parked_client_is_spread_around_the_parked_delay_whatever_the_window() -> None:
    assert Backoff(parked_delay=60).delay(5, HIGHEST, window=600) == 90


def test_client_that_stops_when_exhausted_has_no_further_delay() -> None:
    backoff = Backoff(when_exhausted="stop")
    assert backoff.delay(4, LOWEST) == 16
    assert backoff.delay(5, LOWEST) is None


def test_try_that_ends_before_welcome_counts() -> None:
    assert Backoff().next_attempt(0, None) == 1
    assert Backoff().next_attempt(7, None) == 8


def test_connection_lost_soon_after_its_welcome_neither_counts_nor_resets() -> None:
    assert Backoff().next_attempt(3, 0.0) == 3
    assert Backoff().next_attempt(3, 4.999) == 3


def test_connection_that_stayed_welcomed_makes_the_count_start_afresh() -> None:
    assert Backoff().next_attempt(3, 5.0) == 0
    assert Backoff(min_uptime=60).next_attempt(3, 59.0) == 3


@given(
    st.integers(0, 10**6),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 3600),
    st.builds(Backoff, max_retries=st.integers(0, 10**6)),
)
def test_every_delay_is_finite_and_within_its_bounds(
    attempt: int, drawn: float, window: float, backoff: Backoff
) -> None:
    delay = backoff.delay(attempt, lambda: drawn, window)
    assert delay is not None
    assert min(1, backoff.parked_delay / 2) <= delay <= max(30 + max(1, window), 45)


def test_requests_are_tried_three_times_from_50_ms_doubling() -> None:
    assert request_delays() == (0.05, 0.1)
    assert request_delays(tries=1) == ()
    assert request_delays(tries=4, first=1.0) == (1, 2, 4)


def test_request_delays_are_spread_by_half_of_themselves() -> None:
    assert request_delays(first=1.0, random=LOWEST) == (0.5, 1.0)
    assert request_delays(first=1.0, random=HIGHEST) == (1.5, 3.0)


def test_database_is_retried_three_times_from_50_ms_doubling() -> None:
    assert DATABASE_RETRIES == (0.05, 0.1, 0.2)
