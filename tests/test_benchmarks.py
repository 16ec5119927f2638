"""The benchmarks run, and what they deliver is checked. How fast anything is, is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.benchmarks.clients import Body, Client, Crowd, Frame, GracefulClient, WrongDelivery
from tests.benchmarks.workload import Measure, Side, Workload
from tests.benchmarks.workloads.audience import Audience
from tests.support.processes import ROOT

KEYS = ["workload", "server", "db", "ours", "rival", "ratio", "limit", "unit", "rounds"]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def message(seq: int, n: int = 0, stream: str | None = None) -> Frame:
    return Frame(type="message", seq=seq, stream=stream, data=Body(n=n))


def test_a_workload_runs_on_all_its_sides_and_says_so_in_json() -> None:
    done = benchmarks("--quick", "--rounds", "1", "--json", "--server", "uvicorn", "round-trip")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["workload"] for line in lines] == ["round-trip.p50", "round-trip.p99"]
    for line in lines:
        assert list(line) == KEYS
        assert (line["server"], line["db"], line["unit"]) == ("uvicorn", "sqlite", "ms")
        assert line["rounds"] == 1
        assert line["ratio"] == pytest.approx(line["rival"] / line["ours"])
        assert line["limit"] > 0


def test_an_unknown_workload_is_refused_with_the_names_that_there_are() -> None:
    done = benchmarks("brodcast")
    assert done.returncode == 2
    assert "broadcast" in done.stderr


class Two(Workload):
    name = "two"
    sides = (Side("ours", ""), Side("rival", "", variant="a"), Side("rival", "", variant="b"))
    measures = {"rate": Measure("messages/s"), "delay": Measure("ms", False)}


def test_rows_are_medians_and_a_ratio_above_one_means_that_ours_is_better() -> None:
    def taken(*rates: float) -> list[dict[str, float]]:
        return [{"rate": rate, "delay": 100 / rate} for rate in rates]

    samples = {"ours": taken(10, 20, 1), "rival-a": taken(5, 5, 5), "rival-b": taken(20, 20, 20)}
    rows = {row.workload: row for row in Two().rows(samples, "daphne", "sqlite")}
    assert {name: row.ratio for name, row in rows.items()} == {
        "two.rate.a": 2,
        "two.rate.b": 0.5,
        "two.delay.a": 2,
        "two.delay.b": 0.5,
    }
    assert (rows["two.rate.a"].ours, rows["two.rate.a"].rounds) == (10, 3)


@pytest.mark.parametrize("wrong", [1, 3], ids=["twice", "a hole"])
async def test_a_session_takes_nothing_twice_or_out_of_order(wrong: int) -> None:
    got: list[int] = []
    async with Crowd() as crowd:
        client = GracefulClient(crowd, lambda client, n: got.append(n))
        client.frame(message(1, n=7))
        with pytest.raises(WrongDelivery):
            client.frame(message(wrong))
        client.frame(Frame(type="subscribed", stream="room", epoch="e", head=4))
        client.frame(message(5, n=8, stream="room"))
        with pytest.raises(WrongDelivery):
            client.frame(message(wrong + 4, stream="room"))
    assert got == [7, 8]


async def test_what_ours_misses_is_an_error_and_what_a_rival_misses_is_counted() -> None:
    async with Crowd() as crowd:
        client: Any = Client(crowd, lambda client, n: None)
        for strict in (True, False):
            audience = Audience(crowd, graceful=False, strict=strict)
            audience.next = {client: 0}
            audience.said_at = [0.0, 0.0]
            audience.expect(2)
            if strict:
                with pytest.raises(WrongDelivery, match="1 in place of 0"):
                    audience.received(client, 1)
                with pytest.raises(WrongDelivery, match="2 of 2 not delivered"):
                    await audience.heard(0.01)
            else:
                audience.received(client, 1)
                assert await audience.heard(0.01) == 1


async def test_a_wrong_delivery_ends_the_round() -> None:
    async with Crowd() as crowd:
        crowd.fail(WrongDelivery("lost"))
        with pytest.raises(WrongDelivery, match="lost"):
            await crowd.until(crowd.loop.create_future())
