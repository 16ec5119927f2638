"""The table, the line of JSON and the verdict; and the progress before them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.soak.ledger import Counts
from graceful_ws.soak.report import Report, duration
from graceful_ws.soak.screen import LINE_EVERY, NEWS_EVERY, Progress, Screen


def well() -> Report:
    report = Report(3, 12.0, counts=Counts(30, 30, 30, longest_gap=2.5))
    report.close_codes = Counter({CloseCode.SERVICE_RESTART: 2, 1006: 1})
    report.ack_trips.add(0.01)
    report.echo_trips.add(1.2)
    return report


def test_report_without_violations_has_an_empty_verdict() -> None:
    report = well()
    assert report.violations() == {}
    assert (report.verdict(), report.hint()) == ("", "")


@pytest.mark.parametrize(
    ("counts", "changes", "verdict"),
    [
        ({"lost": 1}, {}, "1 lost"),
        ({"duplicated": 2}, {}, "2 duplicated"),
        ({"out_of_order": 3}, {}, "3 out of order"),
        ({"unexpected": 1}, {}, "1 unexpected"),
        ({"unanswered": 4}, {}, "4 unanswered"),
        ({"gaps": Counter(expired=1)}, {}, "1 gap told"),
        ({"gaps": Counter(expired=1, trimmed=1)}, {}, "2 gaps told"),
        ({"nacks": Counter(error=2, outcome_unknown=1)}, {}, "2 not handled"),
        ({"nacks": Counter(outcome_unknown=1, poison=1)}, {}, ""),
        ({}, {"never_connected": 1}, "1 client never connected"),
        ({}, {"ended": Counter({4506: 2})}, "2 clients closed for good"),
        ({"lost": 1, "duplicated": 1}, {}, "1 lost, 1 duplicated"),
    ],
)
def test_verdict_names_each_violation(
    counts: dict[str, Any], changes: dict[str, Any], verdict: str
) -> None:
    report = well()
    for name, value in counts.items():
        setattr(report.counts, name, value)
    for name, value in changes.items():
        setattr(report, name, value)
    assert report.verdict() == verdict
    assert report.as_json()["passed"] is not bool(verdict)


def test_counts_of_clients_are_added_and_their_longest_gap_is_the_worst() -> None:
    total = Counts(sent=1, gaps=Counter(expired=1), longest_gap=3.0)
    total.add(Counts(sent=2, lost=1, gaps=Counter(expired=1), longest_gap=2.0))
    assert total == Counts(sent=3, lost=1, gaps=Counter(expired=2), longest_gap=3.0)


def test_table_has_a_line_for_each_thing() -> None:
    lines = dict(line.split("  ", 1) for line in well().table().splitlines())
    found = {name: value.strip() for name, value in lines.items()}
    assert found["close codes"] == "3 (1006: 1, 1012: 2)"
    assert found["longest gap"].startswith("2.5 s")
    assert found["round trip, ack"] == "p50 10 ms, p90 10 ms, p99 10 ms, longest 10 ms"
    assert {"sent", "acknowledged", "received", "lost", "duplicated", "out of order"} < set(found)
    assert {"gaps", "outcome unknown", "resumes", "replayed", "resent"} < set(found)
    assert "unanswered" not in found


def test_json_is_plain_and_has_what_the_table_has() -> None:
    report = json.loads(json.dumps(well().as_json()))
    assert report["close_codes"] == {"1006": 1, "1012": 2}
    assert report["echo_trip"] == {"p50": 1.2, "p90": 1.2, "p99": 1.2, "longest": 1.2}
    for name, _ in well().rows():
        assert name.startswith("round trip") or name.replace(" ", "_") in report


def test_hint_for_another_consumer_and_for_a_site_that_stayed_down() -> None:
    other = Report(1, counts=Counts(sent=5, acknowledged=5, lost=5))
    assert "EchoConsumer" in other.hint()
    down = Report(1, counts=Counts(sent=5, acknowledged=2, received=2, unanswered=3))
    assert "--settle" in down.hint()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.23 ms"), (0.9994, "999 ms"), (0.9999, "1 s"), (1.234, "1.23 s"), (75, "75 s")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def progress(**changes: Any) -> Progress:
    fields = dict.fromkeys(Progress.__dataclass_fields__, 0)
    fixed = {"phase": "soaking", "elapsed": 3.0, "seconds": 6.0, "connected": 2}
    return Progress(**{**fields, **fixed, **changes})


def test_progress_says_who_is_there_and_what_is_lost() -> None:
    text = progress(parked=1, away=2, lost=3, sent=9)
    assert text.clients == "2 connected, 2 away, 1 parked, 0 resumes"
    assert text.messages == "sent 9, acknowledged 0, received 0, lost 3"
    assert progress(wrong=2).messages.endswith("lost 0, 2 WRONG")


def test_terminal_is_redrawn_in_place_and_left_empty() -> None:
    said: list[str] = []
    screen = Screen(said.append, terminal=True, cells="█░")
    screen.clear()
    screen.show(progress(), 0.0)
    screen.show(progress(elapsed=6.0), 0.1)
    screen.clear()
    assert said[0].startswith("soaking ██████████░░░░░░░░░░ 3/6 s  2 connected")
    assert said[0].count("\n") == 2
    assert said[1].startswith("\x1b[2F\x1b[Jsoaking ████████████████████ 6/6 s")
    assert said[2:] == ["\x1b[2F\x1b[J"]


def test_elsewhere_a_line_is_written_now_and_then() -> None:
    said: list[str] = []
    screen = Screen(said.append, terminal=False, cells="█░")
    screen.show(progress(), 0.0)
    screen.show(progress(sent=1), 0.5)
    screen.show(progress(connected=1), NEWS_EVERY - 0.1)
    assert len(said) == 1
    screen.show(progress(connected=1), NEWS_EVERY)
    screen.show(progress(connected=1, sent=2), NEWS_EVERY + LINE_EVERY - 0.1)
    assert len(said) == 2
    screen.show(progress(connected=1, sent=2), NEWS_EVERY + LINE_EVERY)
    screen.show(progress(phase="settling"), NEWS_EVERY + LINE_EVERY)
    screen.clear()
    assert len(said) == 4
    assert all("\x1b" not in line and line.endswith("\n") for line in said)
