"""``GracefulWebsocketConsumer`` with clients that speak ``graceful.v1``, and without."""

from __future__ import annotations

from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from graceful_ws.checks import consumer_problems
from graceful_ws.consumers import GracefulWebsocketConsumer
from graceful_ws.testing import GracefulCommunicator, Nacked, settle

pytestmark = [pytest.mark.usefixtures("graceful_node"), pytest.mark.sqlite_only]


class Shout(GracefulWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> Any:
        if text_data is not None:
            await self.send(text_data=text_data.upper())
            return {"length": len(text_data)}
        assert bytes_data is not None
        await self.send(bytes_data=bytes_data[::-1])
        return None


class Kept(GracefulWebsocketConsumer):
    def receive_in_transaction(self, content: str | bytes) -> str:
        if content == "fail":
            raise ValueError("fail")
        self.reply(content)
        return type(content).__name__


async def test_text_travels_as_a_string_and_what_receive_returns_comes_back() -> None:
    async with GracefulCommunicator(Shout.as_asgi(), "/") as client:
        assert await client.send("hällo") == {"length": 5}
        assert (await client.receive()).data == "HÄLLO"


async def test_bytes_travel_as_base64() -> None:
    async with GracefulCommunicator(Shout.as_asgi(), "/") as client:
        await client.send({"bytes": "AAEC/w=="})
        assert (await client.receive()).data == {"bytes": "/wIBAA=="}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": 1}, '{"A":1}'),
        ([1, None], "[1,NULL]"),
        (7, "7"),
        ({"bytes": "no base64!"}, '{"BYTES":"NO BASE64!"}'),
        ({"bytes": "AAEC", "more": 1}, '{"BYTES":"AAEC","MORE":1}'),
    ],
)
async def test_any_other_data_arrives_as_its_json_text(data: Any, text: str) -> None:
    async with GracefulCommunicator(Shout.as_asgi(), "/") as client:
        await client.send(data)
        assert (await client.receive()).data == text


async def test_text_and_bytes_that_were_missed_come_again_in_order() -> None:
    async with GracefulCommunicator(Shout.as_asgi(), "/") as client:
        client.hold_acks()
        await client.send("one")
        await client.send({"bytes": "AAE="})
        await client.drop()
        resumed = await client.resume()
        assert resumed.resumed
        assert [one.data for one in resumed.messages] == ["ONE", {"bytes": "AQA="}]


async def test_volatile_text_goes_to_receive_and_has_no_number() -> None:
    class Whisper(Shout):
        async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
            await self.send(text_data=text_data, bytes_data=bytes_data, volatile=True)

    async with GracefulCommunicator(Whisper.as_asgi(), "/") as client:
        client.volatile("psst")
        assert await client.receive_volatile() == "psst"
        assert await client.receive_nothing()


async def test_transaction_takes_and_replies_text_and_bytes() -> None:
    async with GracefulCommunicator(Kept.as_asgi(), "/") as client:
        assert await client.send("text") == "str"
        assert await client.send({"bytes": "AAE="}) == "bytes"
        with pytest.raises(Nacked):
            await client.send("fail")
        assert [(await client.receive()).data for _ in range(2)] == ["text", {"bytes": "AAE="}]


@pytest.mark.parametrize("consumer", [Shout, Kept])
async def test_plain_clients_get_text_and_bytes_as_such(
    consumer: type[GracefulWebsocketConsumer],
) -> None:
    plain = WebsocketCommunicator(consumer.as_asgi(), "/")
    assert (await plain.connect())[0]
    await plain.send_to(text_data="no json")
    await plain.send_to(bytes_data=b"\x00\xff")
    shouts = consumer is Shout
    assert await plain.receive_from() == ("NO JSON" if shouts else "no json")
    assert await plain.receive_from() == (b"\xff\x00" if shouts else b"\x00\xff")
    await plain.disconnect()
    await settle()


async def test_nothing_to_send_is_an_error_and_inside_a_transaction_it_is_reply() -> None:
    class Wrong(GracefulWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
            await self.send(text_data)

    class Sending(GracefulWebsocketConsumer):
        def receive_in_transaction(self, content: str | bytes) -> None:
            self.send("not here")

    class Outside(GracefulWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: Any = None) -> None:
            self.reply("not here")

    for consumer, data in ((Wrong, {"bytes": ""}), (Sending, "x"), (Outside, "x")):
        async with GracefulCommunicator(consumer.as_asgi(), "/") as client:
            with pytest.raises(Nacked) as nacked:
                await client.send(data)
            assert nacked.value.code == "error"
            assert await client.receive_nothing()


def test_two_handlers_for_one_message_are_a_problem() -> None:
    both = type("Both", (Shout,), {"receive_in_transaction": lambda self, content: None})
    assert [problem.id for problem in consumer_problems(both)] == ["E008"]
    assert consumer_problems(Shout) == consumer_problems(Kept) == []
