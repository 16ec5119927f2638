"""The asyncio client against scripted servers."""

from __future__ import annotations

import asyncio
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
    SessionLost,
    StateChanged,
)
from tests.support.waiting import eventually

from .peers import Visit, client_of, echoing, serving

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


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "127.0.0.1:8000",
        "ws://[::1/",
        "ws://h:99999/",
        "ws://h/#part",
        "ws:///",
    ],
)
def test_url_that_no_websocket_has_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is no ws"):
        GracefulClient(["ws://127.0.0.1/", url])


async def test_mistake_that_no_other_try_would_change_ends_the_client() -> None:
    def headers() -> dict[str, str]:
        raise RuntimeError("no credentials")

    async with serving(echoing) as peer:
        client = client_of(peer, headers=headers)
        with pytest.raises(SessionLost, match="no credentials"):
            async with client:
                pass
        assert client.state == "closed"
        assert not peer.dials


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
