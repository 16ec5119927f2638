"""When the asyncio client dials again, against scripted servers."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from graceful_ws.client import (
    Backoff,
    Event,
    RetriesExhausted,
    RetryScheduled,
    StateChanged,
    connect,
)
from graceful_ws.core.close_codes import CloseCode
from tests.support.waiting import eventually

from .peers import FAST, Visit, client_of, echoing, lowest, serving


async def test_lost_connection_is_resumed_and_what_was_unacknowledged_is_sent_again() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome()
            await visit.say("message", seq=1, data="a")
            await visit.read("message")
            visit.ws.transport.abort()
            return
        hello = await visit.welcome(session_token=None, head=2)
        assert (hello["session_token"], hello["attempt"]) == ("token", 2)
        assert (hello["last_seq_id"], hello["pending_from"]) == (1, 1)
        await visit.say("message", seq=1, data="a copy")
        await visit.say("message", seq=2, data="b")
        frame = await visit.read("message")
        await visit.say("ack", seq=frame["seq"], results={"1": "done"})
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert await client.send("x") == "done"
        assert [(await client.receive()).data for _ in range(2)] == ["a", "b"]
        assert (client.resumes, client.replayed, client.resent) == (1, 2, 1)
        assert client.close_codes == {1006: 1}
    assert not peer.errors


async def test_server_that_welcomes_and_closes_1012_is_dialled_once_per_back_off() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.ws.close(1012)

    async with serving(script) as peer:
        client = client_of(peer, backoff=Backoff(base_delay=0.2))
        client.start()
        await asyncio.sleep(1.1)
        await client.close()
    assert 4 <= len(peer.dials) <= 6
    gaps = [later - sooner for sooner, later in zip(peer.dials, peer.dials[1:], strict=False)]
    assert min(gaps) > 0.19
    assert client.close_codes[1012] == len(peer.dials)


async def test_tries_that_are_refused_grow_apart_and_end_in_parked() -> None:
    events: list[Event] = []
    async with serving(echoing) as peer:
        peer.refusing = 7
        async with client_of(peer, events) as client:
            assert client.refused == 7
    retries = [(e.attempt, e.delay) for e in events if isinstance(e, RetryScheduled)]
    assert retries == [
        (0, 0.05),
        (1, 0.1),
        (2, 0.2),
        (3, 0.4),
        (4, 0.4),
        (5, 0.1),
        (6, 0.1),
    ]
    assert StateChanged("waiting", "connecting") in events
    assert StateChanged("connecting", "parked") in events


async def test_refusal_that_says_when_to_come_back_is_obeyed() -> None:
    events: list[Event] = []
    async with serving(echoing) as peer:
        peer.refusing, peer.retry_after = 1, "1"
        async with client_of(peer, events):
            pass
    assert [e.delay for e in events if isinstance(e, RetryScheduled)] == [1.0]


async def test_tries_that_are_used_up_end_the_client_when_asked_to_stop() -> None:
    async with serving(echoing) as peer:
        peer.refusing = 100
        backoff = Backoff(max_retries=2, base_delay=0.01, when_exhausted="stop")
        client = client_of(peer, backoff=backoff)
        with pytest.raises(RetriesExhausted):
            async with client:
                pass
        assert len(peer.dials) == 3
        assert client.state == "closed"
        with pytest.raises(RetriesExhausted):
            await client.send(1)


async def test_start_dials_at_once_and_the_count_of_tries_starts_afresh() -> None:
    events: list[Event] = []
    async with serving(echoing) as peer:
        peer.refusing = 2
        client = client_of(peer, events, backoff=Backoff(base_delay=60))
        client.start()
        for tries in (1, 2):
            await eventually(lambda n=tries: len(peer.dials) == n and client.state == "waiting")
            client.start()
        await client.connected()
        await client.close()
    assert [e.attempt for e in events if isinstance(e, RetryScheduled)] == [0, 0]


async def test_server_that_never_welcomes_is_left_after_the_welcome_timeout() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 1:
            assert (await visit.gone())[0] == CloseCode.SERVER_SILENT
        else:
            await echoing(visit)

    async with serving(script) as peer:
        async with client_of(peer, welcome_timeout=0.2) as client:
            assert client.node == "visit 2"
        assert not peer.errors


async def test_network_that_swallows_the_handshake_is_left_after_the_open_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"ws://127.0.0.1:{hole.getsockname()[1]}/"
        async with serving(echoing) as peer:
            client = connect(
                [url, peer.url], backoff=FAST, random=lowest, probe=None, open_timeout=0.2
            )
            client.start()
            await client.connected()
            assert client.endpoint == peer.url
            assert (client.refused, len(peer.dials)) == (1, 1)
            await client.close()


async def test_server_that_falls_silent_is_left_with_4001() -> None:
    codes: list[int] = []

    async def script(visit: Visit) -> None:
        heartbeat = {"interval": 0.1, "timeout": 0.1, "max_missed": 2}
        if visit.number == 1:
            await visit.welcome(heartbeat=heartbeat)
            codes.append((await visit.gone())[0])
        else:
            await echoing(visit)

    async with serving(script) as peer, client_of(peer) as client:
        await client.send(1)
        assert codes == [4001]
        assert client.close_codes == {4001: 1}


async def test_network_that_takes_nothing_does_not_keep_a_silent_client_waiting() -> None:
    """The close handshake of a dead connection is not waited for."""
    connected_again = asyncio.Event()

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome(heartbeat={"interval": 0.1, "timeout": 0.1, "max_missed": 1})
            visit.ws.transport.pause_reading()
            await connected_again.wait()
            visit.ws.transport.abort()
        else:
            await echoing(visit)

    async with serving(script) as peer:
        started = time.monotonic()
        async with client_of(peer) as client:
            await client.send(1)
            assert time.monotonic() - started < 8
            connected_again.set()


async def test_pings_are_answered_and_tell_the_round_trip() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome(heartbeat={"interval": 0.2, "timeout": 0.1, "max_missed": 1})
        for n in range(5):
            await visit.say("ping", sent_at=n, rtt=0.125)
            assert (await visit.read("pong"))["sent_at"] == n
            await asyncio.sleep(0.1)
        await visit.say("message", seq=1, data="enough")
        await visit.read("bye")

    async with serving(script) as peer:
        async with client_of(peer) as client:
            await client.receive()
            assert client.rtt == 0.125
        assert client.close_codes == {1000: 1}
    assert not peer.errors


async def test_connection_that_is_lost_while_nobody_reads_is_resumed() -> None:
    """It paused in the middle of a message, so that nothing waits for the next one."""

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("message", seq=1, data="a")
        await visit.read("bye")

    def pause(message: object) -> None:
        client.pause_reading()

    async with serving(script) as peer:
        client = client_of(peer, on_message=pause)
        client.start()
        await eventually(lambda: client.last_seq == 1, 10)
        await asyncio.sleep(0.1)  # its reader stands before the next message
        client.abort()
        await eventually(lambda: client.resumes == 1, 10)
        client.resume_reading()
        await client.close()
