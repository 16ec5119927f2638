"""Nodes: beats, the dead and what becomes of their sessions."""

from __future__ import annotations

import uuid

import pytest

from graceful_ws.models import AuditEntry, Node, Session
from graceful_ws.store import nodes
from graceful_ws.store.rounds import commit_all
from tests.store.kit import (
    Elsewhere,
    append,
    attached,
    complete,
    detach,
    done,
    kinds,
    locked_elsewhere,
    node,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


# --- beats ------------------------------------------------------------------------------------


def test_every_start_of_a_process_is_a_node_of_its_own() -> None:
    first, second = node("same"), node("same")
    assert first != second
    me, other = nodes.statuses(name="same")
    assert {me.id, other.id} == {first, second}
    assert all(one.is_live and one.state == "up" and one.beat == 0 for one in (me, other))


def test_a_beat_counts_up_and_brings_what_is_asked_of_the_node() -> None:
    me, other = node("me"), node("other")
    assert nodes.beat(me, 3) == nodes.Beat(True, "", {})
    assert nodes.ask_drain([me], {"rate": 5.0, "reason": "deploy"}, actor="anna") == [me]
    beat = nodes.beat(me, 4)
    assert (beat.known, beat.requested_state) == (True, "draining")
    assert beat.drain_options == {"rate": 5.0, "reason": "deploy", "actor": "anna"}
    assert nodes.beat(other, 0).requested_state == ""
    assert nodes.beats(other) == {me: 2}
    [status] = nodes.statuses(name="me")
    assert (status.beat, status.connections) == (2, 4)


@pytest.mark.parametrize("gone", ["dead", "stopped"])
def test_a_node_that_is_gone_has_no_beat_any_more(gone: str) -> None:
    me, other = node(), node()
    nodes.report(me, gone)
    assert not nodes.beat(me, 1).known
    assert not nodes.beat(uuid.uuid4(), 1).known
    assert nodes.beats(other) == {}
    assert Node.objects.get(pk=me).beat == 0
    nodes.report(me, "drained")  # late
    assert Node.objects.get(pk=me).state == gone


def test_a_node_is_dead_only_if_its_beat_is_the_one_that_was_watched() -> None:
    me = node()
    nodes.beat(me, 1)
    assert not nodes.declare_dead(me, 0)
    assert nodes.beat(me, 1).known
    assert not nodes.declare_dead(me, 1)
    assert nodes.declare_dead(me, 2)
    assert not nodes.declare_dead(me, 2), "only one is told that it did it"
    assert not nodes.beat(me, 1).known
    [status] = nodes.statuses()
    assert (status.state, status.connections, status.is_live) == ("dead", 0, False)


def test_of_many_who_declare_a_node_dead_one_did_it(elsewhere: Elsewhere) -> None:
    me = node()
    futures = [elsewhere.start(nodes.declare_dead, me, 0) for _ in range(4)]
    assert sorted(future.result(30) for future in futures) == [False, False, False, True]


# --- sessions of the dead ---------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["dead", "stopped"])
def test_sessions_of_a_node_that_is_gone_are_detached_and_lose_their_generation(gone: str) -> None:
    here, there = node(), node()
    mine, theirs = attached(node=here), attached(node=there)
    done(append(mine, "1"))
    nodes.report(here, gone)
    assert nodes.detach_dead() == 1
    kept = row(mine)
    assert (kept.state, kept.generation, kept.node_id) == ("detached", 2, None)
    assert (kept.cause, kept.ended_at) == ("node_lost", None)
    assert kept.left_at is not None
    assert nodes.detach_dead() == 0
    assert row(theirs).generation == 1
    assert kinds(commit_all([append(mine, "late"), append(theirs, "1")])) == ["Fenced", ""]
    owner = attached(token=mine.token, attempt=2)
    assert (owner.resumed, owner.generation, owner.last_seq) == (True, 3, 1)


def test_sessions_that_cannot_be_resumed_end_with_their_node() -> None:
    here = node()
    light, mine = attached(node=here, resumable=False), attached(node=here)
    nodes.report(here, "dead")
    assert nodes.detach_dead() == 2
    assert (row(light).state, row(mine).state) == ("ended", "detached")
    assert row(light).ended_at is not None


def test_sessions_that_were_resumed_elsewhere_stay_where_they_are() -> None:
    here, there = node(), node()
    old = attached(node=here)
    owner = attached(node=there, token=old.token, attempt=2)
    nodes.report(here, "dead")
    assert nodes.detach_dead() == 0
    assert done(append(owner, "1")) == [1]


def test_the_dead_are_cleared_in_batches_that_anyone_may_finish() -> None:
    here = node()
    for _ in range(5):
        attached(node=here)
    nodes.report(here, "dead")
    assert [nodes.detach_dead(batch=2) for _ in range(4)] == [2, 2, 1, 0]
    assert set(Session.objects.values_list("state", "generation")) == {("detached", 2)}


@pytest.mark.postgres_only
def test_a_session_locked_elsewhere_does_not_hold_up_the_others(database: Database) -> None:
    here = node()
    locked, free = attached(node=here), attached(node=here)
    nodes.report(here, "dead")
    with locked_elsewhere(database, locked):
        assert nodes.detach_dead() == 1
        assert (row(locked).state, row(free).state) == ("attached", "detached")
    assert nodes.detach_dead() == 1


# --- a node that was declared dead and lives --------------------------------------------------


def test_a_node_that_comes_back_adopts_only_what_is_still_its_own() -> None:
    old, new, there = node(), node(), node()
    names = ("kept", "taken", "detached", "not named", "elsewhere")
    owners = {name: attached(node=old) for name in names}
    attached(node=old, token=owners["taken"].token, instance="two")
    done(detach(owners["detached"]))
    attached(node=there, token=owners["elsewhere"].token, attempt=2)
    nodes.declare_dead(old, 0)
    named = [(one.session, one.generation) for name, one in owners.items() if name != "not named"]
    nodes.adopt(old, new, named)
    assert {name: row(one).node_id for name, one in owners.items()} == {
        "kept": new,
        "taken": old,
        "detached": None,
        "not named": old,
        "elsewhere": there,
    }
    assert row(owners["kept"]).generation == 1
    assert done(append(owners["kept"], "1"), complete(owners["kept"], 1)) == [1, True]
    assert nodes.detach_dead() == 2


def test_a_node_that_comes_back_too_late_adopts_nothing() -> None:
    old, new = node(), node()
    owner = attached(node=old)
    nodes.declare_dead(old, 0)
    nodes.detach_dead()
    nodes.adopt(old, new, [(owner.session, 1), (owner.session, 2)])
    assert (row(owner).state, row(owner).node_id) == ("detached", None)


# --- what a node knows of its own -------------------------------------------------------------


def test_a_node_sees_its_sessions_with_generation_and_head() -> None:
    here = node()
    mine, left, _ = attached(node=here), attached(node=here), attached(node=node())
    done(append(mine, "1", "2"), detach(left))
    assert nodes.attached(here) == {mine.session: (1, 2)}


def test_endings_say_why_a_session_is_gone() -> None:
    here = node()
    closed, taken, left = (attached(node=here) for _ in range(3))
    nodes.end_session(closed.uuid, 4506, "enough")
    attached(token=taken.token, instance="two")
    done(detach(left))
    asked = [one.session for one in (closed, taken, left)]
    found = nodes.endings([*asked, 999_999])
    assert {
        pk: (one.state, one.generation, one.close_code, one.close_reason, one.instance)
        for pk, one in found.items()
    } == {
        closed.session: ("ended", 2, 4506, "enough", "one"),
        taken.session: ("attached", 2, None, "", "two"),
        left.session: ("detached", 1, None, "", "one"),
    }


def test_strays_are_detached_only_while_nobody_else_has_them() -> None:
    here, there = node(), node()
    stray, taken, moved = (attached(node=here) for _ in range(3))
    seen = [(one.session, one.generation) for one in (stray, taken, moved)]
    again = attached(node=here, token=taken.token, attempt=2)
    attached(node=there, token=moved.token, attempt=2)
    nodes.detach_strays(here, seen)
    nodes.detach_strays(there, seen)
    kept = row(stray)
    assert (kept.state, kept.generation, kept.node_id, kept.cause) == ("detached", 2, None, "lost")
    assert kept.left_at is not None
    assert (row(taken).state, row(moved).state) == ("attached", "attached")
    assert done(append(again, "1")) == [1]


# --- operators --------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [False, True])
def test_an_operator_ends_a_session_for_good(detached: bool) -> None:
    owner = attached()
    if detached:
        done(detach(owner))
    left = row(owner).left_at
    assert nodes.end_session(owner.uuid, 4506, "enough", actor="anna")
    kept = row(owner)
    assert (kept.state, kept.generation, kept.cause) == ("ended", 2, "closed")
    assert (kept.close_code, kept.close_reason) == (4506, "enough")
    assert kept.ended_at is not None
    assert kept.left_at == (left or kept.ended_at)
    assert kinds(commit_all([append(owner, "late")])) == ["Fenced"]
    assert not attached(token=owner.token, attempt=2).resumed
    [entry] = AuditEntry.objects.all()
    assert (entry.session, entry.actor, entry.code) == (owner.uuid, "anna", 4506)


def test_a_session_is_ended_once() -> None:
    owner = attached()
    assert nodes.end_session(owner.uuid, 4506, "")
    assert not nodes.end_session(owner.uuid, 4507, "again")
    assert not nodes.end_session(uuid.uuid4(), 4506, "")
    assert row(owner).close_code == 4506
    assert AuditEntry.objects.count() == 1


def test_a_drain_is_asked_of_those_that_are_up_and_written_down() -> None:
    up, stopping, dead = node("up"), node("stopping"), node("dead")
    nodes.report(stopping, "draining")
    nodes.report(dead, "dead")
    assert nodes.ask_drain([up, stopping, dead], {"reason": "deploy"}, actor="anna") == [up]
    assert nodes.draining_count() == 2, "one that was asked shares the rate before it begins"
    [entry] = AuditEntry.objects.all()
    assert (entry.event, entry.node, entry.actor) == ("drain_node", "up", "anna")
    assert entry.reason == "deploy"


@pytest.mark.parametrize(("seen", "asked"), [(False, ""), (True, "up")])
def test_a_drain_that_was_asked_for_is_taken_back(seen: bool, asked: str) -> None:
    me, stopping, dead = node("me"), node("stopping"), node("dead")
    nodes.report(stopping, "draining")
    nodes.report(dead, "dead")
    nodes.ask_drain([me], {}, actor="anna")
    if seen:
        nodes.report(me, "draining")
    assert nodes.ask_undo([me, stopping, dead], actor="anna") == [me]
    states = {one.name: one.requested_state for one in nodes.statuses()}
    assert states == {"me": asked, "stopping": "", "dead": ""}
    assert AuditEntry.objects.filter(event="undo_drain", node="me").count() == 1
