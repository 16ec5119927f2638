"""Watching drains: rows and a clock go in, an outcome per node comes out."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from graceful_ws.management.drains import (
    Outcome,
    Watch,
    bar,
    outcome_text,
    progress_text,
)
from graceful_ws.store.nodes import Status

SILENT_AFTER = 12.0


def a_node(name: str = "node-1", **values: Any) -> Status:
    usual = Status(
        id=uuid.uuid4(),
        name=name,
        host="here",
        state="up",
        requested_state="",
        beat=1,
        beat_at=datetime.now(UTC),
        connections=5,
        progress={},
    )
    return replace(usual, **values)


def watch(*statuses: Status, undo: bool = False) -> Watch:
    return Watch(statuses, 0.0, silent_after=SILENT_AFTER, undo=undo)


def outcome(watched: Watch) -> Outcome:
    (node,) = watched.nodes.values()
    return node.outcome


def after(
    status: Status, *, at: float = 1.0, undo: bool = False, beats: int = 1, **values: Any
) -> Outcome:
    """The outcome when the row of ``status`` has become another at second ``at``."""
    watched = watch(status, undo=undo)
    watched.looked([replace(status, beat=status.beat + beats, **values)], at)
    return outcome(watched)


@pytest.mark.parametrize("state", ["drained", "stopped"])
def test_drained_and_stopped_nodes_are_done(state: str) -> None:
    assert after(a_node(), state=state) is Outcome.DONE


def test_a_node_that_dropped_somebody_is_not_good_enough() -> None:
    assert after(a_node(), state="drained", progress={"left": 1}) is Outcome.BUSY


@pytest.mark.parametrize("state", ["up", "draining"])
def test_a_node_that_has_not_finished_is_waited_for(state: str) -> None:
    assert after(a_node(), state=state) is Outcome.WAITING


def test_a_beat_that_stands_still_is_silence_by_the_watchers_clock() -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([status], SILENT_AFTER - 0.1)
    assert outcome(watched) is Outcome.WAITING
    watched.looked([replace(status, beat=2)], SILENT_AFTER + 5)
    assert outcome(watched) is Outcome.WAITING
    watched.looked([replace(status, beat=2)], 2 * SILENT_AFTER + 5)
    assert outcome(watched) is Outcome.SILENT


def test_a_node_that_was_dead_before_has_nobody_left_to_lose() -> None:
    assert after(a_node(), state="dead", beats=0) is Outcome.GONE
    assert after(a_node(), state="dead", beats=0, undo=True) is Outcome.GONE


def test_a_node_that_dies_while_it_drains_is_no_success() -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([replace(status, beat=2, state="draining")], 1.0)
    watched.looked([replace(status, beat=2, state="dead")], 20.0)
    assert outcome(watched) is Outcome.DIED


def test_a_row_that_was_purged_is_a_node_that_is_gone() -> None:
    watched = watch(a_node())
    watched.looked([], 1.0)
    assert outcome(watched) is Outcome.GONE


def test_an_outcome_stays_whatever_the_row_says_later() -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([replace(status, state="drained")], 1.0)
    watched.looked([replace(status, state="dead")], 2.0)
    assert outcome(watched) is Outcome.DONE


@pytest.mark.parametrize(("beat", "expected"), [(1, Outcome.SILENT), (2, Outcome.LATE)])
def test_when_the_time_is_up_who_lives_is_late_and_who_never_beat_is_silent(
    beat: int, expected: Outcome
) -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([replace(status, beat=beat, state="draining")], 1.0)
    watched.gave_up()
    assert outcome(watched) is expected
    assert watched.failed


def test_undo_is_done_when_the_node_is_up() -> None:
    drained = a_node(state="drained", requested_state="up")
    assert after(drained, undo=True) is Outcome.WAITING
    assert after(drained, undo=True, state="up") is Outcome.DONE
    assert after(drained, undo=True, state="stopped") is Outcome.GONE


def test_undo_does_not_hold_a_process_that_was_told_to_stop() -> None:
    assert after(a_node(state="draining"), undo=True) is Outcome.STOPPING
    assert after(a_node(state="draining")) is Outcome.WAITING


def test_undo_that_crossed_with_the_request_is_asked_again() -> None:
    status = a_node()
    watched = watch(status, undo=True)
    assert not watched.to_ask_again
    watched.looked([replace(status, requested_state="draining")], 1.0)
    assert not watched.to_ask_again  # withdrawn, and not seen
    watched.looked([replace(status, state="draining", requested_state="draining")], 2.0)
    assert watched.to_ask_again
    watched.looked([replace(status, state="draining", requested_state="up")], 3.0)
    assert not watched.to_ask_again


# In words


def test_bar_is_as_full_as_what_is_done() -> None:
    assert [bar(n, 4, 4) for n in range(5)] == ["░░░░", "█░░░", "██░░", "███░", "████"]
    assert bar(0, 0, 4) == "████"
    assert (bar(9, 4, 4), bar(-1, 4, 4)) == ("████", "░░░░")
    assert bar(1, 2, 4, "#.") == "##.."


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"requested_state": "draining"}, "asked, 5 connections"),
        ({"state": "draining"}, "draining ░░░░ 5/5 left"),
        (
            {
                "state": "draining",
                "progress": {"phase": "notifying", "total": 8, "remaining": 2},
            },
            "notifying ███░ 2/8 left",
        ),
        # Some came while the load balancer still looked this way.
        (
            {
                "state": "draining",
                "progress": {"phase": "observing", "total": 8, "remaining": 9},
            },
            "observing ░░░░ 9/9 left",
        ),
        ({"state": "stopped", "progress": {"total": 8}}, ""),
        ({"state": "dead"}, ""),
    ],
)
def test_progress_of_a_node(values: dict[str, Any], text: str) -> None:
    assert progress_text(a_node(**values), width=4) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"state": "drained", "progress": {"total": 8, "seconds": 1.26, "left": 0}},
            "node-1 drained, 8 connections in 1.3 s",
        ),
        (
            {"state": "drained", "progress": {"left": 1, "left_sessions": ["a"]}},
            "node-1 dropped 1 busy connection at the deadline (a)",
        ),
        (
            {"state": "drained", "progress": {"left": 9, "left_sessions": list("abcdefg")}},
            "node-1 dropped 9 busy connections at the deadline (a, b, c, d, e, 4 more)",
        ),
        ({"state": "up", "beat": 2}, "node-1 did not begin"),
        ({"state": "up"}, "node-1 did not answer"),
        (
            {"state": "draining", "beat": 2, "progress": {"phase": "closing", "remaining": 1}},
            "node-1 is still closing with 1 connection",
        ),
        ({"state": "dead", "beat": 1}, "node-1 was dead already"),
    ],
)
def test_outcome_in_words(values: dict[str, Any], text: str) -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([replace(status, **values)], 1.0)
    watched.gave_up()
    (node,) = watched.nodes.values()
    assert outcome_text(node) == text


def test_a_node_that_fell_silent_in_words() -> None:
    status = a_node()
    watched = watch(status)
    watched.looked([replace(status, state="draining", beat=2)], 1.0)
    watched.looked([replace(status, state="draining", beat=2)], 20.0)
    (node,) = watched.nodes.values()
    assert outcome_text(node) == "node-1 fell silent with 5 connections"


def test_outcome_of_an_undo_in_words() -> None:
    status = a_node(state="drained", requested_state="up")
    watched = watch(status, undo=True)
    watched.looked([replace(status, beat=2)], 1.0)
    watched.gave_up()
    (node,) = watched.nodes.values()
    assert outcome_text(node, undo=True) == "node-1 is still drained"
    watched = watch(status, undo=True)
    watched.looked([replace(status, state="up")], 1.0)
    (node,) = watched.nodes.values()
    assert outcome_text(node, undo=True) == "node-1 up again"
    watched = watch(status, undo=True)
    watched.looked([replace(status, requested_state="")], 1.0)
    (node,) = watched.nodes.values()
    assert outcome_text(node, undo=True) == "node-1 was told to stop: start it again"
