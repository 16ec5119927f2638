"""Which endpoint is dialled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import cycle

import pytest

from graceful_ws.core.breaker import Breaker, BreakerState
from graceful_ws.core.endpoints import Endpoints, EndpointStatus

A, B, C = "ws://a", "ws://b", "ws://c"


def rolling(*numbers: float) -> Callable[[], float]:
    """Random numbers that are not."""
    return cycle(numbers).__next__


def endpoints(*urls: str, random: Callable[[], float] | None = None) -> Endpoints:
    return Endpoints(urls or (A, B, C), random or rolling(0.0, 0.5, 0.99))


def chosen(found: Endpoints, now: float = 0.0, times: int = 30) -> set[str | None]:
    return {found.choose(now) for _ in range(times)}


def fail(found: Endpoints, url: str, times: int = 10, now: float = 0.0) -> None:
    for _ in range(times):
        found.ended(url, 1006, False, now)


def test_round_trip_is_a_moving_average_that_starts_with_the_first() -> None:
    found = endpoints()
    assert found.rtt(A) is None
    found.measured(A, 0.1)
    assert found.rtt(A) == 0.1
    found.measured(A, 0.2)
    assert found.rtt(A) == pytest.approx(0.12)


def test_probes_and_connections_are_not_averaged_with_each_other() -> None:
    found = endpoints()
    found.measured(A, 0.5, probed=True)
    found.measured(A, 1.0, probed=True)
    assert found.rtt(A) == pytest.approx(0.6)
    found.measured(A, 0.01)
    assert found.rtt(A) == pytest.approx(0.01)
    found.measured(A, 0.02)
    assert found.rtt(A) == pytest.approx(0.012)
    found.measured(A, 0.3, probed=True)
    assert found.rtt(A) == pytest.approx(0.3)


def test_endpoints_about_as_near_as_the_nearest_are_equal() -> None:
    found = endpoints()
    for url, rtt in ((A, 0.010), (B, 0.024), (C, 0.026)):
        found.measured(url, rtt)
    assert chosen(found) == {A, B}  # 15 ms
    for url in (A, B, C):
        found.silent(url)
    for url, rtt in ((A, 0.2), (B, 0.239), (C, 0.241)):
        found.measured(url, rtt)
    assert chosen(found) == {A, B}  # a fifth


def test_all_are_asked_only_if_nothing_is_known_of_any() -> None:
    found = endpoints()
    assert found.unmeasured(0.0) == [A, B, C]
    found.measured(B, 1.0)
    assert found.unmeasured(0.0) == []
    assert chosen(found) == {B}
    assert endpoints(A).unmeasured(0.0) == []


def test_unknown_ones_are_chosen_at_random() -> None:
    assert chosen(endpoints()) == {A, B, C}


def test_one_that_was_lost_or_stops_is_put_aside_until_a_welcome() -> None:
    for code, welcomed in ((1006, True), (1012, True), (1001, True), (4001, True), (4400, False)):
        found = endpoints(A, B)
        found.measured(A, 0.001)
        found.measured(B, 1.0)
        found.ended(A, code, welcomed, 0.0)
        assert chosen(found) == {B}, code
        found.welcomed(B, 0.0)
        assert chosen(found) == {A}, code


def test_closed_in_good_order_is_dialled_again() -> None:
    found = endpoints(A, B)
    found.measured(A, 0.001)
    found.ended(A, 4000, True, 0.0)
    assert chosen(found) == {A}


def test_when_all_are_put_aside_the_first_of_them_has_its_turn() -> None:
    found = endpoints()
    for url in (B, A, C, B):
        found.put_aside(url)
    assert chosen(found) == {A}


def test_endpoint_that_is_left_counts_only_if_it_is_the_only_one() -> None:
    found = endpoints(A, B)
    found.put_aside(B)
    assert found.choose(0.0, besides=A) == B
    assert endpoints(A).choose(0.0, besides=A) == A
    assert found.unmeasured(0.0, besides=A) == []


def test_endpoint_with_an_open_breaker_is_not_dialled() -> None:
    found = endpoints(A, B)
    fail(found, A)
    found.welcomed(B, 0.0)
    assert chosen(found) == {B}
    fail(found, B)
    assert chosen(found, 20.0) == {None}
    wait = found.retry_after(20.0)
    assert 4.0 <= wait <= 16.0
    assert found.choose(20.0 + wait) in {A, B}


def test_half_open_endpoint_is_dialled_by_one() -> None:
    shared: dict[str, Breaker] = {}
    one, other = (Endpoints([A], rolling(0.5), shared) for _ in range(2))
    fail(one, A)
    assert other.choose(29.0) is None
    assert one.choose(31.0) == A
    assert other.choose(31.0) is None
    one.welcomed(A, 31.0)
    for _ in range(19):
        one.breaker(A).succeeded(32.0)
    assert other.choose(32.0) == A


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4000, 4102, 4403, 4501, 4506])
def test_code_of_a_server_that_works_is_no_failure(code: int) -> None:
    found = endpoints(A)
    for _ in range(20):
        found.ended(A, code, True, 0.0)
    assert found.choose(0.0) == A


@pytest.mark.parametrize("code", [1006, 1011, 1013, 1014, 4001])
def test_ten_failures_in_a_row_open_the_breaker(code: int) -> None:
    found = endpoints(A)
    for _ in range(9):
        found.ended(A, code, False, 0.0)
    found.welcomed(A, 0.0)
    for _ in range(9):
        found.ended(A, code, True, 0.0)
    assert found.choose(0.0) == A
    found.ended(A, code, True, 0.0)
    assert found.choose(0.0) is None


def test_breakers_of_many_clients_do_not_close_at_the_same_time() -> None:
    waits = Counter()
    for part in (0.0, 0.25, 0.5, 0.75, 0.999):
        found = endpoints(A, random=rolling(part))
        fail(found, A)
        waits[round(found.retry_after(0.0), 1)] += 1
    assert sorted(waits) == [24.0, 27.0, 30.0, 33.0, 36.0]


def test_status_tells_what_is_known() -> None:
    found = endpoints(A, B)
    found.measured(A, 0.1)
    fail(found, B)
    assert found.status(0.0, A) == [
        EndpointStatus(A, 0.1, BreakerState.CLOSED, True),
        EndpointStatus(B, None, BreakerState.OPEN, False),
    ]


def test_an_address_that_is_given_twice_counts_once() -> None:
    assert endpoints(A, A, B).urls == (A, B)
