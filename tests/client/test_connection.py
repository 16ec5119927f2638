"""The asyncio client against scripted servers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from graceful_ws.client import (
    Backoff,
    Disconnected,
    Event,
    GapTold,
    GracefulClient,
    MessageReceived,
    Nacked,
    RetriesExhausted,
    RetryScheduled,
    SessionLost,
    StateChanged,
    connect,
)
from graceful_ws.core.close_codes import CloseCode
from tests.support.waiting import eventually

from .peers import FAST, Peer, Visit, lowest, serving


def client_of(peer: Peer, events: list[Event] | None = None, **options: Any) -> GracefulClient:
    if events is not None:
        options["on_event"] = events.append
    return connect(peer.url, **{"backoff": FAST, "random": lowest, **options})


async def echoing(visit: Visit) -> None:
    """Welcomes, and returns what it gets: as a message and as the result."""
    await visit.welcome()
    number = 0
    while True:
        frame = await visit.read()
        if frame["type"] == "message":
            number += 1
            await visit.say("message", seq=number, data=frame["data"])
            await visit.say("ack", seq=frame["seq"], results={str(frame["seq"]): frame["data"]})
        elif frame["type"] == "bye":
            return


# --- the plain run -----------------------------------------------------------------------------


async def test_client_sends_receives_and_says_bye() -> None:
    events: list[Event] = []
    async with serving(echoing) as peer:
        async with client_of(peer, events) as client:
            assert (client.state, client.session_id, client.node) == (
                "connected",
                "session",
                "visit 1",
            )
            assert client.endpoint == peer.url
            assert await client.send({"a": 1}) == {"a": 1}
            assert await client.receive() == MessageReceived(1, None, {"a": 1})
            assert client.last_seq == 1
        assert client.state == "closed"
        assert client.close_codes == {1000: 1}
        assert [message async for message in client] == []
        with pytest.raises(SessionLost):
            await client.send(1)
    assert [e.new for e in events if isinstance(e, StateChanged)] == [
        "connecting",
        "connected",
        "closed",
    ]
    assert events[-2:] == [Disconnected(1000, "", True), StateChanged("connected", "closed")]


async def test_messages_may_go_to_a_function() -> None:
    got: list[Any] = []

    def on_message(message: MessageReceived) -> None:
        got.append(message.data)
        raise RuntimeError("the application's own mistake")

    async with serving(echoing) as peer, client_of(peer, on_message=on_message) as client:
        await client.send(1)
        await client.send(2)
        assert got == [1, 2]


async def test_what_nobody_handled_raises_its_code() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        await visit.say("nack", seq=1, code="error", detail="the handler failed")
        await visit.say("ack", seq=1)
        await visit.gone()

    async with serving(script) as peer, client_of(peer) as client:
        with pytest.raises(Nacked, match="the handler failed") as raised:
            await client.send(1)
        assert raised.value.code == "error"
        await client.suspend()


async def test_close_fails_what_has_no_outcome() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("bye")

    async with serving(script) as peer:
        async with client_of(peer) as client:
            sending = asyncio.create_task(client.send("x"))
            await asyncio.sleep(0)
        with pytest.raises(SessionLost):
            await sending


async def test_send_waits_for_room_in_the_queue() -> None:
    allowed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await allowed.wait()
        await visit.say("ack", seq=1)
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        for n in range(100):
            await client.send(n, wait=False)
        more = asyncio.create_task(client.send(100, wait=False))
        done, _ = await asyncio.wait([more], timeout=0.1)
        assert not done
        allowed.set()
        await more


# --- reconnecting ------------------------------------------------------------------------------


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

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome(heartbeat={"interval": 0.1, "timeout": 0.1, "max_missed": 1})
            visit.ws.transport.pause_reading()
            await asyncio.sleep(3)
            visit.ws.transport.abort()
        else:
            await echoing(visit)

    async with serving(script) as peer:
        started = time.monotonic()
        async with client_of(peer) as client:
            await client.send(1)
            assert time.monotonic() - started < 2.5


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


async def test_hole_is_closed_4000_and_filled_by_the_resume() -> None:
    codes: list[int] = []

    async def script(visit: Visit) -> None:
        hello = await visit.welcome()
        if visit.number == 1:
            await visit.say("message", seq=1, data="a")
            await visit.say("message", seq=3, data="c")
            codes.append((await visit.gone())[0])
            return
        assert hello["last_seq_id"] == 1
        await visit.say("message", seq=2, data="b")
        await visit.say("message", seq=3, data="c")
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert [(await client.receive()).data for _ in range(3)] == ["a", "b", "c"]
        assert codes == [4000]
        assert not peer.errors


async def test_lost_session_is_told_and_waiting_messages_go_on() -> None:
    events: list[Event] = []

    async def script(visit: Visit) -> None:
        if visit.number == 1:
            await visit.welcome()
            await visit.read("message")
            await visit.ws.close(1012)
            return
        await visit.welcome(resumed=False, session_token="another", session_id="another")
        await visit.say("gap", reason="expired", head=0)
        frame = await visit.read("message")
        await visit.say("ack", seq=frame["seq"], results={"1": frame["data"]})
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer, events) as client:
        assert await client.send("x") == "x"
        assert client.session_id == "another"
        assert client.resumes == 0
    assert [e.reason for e in events if isinstance(e, GapTold)] == ["expired"]


async def test_gap_that_nobody_listens_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.say("gap", reason="trimmed", head=4, **{"from": 1})
        await visit.say("message", seq=5, data="on")
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert (await client.receive()).seq == 5
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_acks_that_come_twice_change_nothing() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        for seq in (1, 2):
            await visit.read("message")
            for _ in range(2):
                await visit.say("ack", seq=seq, results={str(seq): seq})
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert [await client.send("x"), await client.send("y")] == [1, 2]


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4501, 4503, 4505, 4506, 4507, 3100, 4700])
async def test_client_stops_after(code: int) -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.ws.close(code, "because")

    async with serving(script) as peer:
        with pytest.raises(SessionLost, match="because") as raised:
            async with client_of(peer) as client:
                async for _ in client:
                    pass
        assert raised.value.code == code
        assert client.state == "closed"
        assert len(peer.dials) == 1


async def test_client_goes_on_when_superseded_by_itself() -> None:
    async def script(visit: Visit) -> None:
        hello = await visit.welcome()
        if visit.number == 1:
            await visit.say("superseded", instance=hello["instance"])
            await visit.ws.close(4501)
        else:
            await visit.say("message", seq=1, data="on")
            await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        assert (await client.receive()).data == "on"


async def test_server_that_does_not_speak_the_protocol_is_no_endless_loop() -> None:
    async def script(visit: Visit) -> None:
        await visit.gone()

    async with serving(script, subprotocol=None) as peer:
        client = client_of(peer, backoff=Backoff(2, base_delay=0.01, when_exhausted="stop"))
        with pytest.raises(RetriesExhausted, match=r"graceful\.v1"):
            async with client:
                pass


async def test_mistake_that_no_other_try_would_change_ends_the_client() -> None:
    client = GracefulClient("http://127.0.0.1/")
    async with asyncio.timeout(5):
        with pytest.raises(SessionLost, match="InvalidURI"):
            async with client:
                pass


async def test_suspended_session_is_kept_and_goes_on() -> None:
    codes: list[int] = []

    async def script(visit: Visit) -> None:
        hello = await visit.welcome()
        if visit.number == 1:
            codes.append((await visit.gone())[0])
        else:
            assert hello["session_token"] == "token"
            await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        await client.suspend()
        assert client.state == "disconnected"
        client.start()
        await client.connected()
        assert codes == [4000]
        assert client.resumes == 1


async def test_cut_connection_is_1006_for_both_ends() -> None:
    codes: list[int] = []

    async def script(visit: Visit) -> None:
        await visit.welcome()
        if visit.number == 1:
            codes.append((await visit.gone())[0])
        else:
            await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        client.abort()
        await eventually(lambda: client.resumes)
        assert codes == [1006]
        assert client.close_codes == {1006: 1}


async def test_paused_client_leaves_bytes_where_they_are_until_it_reads_again() -> None:
    sent = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        for seq in range(1, 2001):
            await visit.say("message", seq=seq, data="x" * 10_000)
        sent.set()
        await visit.read("bye")

    plain = {"compression": None}
    async with serving(script) as peer, client_of(peer, websockets=plain) as client:
        await client.send("go", wait=False)
        await client.receive()
        client.pause_reading()
        await asyncio.sleep(0.3)
        seen = client.last_seq
        await asyncio.sleep(0.3)
        assert client.last_seq == seen < 2000
        assert not sent.is_set()
        client.resume_reading()
        while client.last_seq < 2000:
            await client.receive()
