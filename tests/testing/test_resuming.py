"""What a lost connection costs, and what a resume brings back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.models import Session
from graceful_ws.publishing import apublish, asend_to_session
from graceful_ws.testing import Closed, ConnectionEnded, GracefulCommunicator, settle
from tests.consumers import Echo, Room

pytestmark = [pytest.mark.usefixtures("graceful_node"), pytest.mark.sqlite_only]

ECHO = Echo.as_asgi()


async def test_resume_brings_what_was_sent_meanwhile() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send("one")
        await client.receive()
        await client.drop()
        assert client.closed == Closed(1006, "dropped")
        assert client.session_id is not None
        await asend_to_session(client.session_id, "two")
        resumed = await client.resume()
        assert resumed.resumed
        assert [m.data for m in resumed.messages] == ["two"]
        assert (resumed.duplicates, resumed.gaps) == (0, ())
        assert (await client.receive()).data == "two"
        assert await client.receive_nothing()


async def test_message_that_was_not_received_is_lost_with_the_network_and_comes_again() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send("one")
        await settle()
        await client.drop()
        assert [m.data for m in (await client.resume()).messages] == ["one"]
        assert (await client.receive()).data == "one"


async def test_older_number_brings_copies_that_are_not_handed_out() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        client.hold_acks()
        for text in ("one", "two"):
            await client.send(text)
            await client.receive()
        await client.drop()
        resumed = await client.resume(last_seq=0)
        assert (resumed.messages, resumed.duplicates) == ((), 2)
        assert await client.receive_nothing()


async def test_message_without_an_answer_is_sent_again_and_handled_once() -> None:
    handled: list[Any] = []
    gate = asyncio.Event()

    class Slow(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> str:
            handled.append(content)
            await gate.wait()
            return "done"

    async with GracefulCommunicator(Slow.as_asgi(), "/ws/") as client:
        answer = client.send_nowait("order")
        await settle()
        dropping = asyncio.create_task(client.drop())
        await settle()
        gate.set()
        await dropping
        assert not answer.done()
        assert (await client.resume()).resumed
        assert await answer == "done"
        assert handled == ["order"]


async def test_send_says_that_the_connection_ended_and_resume_sends_it() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client:
        await client.send({"echo": False})
        await client.drop()
        with pytest.raises(ConnectionEnded) as caught:
            await client.send("again")
        assert caught.value.code == 1006
        await client.resume()
        assert (await client.receive()).data == "again"


async def test_close_keeps_the_session_and_bye_ends_it() -> None:
    client = GracefulCommunicator(ECHO, "/ws/")
    await client.connect()
    await client.close()
    assert (await client.resume()).resumed
    await client.bye()
    assert client.closed == Closed(1000, "bye")
    assert (await Session.objects.aget()).state == Session.State.ENDED
    resumed = await client.resume()
    assert not resumed.resumed
    assert [gap.reason for gap in resumed.gaps] == ["expired"]
    await client.bye()


async def test_session_goes_on_with_another_client_object() -> None:
    first = GracefulCommunicator(ECHO, "/ws/")
    await first.connect()
    await first.send("one")
    await first.receive()
    await first.drop()
    async with GracefulCommunicator(
        ECHO, "/ws/", session_token=first.session_token, last_seq=first.last_seq
    ) as second:
        assert second.resumed
        assert second.session_id == first.session_id
        assert await second.receive_nothing()


async def test_twin_takes_the_session_over() -> None:
    async with GracefulCommunicator(ECHO, "/ws/") as client, client.twin() as twin:
        assert (await client.wait_closed()).code == CloseCode.SUPERSEDED
        assert twin.resumed
        assert twin.session_id == client.session_id


async def test_missed_messages_of_a_stream_are_replayed() -> None:
    async with GracefulCommunicator(Room.as_asgi(), "/?stream=news") as client:
        await settle()
        await client.drop()
        await apublish("news", 1)
        await settle()
        resumed = await client.resume()
        assert [(m.stream, m.data) for m in resumed.messages] == [("news", 1)]
