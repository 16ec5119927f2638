"""A soak against servers that misbehave, each in its own way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from graceful_ws.client import Disconnected
from graceful_ws.soak.report import Report
from graceful_ws.soak.runner import CannotConnect, Plan, Soak, explain
from graceful_ws.soak.screen import Progress
from tests.client.peers import Peer, Visit, echoing, serving
from tests.support.waiting import eventually

ENOUGH = 6  # messages of a client that a scripted server waits for

Answer = Callable[["Desk", int, Any], Awaitable[None]]


class Desk:
    """What a scripted server does with message ``seq`` of one visit."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self._numbers = itertools.count(1)
        self.kept: list[Any] = []

    async def ack(self, seq: int, result: Any = None) -> None:
        results = {} if result is None else {str(seq): result}
        await self.visit.say("ack", seq=seq, results=results)

    async def echo(self, data: Any) -> None:
        await self.visit.say("message", seq=next(self._numbers), data=data)


async def well(desk: Desk, seq: int, data: Any) -> None:
    await desk.echo(data)
    await desk.ack(seq, data)


async def losing(desk: Desk, seq: int, data: Any) -> None:
    if seq != 2:
        await desk.echo(data)
    await desk.ack(seq)


async def duplicating(desk: Desk, seq: int, data: Any) -> None:
    if seq == 2:
        await desk.echo(data)
    await well(desk, seq, data)


async def reordering(desk: Desk, seq: int, data: Any) -> None:
    await desk.ack(seq)
    if seq == 2:
        desk.kept.append(data)
        return
    await desk.echo(data)
    while desk.kept:
        await desk.echo(desk.kept.pop())


async def altering(desk: Desk, seq: int, data: Any) -> None:
    await well(desk, seq, {**data, "pad": "!"} if seq == 2 else data)


async def forgetting(desk: Desk, seq: int, data: Any) -> None:
    if seq == 2:
        await desk.visit.say("gap", reason="trimmed", head=1)
    await well(desk, seq, data)


async def refusing(desk: Desk, seq: int, data: Any) -> None:
    if seq == 2:
        await desk.visit.say("nack", seq=seq, code="error", detail="the handler failed")
    else:
        await well(desk, seq, data)


async def shrugging(desk: Desk, seq: int, data: Any) -> None:
    if seq == 2:
        await desk.visit.say("nack", seq=seq, code="outcome_unknown", detail="started twice")
    else:
        await well(desk, seq, data)


async def silent(desk: Desk, seq: int, data: Any) -> None:
    await desk.echo(data)


async def watched(
    answer: Answer, clients: int = 1, shown: list[Progress] | None = None, **changes: Any
) -> Report:
    """A soak that is stopped when each client has sent enough."""
    full = asyncio.Semaphore(0)

    async def script(visit: Visit) -> None:
        await visit.welcome()
        desk = Desk(visit)
        while True:
            frame = await visit.read()
            if frame["type"] == "message":
                await answer(desk, frame["seq"], frame["data"])
                if frame["seq"] == ENOUGH:
                    full.release()
            elif frame["type"] == "ping":
                await visit.say("pong", sent_at=frame["sent_at"])
            elif frame["type"] == "bye":
                return

    async with serving(script) as peer:
        soak = Soak(plan(peer, clients=clients, **changes), ([] if shown is None else shown).append)
        running = asyncio.create_task(soak.run())
        for _ in range(clients):
            await full.acquire()
        soak.stop()
        return await running


def plan(peer: Peer, **changes: Any) -> Plan:
    fields = {"clients": 1, "seconds": 60.0, "rate": 100.0, "ramp": 0.0, "settle": 0.2}
    return Plan(**{"urls": (peer.url,), **fields, **changes})


async def test_server_that_behaves_has_no_violations() -> None:
    shown: list[Progress] = []
    report = await watched(well, clients=5, shown=shown, settle=5.0)
    assert report.violations() == {}
    assert report.counts.sent == report.counts.acknowledged == report.counts.received
    assert report.counts.sent >= 5 * ENOUGH
    assert report.ack_trips.count == report.echo_trips.count == report.counts.sent
    assert (shown[0].phase, shown[0].sent) == ("connecting", 0)


