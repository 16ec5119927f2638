"""The backplane: what is joined, said and heard, and what faults of a layer do to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from graceful_ws.envelopes import (
    is_known,
    node_envelope,
    pending_envelope,
    stream_envelope,
)
from graceful_ws.node import backplane as module
from tests.node.backplane_kit import (
    CORE,
    WITHIN,
    Ear,
    Start,
    both,
    fake,
    group,
    heard,
    hurry,
    start,
    use,
)
from tests.support.waiting import eventually

__all__ = ["fake", "hurry", "start", "use"]  # fixtures


# Joining and hearing


@both
async def test_what_one_node_says_the_members_of_the_group_hear(
    use: Any, start: Start, backend: str
) -> None:
    use(backend)
    speaker, ear, other = await start(), await start(), await start()
    name = group()
    await ear.in_force(name)
    await speaker.in_force()
    await other.in_force(group())
    said = stream_envelope("lobby", "e1", 3, 4, ['{"a":1}', '"é"'])
    speaker.send(name, said)
    await eventually(lambda: ear.heard == [said], WITHIN)
    assert ear.joins == [name]
    assert (other.heard, speaker.heard, ear.state) == ([], [], "closed")


@both
async def test_many_groups_are_joined_and_each_is_announced_once(
    use: Any, start: Start, backend: str
) -> None:
    use(backend)
    ear, names = await start(), [group() for _ in range(300)]
    await ear.in_force(*names)
    assert sorted(ear.joins) == sorted(names)
    await heard(ear, ear, names[-1])


@both
async def test_what_is_said_right_after_joined_is_heard(
    use: Any, start: Start, backend: str
) -> None:
    use(backend)
    speaker, ear = await start(), await start()
    await speaker.in_force()
    ear._on_joined = lambda name: speaker.send(name, node_envelope())
    await ear.in_force(*[group() for _ in range(50)])
    await eventually(lambda: len(ear.heard) == 50, WITHIN)


@both
async def test_a_group_that_was_left_is_not_heard(use: Any, start: Start, backend: str) -> None:
    use(backend)
    ear, left, kept = await start(), group(), group()
    await ear.in_force(left, kept)
    ear.leave(left)
    await eventually(lambda: not ear._unwanted, WITHIN)
    ear.send(left, node_envelope())
    await heard(ear, ear, kept)
    assert node_envelope() not in ear.heard


@both
async def test_the_last_wish_wins(use: Any, start: Start, backend: str) -> None:
    use(backend)
    ear, wanted, unwanted = await start(), group(), group()
    await ear.in_force()
    for turn in range(20):
        for name in (wanted, unwanted):
            ear.join(name)
            if turn % 3 == 0:
                await asyncio.sleep(0.002)
            ear.leave(name)
        ear.join(wanted)
    await eventually(lambda: ear.works and not ear._unwanted, WITHIN)
    assert ear.joins[-1] == wanted
    ear.send(unwanted, node_envelope())
    await heard(ear, ear, wanted)
    assert node_envelope() not in ear.heard


async def test_a_join_that_undoes_a_leave_is_announced_again(use: Any, start: Start) -> None:
    use(CORE)
    ear, name = await start(), group()
    await ear.in_force(name)
    ear.leave(name)
    ear.join(name)
    await eventually(lambda: ear.joins == [name, name], WITHIN)


@pytest.mark.parametrize(
    ("backend", "state"), [(None, "none"), ("channels.layers.InMemoryChannelLayer", "memory")]
)
async def test_without_a_shared_layer_nothing_works_and_nothing_fails(
    use: Any, start: Start, backend: str | None, state: str
) -> None:
    use(backend)
    ear = await start()
    ear.join("graceful.s.a")
    ear.send("graceful.s.a", node_envelope())
    await asyncio.sleep(0)
    ear.leave("graceful.s.a")
    assert (ear.state, ear.works, ear.listens, ear.heard, ear.dropped) == (
        state,
        False,
        False,
        [],
        0,
    )


async def test_a_layer_that_takes_everything_and_delivers_nothing_does_not_work(
    fake: Any, start: Start
) -> None:
    ear, name = await start(), group()
    await ear.in_force(name)
    fake.deaf = True
    await eventually(lambda: not ear.works and ear.state == "closed", WITHIN, "noticed")
    assert not ear.listens
    fake.deaf = False
    await eventually(lambda: ear.works, WITHIN)
    assert ear.joins == [name, name]
    await heard(ear, ear, name)


async def test_a_crowd_of_others_is_proof_enough_that_the_node_listens(
    fake: Any, start: Start
) -> None:
    ear, name = await start(), group()
    await ear.in_force(name)
    fake.deaf = True
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        fake.queue.put_nowait(node_envelope())
        await asyncio.sleep(0.02)
        assert ear.works


async def test_nothing_but_envelopes_of_this_version_is_passed_on(fake: Any, start: Start) -> None:
    ear, name = await start(), group()
    await ear.in_force(name)
    good = stream_envelope("a", "e", 1, 1)
    wrong: list[Any] = [
        None,
        "text",
        [],
        {},
        {"type": "chat.message"},
        {**good, "version": 2},
        {**good, "version": None},
        {**good, "kind": "later"},
        {**good, "kind": ["stream"]},
        {**good, "stream": 7},
        {**good, "epoch": None},
        {**good, "from": "1"},
        {**good, "head": True},
        {**good, "data": "text"},
        {**good, "data": [1]},
        {**pending_envelope([]), "sessions": None},
        {**pending_envelope([]), "sessions": ["1"]},
    ]
    for message in wrong:
        assert not is_known(message)
        fake.queue.put_nowait(message)
    await heard(ear, ear, name)
    assert len(ear.heard) == 1
    assert ear.works
    assert ear.joins == [name]  # never lost


async def test_whoever_hears_may_fail_and_the_next_envelope_is_heard(
    fake: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    ear, name = await start(), group()

    def fail(envelope: Any) -> None:
        ear.heard.append(envelope)
        raise KeyError("a defect")

    ear._on_heard = fail
    await ear.in_force(name)
    await heard(ear, ear, name)
    await heard(ear, ear, name)
    assert ear.joins == [name]
    assert caplog.text.count("an envelope could not be handled") == 2


async def test_an_envelope_that_cannot_be_said_is_no_outage(fake: Any, start: Start) -> None:
    ear, name = await start(), group()
    await ear.in_force(name)
    ear.send(name, {**node_envelope(), "data": "no"})
    await heard(ear, ear, name)
    assert (ear.dropped, ear.joins) == (1, [name])


async def test_the_queue_is_bounded_and_what_does_not_fit_is_counted(
    fake: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE", 5)
    ear, name = await start(), group()
    await ear.in_force(name)
    for number in range(8):
        ear.send(name, pending_envelope([number]))
    assert ear.dropped == 3
    await eventually(lambda: [e["sessions"] for e in ear.heard] == [[n] for n in range(5)], WITHIN)


async def test_thousands_of_envelopes_do_not_hold_the_loop(fake: Any, start: Start) -> None:
    ear, name = await start(), group()
    await ear.in_force(name)
    for _ in range(5000):
        fake.queue.put_nowait(node_envelope())
    turns = 0
    while len(ear.heard) < 5000:
        turns += 1
        await asyncio.sleep(0)
    assert turns > 100


async def test_memberships_are_renewed(
    fake: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW", 0.2)
    ear, name = await start(), group()
    await ear.in_force(name)
    fake.groups.discard(name)  # as the core layer does with what is older than group_expiry
    await eventually(lambda: name in fake.groups, WITHIN)
    assert ear.joins == [name]


async def test_its_groups_are_left_at_the_end(fake: Any) -> None:
    ear = Ear()
    running = asyncio.create_task(ear.run())
    await ear.in_force(group(), group())
    assert len(fake.groups) == 3
    running.cancel()
    await asyncio.wait([running], timeout=WITHIN)
    await ear.stop()
    assert not fake.groups


async def test_it_may_run_again(fake: Any) -> None:
    ear, name = Ear(), group()
    for turn in range(2):
        running = asyncio.create_task(ear.run())
        await ear.in_force(name)
        await heard(ear, ear, name)
        assert ear.joins == [name] * (turn + 1)
        running.cancel()
        await asyncio.wait([running], timeout=WITHIN)
        await ear.stop()
        assert not ear.works


async def test_a_layer_that_cannot_be_loaded_does_not_stop_the_node(use: Any, start: Start) -> None:
    use("no_such_module.Layer")
    ear = await start()
    await eventually(lambda: ear.state == "open", WITHIN)
    assert not ear.works
