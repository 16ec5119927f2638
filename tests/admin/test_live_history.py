"""The dashboard's hour: samples in, steps of time out, in Python and in the page alike."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from graceful_ws.live.history import History, build
from graceful_ws.node.stats import SHORT
from tests.support.processes import ROOT

STEP = 15_000
HOUR = 240 * STEP
NOW = 1_000_000 * STEP - 5_000  # in the last third of a step


def figures(connections: int = 0, **stats: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "messages_in": 0,
        "messages_out": 0,
        "hellos": [],
        "closes": {},
        "rtt": {"bounds": SHORT, "counts": [0] * (len(SHORT) + 1)},
    }
    return {"connections": connections, "stats": {**given, **stats}}


def ago(seconds: float) -> float:
    return NOW - seconds * 1000


def test_counters_become_what_happened_in_each_step() -> None:
    history = build(
        [
            ("a", "node-1", ago(38), figures(3, messages_in=1000, messages_out=5)),
            ("a", "node-1", ago(23), figures(4, messages_in=1015, messages_out=5)),
            ("a", "node-1", ago(8), figures(5, messages_in=1030, messages_out=35)),
        ],
        NOW,
        15,
    ).as_dict()
    node = history["nodes"]["node-1"]
    assert history["start"] + history["count"] * STEP == NOW + 5_000
    # What was between two samples is spread over the steps between them: no saw.
    assert node["in"][-4:] == pytest.approx([0, 13, 15, 2])
    assert node["out"][-4:] == pytest.approx([0, 0, 26, 4])
    assert node["connections"][-4:] == [None, 4, 5, 5]  # as of the end of each step


FIRST = {"messages_in": 30, "closes": {"1006": 500}, "hellos": [["resumed", "", 7]]}


@pytest.mark.parametrize("since", [None, ago(3700)])
def test_first_sample_of_a_node_that_began_long_ago_counts_nothing(since: float | None) -> None:
    first = figures(1, **FIRST) | {"since": since}
    history = build([("a", "node-1", ago(20), first)], NOW, 15).as_dict()
    assert sum(history["nodes"]["node-1"]["in"]) == 0
    assert history["closes"] == history["resumes"] == {}


def test_first_sample_of_a_node_that_has_just_begun_counts_from_then() -> None:
    """After a deploy or a crash thousands resume on it before it keeps one."""
    first = figures(4, **FIRST, rtt={"bounds": SHORT, "counts": [3] * (len(SHORT) + 1)})
    samples = [("a", "node-1", ago(23), first | {"since": ago(38)})]
    history = build(samples, NOW, 15).as_dict()
    assert history["nodes"]["node-1"]["in"][-4:] == pytest.approx([0, 26, 4, 0])
    assert history["closes"]["1006"][-2] == 500
    assert history["resumes"]["resumed"][-2] == 7
    assert history["rtt"]["counts"][-2] == [3] * (len(SHORT) + 1)


def test_a_node_that_starts_again_goes_on_under_its_name() -> None:
    history = build(
        [
            ("a", "web", ago(60), figures(2, messages_in=500)),
            ("a", "web", ago(45), figures(2, messages_in=515)),
            ("b", "web", ago(30), figures(7)),
            ("b", "web", ago(15), figures(8, messages_in=30)),
        ],
        NOW,
        15,
    ).as_dict()
    assert list(history["nodes"]) == ["web"]
    assert sum(history["nodes"]["web"]["in"]) == pytest.approx(45)
    assert history["nodes"]["web"]["connections"][-1] == 8


def test_a_node_that_falls_silent_is_held_for_two_steps() -> None:
    history = build([("a", "node-1", ago(100), figures(9))], NOW, 15).as_dict()
    known = [value for value in history["nodes"]["node-1"]["connections"] if value is not None]
    assert known == [9, 9, 9]


def test_a_node_that_ended_is_not_counted_beside_those_that_took_its_clients() -> None:
    samples = [("a", "node-1", ago(50), figures(9)), ("b", "node-2", ago(38), figures(9))]
    history = build(samples, NOW, 15, ends={"a": ago(39), "unknown": ago(1)}).as_dict()
    assert history["nodes"]["node-1"]["connections"][-4:] == [9, 0, 0, 0]
    assert history["nodes"]["node-2"]["connections"][-4:] == [None, 9, 9, 9]


def test_clients_that_move_are_counted_once_though_nodes_are_sampled_at_other_times() -> None:
    samples = [
        ("a", "node-1", ago(53), figures(30)),
        ("b", "node-2", ago(46), figures(0)),
        ("a", "node-1", ago(38), figures(0)),
        ("b", "node-2", ago(31), figures(30)),
    ]
    nodes = build(samples, NOW, 15).as_dict()["nodes"]
    both = [nodes[name]["connections"][-4:] for name in ("node-1", "node-2")]
    assert both == [[4, 0, 0, 0], [12, 30, 30, 30]]


def test_closes_and_resumes_are_counted_by_what_they_were() -> None:
    before = figures(closes={"1006": 2}, hellos=[["new", "", 5], ["resumed", "lost", 1]])
    after = figures(
        closes={"1006": 3, "1012": 4},
        hellos=[["new", "", 9], ["resumed", "lost", 3], ["resumed", "drain", 2]],
    )
    history = build([("a", "n", ago(20), before), ("a", "n", ago(5), after)], NOW, 15).as_dict()
    assert {code: sum(counts) for code, counts in history["closes"].items()} == {
        **{"1006": 1, "1012": 4}
    }
    assert {result: sum(counts) for result, counts in history["resumes"].items()} == {"resumed": 4}


def test_more_nodes_than_colours_share_one_series() -> None:
    samples = [(n, f"node-{n}", ago(20), figures(n)) for n in range(30)]
    history = build(samples, NOW, 15).as_dict()
    assert len(history["nodes"]) == 8
    assert history["nodes"]["others"]["connections"][-1] == sum(range(23))
    assert history["nodes"]["node-29"]["connections"][-1] == 29


def test_what_was_before_the_hour_is_only_compared_with() -> None:
    history = History(NOW)
    history.add("a", "n", ago(3610), figures(1, messages_in=0, closes={}))
    history.add("a", "n", ago(3580), figures(1, messages_in=300, closes={"1006": 1}))
    found = history.as_dict()
    assert 0 < sum(found["nodes"]["n"]["in"]) < 300  # the part since
    assert sum(found["closes"]["1006"]) == 1


def test_longer_steps_for_samples_that_are_further_apart() -> None:
    history = build([("a", "n", ago(90), figures(1))], NOW, 60).as_dict()
    assert (history["step"], history["count"]) == (60_000, 60)


@pytest.mark.usefixtures("node_installed")
def test_page_goes_on_as_the_server_would_have() -> None:
    """Half of the samples to the server and the rest to the page, or all to the server."""
    samples: list[tuple[str, str, float, dict[str, Any]]] = []
    for i in range(40):
        nodes = [("a", "node-1"), ("b", "node-2")]
        if i > 29:  # comes late, and is heard of by the page alone
            nodes.append(("c", "node-1"))
        for node, name in nodes:
            rtt = [0] * (len(SHORT) + 1)
            rtt[i % 5] = i
            stats = {
                "messages_in": i * (7 if node == "a" else 3),
                "messages_out": i * i,
                "hellos": [["new", "", i], ["resumed", "lost", i // 3]],
                "closes": {"1006": i // 2},
                "rtt": {"bounds": SHORT, "counts": [max(rtt[k], i // 6) for k in range(len(rtt))]},
            }
            at = ago(3000 - i * 60 - (4 if node == "b" else 0) - i % 3)
            since = ago({"a": 4000, "b": 3001, "c": 1201}[node])
            samples.append((node, name, at, figures(10 + i, **stats) | {"since": since}))
    samples.sort(key=lambda sample: sample[2])
    half, rest = samples[:44], samples[44:]
    until = half[-1][2]
    last = {node: (name, at, given) for node, name, at, given in half}
    snapshot = {
        "now": until,
        "history": build(half, until, 15).as_dict(),
        "nodes": [
            {"id": node, "name": name, "at": at, "figures": given}
            for node, (name, at, given) in last.items()
        ],
    }
    module = (ROOT / "graceful_ws/static/graceful_ws/live-history.js").as_uri()
    script = f"""
      import {{ History, quantile }} from {json.dumps(module)};
      const history = new History({json.dumps(snapshot)});
      for (const [id, name, at, figures] of {json.dumps(rest)}) {{
        history.add({{ id, name }}, at, figures);
        history.add({{ id, name }}, at, figures); // a copy changes nothing
      }}
      const [[id, name, at, figures]] = {json.dumps(rest)};
      history.add({{ id, name }}, at, figures); // nor does what is late
      history.roll({NOW});
      const quantiles = [0, 0.5, 0.99].map((part) => quantile([0, 10, 0, 10], [1, 2, 4], part));
      console.log(JSON.stringify({{ ...history, last: null, quantiles }}));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        **{"capture_output": True, "text": True, "timeout": 30, "check": True},
    )
    page, server = json.loads(done.stdout), build(samples, NOW, 15).as_dict()
    assert (page["start"], page["count"]) == (server["start"], server["count"])
    for name, series in server["nodes"].items():
        assert page["nodes"][name]["connections"] == series["connections"]
        for key in ("in", "out"):
            assert page["nodes"][name][key] == pytest.approx(series[key], abs=0.02)
    assert page["closes"] == server["closes"]
    assert page["resumes"] == server["resumes"]
    assert page["rtt"]["counts"] == server["rtt"]["counts"]
    assert page["quantiles"] == [1, 2, 4]