@pytest.mark.parametrize(
    ("answer", "violations"),
    [
        (losing, {"lost": 1}),
        (duplicating, {"duplicated": 1}),
        (reordering, {"out_of_order": 1}),
        (refusing, {"not_handled": 1}),
        (shrugging, {}),
    ],
)
async def test_violation_is_found(answer: Answer, violations: dict[str, int]) -> None:
    report = await watched(answer)
    assert report.violations() == violations


async def test_altered_echo_and_result_are_unexpected_and_the_message_is_lost() -> None:
    assert (await watched(altering)).violations() == {"lost": 1, "unexpected": 2}


async def test_gap_that_is_told_is_a_violation() -> None:
    report = await watched(forgetting)
    assert report.counts.gaps == {"trimmed": 1}
    assert "gaps" in report.violations()


async def test_messages_without_an_outcome_are_waited_for_as_long_as_asked() -> None:
    report = await watched(silent)
    assert report.violations() == {"unanswered": report.counts.sent}


async def test_client_that_is_closed_for_good_is_a_violation() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await visit.ws.close(4506, "enough")

    async with serving(script) as peer:
        shown: list[Progress] = []
        soak = Soak(plan(peer), shown.append)
        running = asyncio.create_task(soak.run())
        await eventually(lambda: shown and shown[-1].closed)
        soak.stop()
        report = await running
    assert report.ended == report.close_codes == {4506: 1}
    assert report.violations() == {"ended": 1, "unanswered": report.counts.sent}


async def test_messages_have_the_size_that_was_asked_for() -> None:
    sizes: list[int] = []

    async def measuring(desk: Desk, seq: int, data: Any) -> None:
        sizes.append(len(data["pad"]))
        await well(desk, seq, data)

    report = await watched(measuring, size=1000)
    assert report.violations() == {}
    assert min(sizes) > 900


async def test_time_is_up_by_itself() -> None:
    async with serving(echoing) as peer:
        report = await Soak(plan(peer, seconds=0.1, rate=0.01), lambda progress: None).run()
    assert not report.interrupted
    assert report.counts.sent == 1  # at once, and the next one much later
    assert 0.1 <= report.seconds < 5


async def test_clients_are_started_one_after_the_other() -> None:
    async with serving(echoing) as peer:
        await Soak(plan(peer, clients=4, ramp=1.2, seconds=0.4), lambda progress: None).run()
        begun = [dial - peer.dials[0] for dial in peer.dials]
    assert len(begun) == 4
    assert all(begun[n] >= n * 0.3 - 0.05 for n in range(4)), begun


@pytest.mark.parametrize("size", [70_000, 10**7])
async def test_messages_over_the_limit_of_the_server_are_no_soak(size: int) -> None:
    async with serving(echoing) as peer:
        with pytest.raises(CannotConnect, match="--size is more than the server takes"):
            await Soak(plan(peer, size=size), lambda progress: None).run()


async def test_server_that_refuses_everybody_is_no_soak() -> None:
    async with serving(lambda visit: visit.gone()) as peer:  # type: ignore[arg-type, return-value]
        peer.refusing = 1
        with pytest.raises(CannotConnect, match=r"refused with HTTP 503. The site drains"):
            await Soak(plan(peer), lambda progress: None).run()
        assert len(peer.dials) == 1


async def test_server_of_another_kind_is_no_soak() -> None:
    async with serving(lambda visit: visit.gone(), subprotocol=None) as peer:  # type: ignore[arg-type, return-value]
        with pytest.raises(CannotConnect, match=r"closed 4000 .*EchoConsumer"):
            await Soak(plan(peer), lambda progress: None).run()


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (1006, "refused with HTTP 403", "--header"),
        (1006, "refused with HTTP 404", "EchoConsumer"),
        (1006, "no connection: [Errno 111] refused", "Is a server running"),
        (1006, "no connection in time", "Is a server running"),
        (4000, "this is no graceful.v1 server", "EchoConsumer"),
        (4503, "", "close-codes.md"),
    ],
)
def test_refusal_is_explained_in_one_line(code: int, reason: str, remedy: str) -> None:
    asked = Plan(("ws://a/", "ws://b/"), 1, 1.0, 1.0, 0.0, 0.0)
    text = explain(asked, Disconnected(code, reason, False))
    assert text.startswith("Cannot connect to ws://a/ and 1 more: ")
    assert reason in text and remedy in text and "\n" not in text
