"""A bucket gives a burst at once, then so many a second, and never more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_ws.core.bucket import Bucket

PAUSES = st.one_of(st.just(0.0), st.floats(1e-6, 20.0), st.floats(1e3, 1e6))
RATES = st.floats(0.01, 10_000.0)
BURSTS = st.integers(1, 200)


def test_a_burst_goes_at_once_and_what_comes_after_it_waits_for_its_share_of_a_second() -> None:
    bucket = Bucket(10.0, 3, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.1001) == 0.0
    assert bucket.take(100.1001) > 0


def test_it_never_holds_more_than_a_burst() -> None:
    bucket = Bucket(10.0, 3, now=0.0)
    assert sum(bucket.take(1e6) == 0.0 for _ in range(10)) == 3
    assert bucket.full_in(1e6) == pytest.approx(0.3)
    assert bucket.full_in(1e6 + 5) == 0.0


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0), (float("nan"), 1)])
def test_one_that_would_never_give_a_token_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        Bucket(rate, burst, now=0.0)


@given(rate=RATES, burst=BURSTS, pauses=st.lists(PAUSES, max_size=300), start=st.floats(0, 1e6))
def test_no_stretch_of_time_sees_more_than_a_burst_and_its_share(
    rate: float, burst: int, pauses: list[float], start: float
) -> None:
    bucket, now = Bucket(rate, burst, start), start
    taken: list[float] = []
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0.0:
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = burst + rate * (taken[last] - taken[first])
            assert last - first + 1 <= allowed * (1 + 1e-9) + 1e-3


@given(rate=RATES, burst=BURSTS, start=st.floats(0, 1e6), count=st.integers(1, 300))
def test_who_waits_as_long_as_it_says_is_served_and_no_later_than_fair(
    rate: float, burst: int, start: float, count: int
) -> None:
    """Where it says 0.0 nobody waits, and who always waits gets the whole rate."""
    bucket, now = Bucket(rate, burst, start), start
    for _ in range(count):
        tries = 0
        while (wait := bucket.take(now)) > 0.0:
            now += wait
            tries += 1
            assert tries < 4
    fair = start + max(0, count - burst) / rate
    assert fair - 1e-3 <= now <= fair + 1e-3 + count * 2e-6 + 1e-9 * fair
