"""``send_to_session`` from outside the node that holds the connection."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.support.ledger import LedgerBook
from tests.support.raw import Raw, again
from tests.support.robot import robots
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import MakeSite

FROM_OUTSIDE = """
from django.db import transaction
from graceful_ws.publishing import SessionUnknown, send_to_session
session = {session!r}
class Undone(Exception): pass
def send(*items):
    for item in items:
        send_to_session(session, item)
{code}
"""


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, shared_site: MakeSite) -> Site:
    return shared_site(database=request.param)


async def outside(site: Site, session: str, code: str) -> str:
    """Runs code in a management shell, a process without any connection."""
    program = FROM_OUTSIDE.format(session=session, code=code)
    return (await site.adjango("shell", "-v", "0", "-c", program)).stdout


async def test_message_from_a_shell_arrives_in_order_with_the_consumers_own(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await raw.ask("own")
        await outside(site, raw.session_id, "send('from outside', {'n': 2})")
        assert await raw.got(3, 3) == {"n": 2}
        await raw.ask("own again")
        assert raw.messages == ["own", "from outside", {"n": 2}, "own again"]
        assert raw.numbers == [1, 2, 3, 4]
        await raw.bye()


async def test_detached_session_finds_what_was_left_for_it_when_it_resumes(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()  # and nothing else: there is no position yet
        await raw.close(1001)
    await outside(site, raw.session_id, "send(1); send(2); send(3)")
    async with again(raw) as later:
        assert (await later.hello(last_seq_id=0))["resumed"]
        await later.got(3)
        assert later.messages == [1, 2, 3]
        await later.bye()


async def test_it_is_sent_if_and_only_if_the_transaction_commits(site: Site) -> None:
    code = """
try:
    with transaction.atomic():
        send('rolled back')
        raise Undone
except Undone:
    pass
with transaction.atomic():
    send('committed')
    try:
        with transaction.atomic():
            send('rolled back to a savepoint')
            raise Undone
    except Undone:
        pass
"""
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        await outside(site, raw.session_id, code)
        await raw.got(1)
        await raw.ask("own")
        assert raw.messages == ["committed", "own"]
        await raw.bye()


async def test_session_that_ended_or_never_was_and_poison_are_refused(site: Site) -> None:
    async with Raw(site.ws("/echo/")) as raw:
        await raw.hello()
        code = """
for bad in (float('nan'), '\\ud83d', 'x' * 2**20):
    try:
        send(bad)
    except ValueError:
        print('ValueError')
for other in ('no uuid', '00000000-0000-4000-8000-000000000000'):
    try:
        send_to_session(other, 1)
    except SessionUnknown:
        print('SessionUnknown')
"""
        answers = await outside(site, raw.session_id, code)
        assert answers.split() == ["ValueError"] * 3 + ["SessionUnknown"] * 2
        await raw.ask("own")
        assert raw.messages == ["own"]
        await raw.bye()
    attached = "SELECT uuid FROM graceful_ws_session WHERE state = 'attached'"
    await eventually(lambda: not site.sql(attached))
    code = "try:\n    send(1)\nexcept SessionUnknown:\n    print('SessionUnknown')"
    assert "SessionUnknown" in await outside(site, raw.session_id, code)


async def test_messages_from_outside_survive_a_kill_between_two_of_them(
    make_site: MakeSite, book: LedgerBook
) -> None:
    site = make_site(nodes=2, env=book.env)
    async with robots(1, [node.ws("/ledger/") for node in site.nodes]) as [robot]:
        await eventually(lambda: len(robot.received) > 5, 15)
        code = "import time\nfor n in range(100):\n    send({'outside': n})\n    time.sleep(0.01)"
        sending = asyncio.create_task(outside(site, robot.session_id, code))
        count = "SELECT count(*) FROM graceful_ws_outboundmessage WHERE data LIKE '%outside%'"
        await eventually(lambda: site.sql(count)[0][0] > 20, 20)
        for node in site.nodes:
            if robot.url.startswith(node.ws("/")):
                node.signal(signal.SIGKILL)
        await sending
        book.stop_ticking()
        await book.complete(robot)
        await eventually(lambda: outside_numbers(robot.received) == list(range(100)), 15)
        book.verify(robot)
        await robot.bye()
    assert robot.closes == {1006: 1}


def outside_numbers(received: list[dict[str, int]]) -> list[int]:
    return [data["outside"] for data in received if "outside" in data]
