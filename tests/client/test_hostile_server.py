"""What a server should not say, and what a proxy answers in its place: nothing of it ends a client,
makes it dial faster, or takes a message from where it belongs."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from graceful_ws.client import (
    ClientSession,
    Disconnected,
    Event,
    Nacked,
    RetryScheduled,
    connect,
)
from graceful_ws.client.events import CloseNeeded, Draining, MessageAcknowledged, MessageNacked
from tests.support.waiting import eventually

from .kit import T0, joined, sent, take, welcome
from .kit import message as text_of
from .peers import DEADLINE, FAST, Visit, client_of, lowest, serving

BUSY = '{"type":"nack","seq":1,"code":"try_again","retry":true}'
BEGUN = '{"type":"nack","seq":1,"code":"interrupted","retry":true}'

# --- nacks and acks ----------------------------------------------------------------------------


def test_message_whose_handler_had_begun_keeps_its_number_when_it_is_given_up() -> None:
    session = ClientSession()
    link = joined(session)
    given_up = session.send("a", tries=2)
    now = T0
    for tries in (1, 2):
        assert [frame["seq"] for frame in sent(link, now)] == [1]
        (told,) = link.receive(BEGUN, now)
        assert isinstance(told, MessageNacked) and told.retry
        assert given_up.is_spent == (tries == 2)
        now += 5
    assert session.withdraw(given_up) is False
    session.send("b")
    assert [(f["seq"], f["data"]) for f in sent(link, now)] == [(1, "a"), (2, "b")]


def test_message_that_was_only_refused_gives_its_number_to_the_next() -> None:
    session = ClientSession()
    link = joined(session)
    session.send("a", tries=1)
    session.send("b")
    sent(link)
    (told,) = link.receive(BUSY, T0)
    assert isinstance(told, MessageNacked) and not told.retry
    assert [(f["seq"], f["data"]) for f in sent(link, T0 + 5)] == [(1, "b")]


def test_message_that_is_refused_for_an_hour_is_sent_each_second_and_stays() -> None:
    session = ClientSession()
    link = joined(session)
    waiting = session.send("a")
    now = T0
    for _ in range(1100):
        assert len(sent(link, now)) == 1
        (told,) = link.receive(BUSY, now)
        assert isinstance(told, MessageNacked) and told.retry
        assert told.retry_after is not None and told.retry_after <= 1
        now += told.retry_after
    assert session.message(1) is waiting


def test_message_that_is_done_cannot_be_taken_back_and_its_result_still_comes() -> None:
    session = ClientSession()
    link = joined(session)
    done = session.send("a")
    sent(link)
    link.receive(BUSY, T0)
    link.closed(1006, T0)
    link = joined(session, resumed=True, session_token=None, last_client_seq=1)
    assert session.withdraw(done) is False
    (told,) = link.receive('{"type":"ack","seq":1,"results":{"1":"A"}}', T0)
    assert isinstance(told, MessageAcknowledged) and told.result == "A"


def test_ack_beyond_what_was_sent_settles_nothing_that_was_not() -> None:
    session = ClientSession()
    link = joined(session, limits={"unacked": 1})
    session.send("a")
    session.send("b")
    assert [frame["seq"] for frame in sent(link)] == [1]
    events = link.receive('{"type":"ack","seq":9}', T0)
    assert [e.seq for e in events if isinstance(e, MessageAcknowledged)] == [1]
    assert [(f["seq"], f["data"]) for f in sent(link)] == [(2, "b")]


async def test_request_that_was_lost_once_fails_after_so_many_nacks_all_the_same() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        frame = await visit.read("message")
        if visit.number == 1:
            return visit.ws.transport.abort()
        for _ in range(3):
            await visit.say("nack", seq=frame["seq"], code="try_again", retry=True)
            frame = await visit.read("message")
        # Nobody waits for it; but it may have been begun, and keeps its number.
        await visit.say("ack", seq=1)
        assert (await visit.read("message"))["seq"] == 2
        await visit.say("ack", seq=2, results={"2": "next"})
        await visit.read("bye")

    async with serving(script) as peer, client_of(peer) as client:
        with pytest.raises(Nacked, match="try_again"):
            await client.request("x", timeout=5, tries=3)
        assert await client.send("y") == "next"
    assert not peer.errors


# --- frames that cannot be meant ---------------------------------------------------------------


def test_message_without_data_is_not_counted_as_received() -> None:
    session = ClientSession()
    link = joined(session)
    events = link.receive('{"type":"message","seq":1}', T0)
    assert [type(event) for event in events] == [CloseNeeded]
    link.closed(4000, T0)
    assert json.loads(session.connect().hello())["last_seq_id"] == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"ack","seq":1}',
        '{"type":"nack","seq":1,"code":"error","detail":"","retry":false}',
        '{"type":"drain","reconnect_in":0,"close_in":5000}',
        '{"type":"gap","reason":"trimmed","head":9}',
        '{"type":"subscribed","stream":"room","epoch":"e","head":7}',
        '{"type":"ping","sent_at":1}',
        text_of(1, "too soon"),
    ],
)
def test_nothing_counts_before_the_welcome(text: str) -> None:
    session = ClientSession()
    old = joined(session)
    session.send("a")
    sent(old)
    new = session.connect()
    new.hello()
    assert new.receive(text, T0) == []
    assert (session.waiting, session.last_seq, session.streams) == (1, 0, {})
    assert new.receive(welcome(resumed=True, session_token=None), T0) != []
    assert [frame["type"] for frame in sent(new)] == ["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"streams": {"room": {"state": "new"}}},
        {"streams": {"room": {"state": "gap", "epoch": "e", "head": "x"}}},
        {"heartbeat": {}},
        {"heartbeat": {"interval": "soon", "timeout": 1, "max_missed": 1}},
    ],
    ids=["a stream without epoch", "a head that is no number", "no heartbeat", "a word"],
)
def test_welcome_that_cannot_be_read_leaves_the_old_connection_working(changes: Any) -> None:
    session = ClientSession()
    old = joined(session)
    new = session.connect()
    new.hello()
    events = new.receive(welcome(resumed=True, session_token="other", **changes), T0)
    assert [type(event) for event in events] == [CloseNeeded]
    new.closed(4000, T0)
    session.send("a")
    assert take(session, old.receive(text_of(1, "on"), T0)) == ["on"]
    old.receive('{"type":"ping","sent_at":1}', T0)
    assert [frame["type"] for frame in sent(old)] == ["pong", "message"]
    assert session.token == "token"


# --- numbers out of all proportion -------------------------------------------------------------


@pytest.mark.parametrize(
    ("reconnect_in", "close_in", "told"),
    [
        (-5, 10**17, Draining(0.0, 3600.0, "")),
        (10**17, 2000, Draining(2.0, 2.0, "")),
        (1000, -1, Draining(0.0, 0.0, "")),
    ],
)
def test_drain_notice_is_bounded(reconnect_in: int, close_in: int, told: Draining) -> None:
    text = {"type": "drain", "reconnect_in": reconnect_in, "close_in": close_in}
    assert joined(ClientSession()).receive(json.dumps(text), T0) == [told]


@pytest.mark.parametrize(("asked", "held"), [(10**15, 300.0), (-(10**15), 0.05)])
def test_pause_after_a_nack_is_bounded(asked: int, held: float) -> None:
    session = ClientSession()
    link = joined(session)
    session.send("a")
    sent(link)
    (told,) = link.receive(f'{BUSY[:-1]},"retry_after":{asked}}}', T0)
    assert isinstance(told, MessageNacked) and told.retry_after == held
    assert link.deadline == T0 + held


@pytest.mark.parametrize("rtt", ["-1e9", "0", "1e300"])
def test_round_trip_that_cannot_be_is_not_told(rtt: str) -> None:
    link = joined(ClientSession())
    assert link.receive(f'{{"type":"ping","sent_at":1,"rtt":{rtt}}}', T0) == []
    assert sent(link) == [{"type": "pong", "sent_at": 1}]


def test_silence_that_a_server_asks_for_is_bounded() -> None:
    heartbeat = {"interval": 1e300, "timeout": 3, "max_missed": 3}
    assert joined(ClientSession(), heartbeat=heartbeat).silence == 3600


async def test_reconnects_are_spread_over_a_minute_at_most() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome(reconnect_window=86400.0)
        await visit.ws.close(1012)

    events: list[Event] = []
    async with serving(script) as peer:
        client = client_of(peer, events, random=lambda: 0.5)
        client.start()
        await eventually(lambda: delays(events))
        assert 30 <= delays(events)[0] < 31
        await client.close()


# --- answers to the handshake ------------------------------------------------------------------


def answer(status: str, *headers: str, body: str = "") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", body]).encode()


def delays(events: list[Event]) -> list[float]:
    return [event.delay for event in events if isinstance(event, RetryScheduled)]


def moved(location: str) -> bytes:
    return answer("302 Found", f"Location: {location}", "Content-Length: 0")


def refused(*headers: str) -> bytes:
    return answer("503 Service Unavailable", "Content-Length: 0", *headers)


@pytest.mark.parametrize(
    ("raw", "delay"),
    [
        (moved("https://login.example/"), 0.05),
        (moved("/"), 0.05),
        (moved("ws://127.0.0.1:1/#part"), 0.05),
        (moved("ws://127.0.0.1:99999/"), 0.05),
        (moved("ws://[::1/"), 0.05),
        (moved(f"ws://{'a' * 70}.example/"), 0.05),
        (refused("Retry-After: 1", "Retry-After: 2"), 2.0),
        (refused("Retry-After: 1000000000"), 300.0),
        (refused(f"Retry-After: 1{'0' * 400}"), 300.0),
        (refused("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"), 0.05),
        (refused("Retry-After: -5"), 0.05),
        (answer("200 OK", "Content-Length: 0"), 0.05),
        (answer("503 Service Unavailable", "Content-Length: -5"), 0.05),
        (answer("503 Service Unavailable", "Transfer-Encoding: chunked", body="zz\r\n"), 0.05),
        (answer("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"), 0.05),
        (b"\x00\xff\n\n", 0.05),
        (b"", 0.05),
    ],
)
async def test_odd_answer_to_a_handshake_is_tried_again_after_the_back_off(
    raw: bytes, delay: float
) -> None:
    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    events: list[Event] = []
    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with asyncio.timeout(DEADLINE), server:
        client = connect(url, probe=None, backoff=FAST, random=lowest, on_event=events.append)
        client.start()
        await eventually(lambda: delays(events))
        assert delays(events)[0] == delay
        assert client.state in ("waiting", "connecting")
        assert not any(event.final for event in events if isinstance(event, Disconnected))
        await client.close()


# --- a server that reads slowly ----------------------------------------------------------------


async def test_what_is_queued_while_the_network_takes_nothing_goes_out_when_it_does() -> None:
    read_on = asyncio.Event()

    async def script(visit: Visit) -> None:
        room: socket.socket = visit.ws.transport.get_extra_info("socket")
        room.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        limits = {"message_bytes": 2**20, "unacked": 64, "unacked_bytes": 2**30}
        await visit.welcome(limits=limits)
        await visit.read("ping")
        visit.ws.transport.pause_reading()
        await read_on.wait()
        visit.ws.transport.resume_reading()
        frame = await visit.read("message")
        await visit.say("ack", seq=1, results={"1": frame["data"]})
        await visit.read("bye")

    plain = {"compression": None, "write_limit": 1000}
    async with serving(script) as peer, client_of(peer, websockets=plain) as client:
        await eventually(lambda: client.session.message_bytes == 2**20)
        for _ in range(9):  # more than the buffers of the operating system hold
            client.volatile("x" * 900_000)
        waiting = asyncio.create_task(client.send("last"))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        read_on.set()
        async with asyncio.timeout(8):  # long before anything else would wake it
            assert await waiting == "last"
