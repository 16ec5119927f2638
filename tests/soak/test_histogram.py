"""Percentiles in a bounded number of counters."""

from __future__ import annotations

import random

import pytest

from graceful_ws.soak.histogram import GROWTH, LONGEST, Histogram


def filled(*durations: float) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    return histogram


def test_without_durations_there_is_no_percentile() -> None:
    assert Histogram().percentile(50) is None


def test_one_duration_is_every_percentile() -> None:
    histogram = filled(0.25)
    assert [histogram.percentile(p) for p in (1, 50, 100)] == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 100])
def test_percentile_is_as_exact_as_promised(percent: int) -> None:
    generator = random.Random(4)
    durations = sorted(generator.lognormvariate(-3, 2) for _ in range(5000))
    exact = durations[max(0, len(durations) * percent // 100 - 1)]
    found = filled(*durations).percentile(percent)
    assert found is not None
    assert exact <= found <= exact * GROWTH


def test_anything_from_nothing_to_a_year_has_a_counter() -> None:
    histogram = filled(0.0, -0.001, 1e-9, 365 * 86_400.0)
    assert histogram.percentile(50) == pytest.approx(1e-4)
    assert histogram.percentile(100) == pytest.approx(LONGEST, rel=GROWTH - 1)
    assert histogram.longest == 365 * 86_400.0


def test_memory_is_bounded() -> None:
    histogram = filled(*(n / 1000 for n in range(100_000)))
    assert len(histogram._counts) < 800
