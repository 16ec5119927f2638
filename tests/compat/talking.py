"""Scenarios of messages, both ways, and of the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from channels.exceptions import StopConsumer

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Peer

ACCEPTED = ("accept", None, [])


@scenario()
async def text_comes_and_goes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data, bytes_data)
            await self.send(text_data=text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("one", "tw\N{LATIN SMALL LETTER O WITH DIAERESIS}", "{not json", " ")


@scenario()
async def bytes_come_and_go(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data, bytes_data)
            await self.send(bytes_data=bytes_data)
            await self.send("and text")

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says(b"\x00\xff", b"")


@scenario()
async def receive_takes_text_alone(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: str) -> None:  # as in the tutorial of Channels
            await self.send(text_data=text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello")


@scenario()
async def receive_takes_keywords(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, **kwargs: Any) -> None:
            peer.log(kwargs)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("text", b"bytes")


@scenario("text")
async def receive_is_not_overridden(peer: Peer, base: Any) -> None:
    peer.start(base.as_asgi())
    await peer.settled()
    peer.says("text", b"bytes", "")


@scenario()
async def send_takes_one_of_two(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            try:
                await self.send()
            except ValueError as error:
                peer.log(str(error))
            await self.send("", b"bytes")

    peer.start(Consumer.as_asgi())


@scenario()
async def send_that_closes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data="last words", close=True)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("end it")


@scenario()
async def send_that_closes_with_a_code(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(bytes_data=b"last words", close=3001)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("end it")


def closes_with(*arguments: Any, **keywords: Any) -> Any:
    async def play(peer: Peer, base: Any) -> None:
        class Consumer(base):  # type: ignore[misc]
            async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
                await self.close(*arguments, **keywords)

            async def disconnect(self, code: int) -> None:
                peer.log("disconnect", code)

        peer.start(Consumer.as_asgi())
        await peer.settled()
        peer.says("close")

    return play


for arguments, keywords in (
    ((), {}),
    ((True,), {}),
    ((1001,), {}),
    ((3000, "mine"), {}),
    ((4000,), {}),
    ((), {"code": 4003, "reason": "not allowed here"}),
    ((4104,), {}),  # which the subprotocol knows as something else
    ((4401,), {}),
    ((4507,), {}),
    ((4999,), {"reason": "\N{EURO SIGN}" * 41}),
):
    play = closes_with(*arguments, **keywords)
    play.__name__ = "_".join(
        ["close", *map(str, arguments), *(f"{key}_{value}" for key, value in keywords.items())]
    )
    scenario()(play)


@scenario()
async def client_leaves_with_a_code_of_its_own(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.leaves(4321)


@scenario()
async def client_is_lost(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def disconnect(self, close_code: int) -> None:
            peer.log("disconnect", close_code)
            await self.send("too late")

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.leaves(1006)


@scenario()
async def messages_that_come_while_connect_runs(peer: Peer, base: Any) -> None:
    gate = asyncio.Event()

    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.send("before")
            await gate.wait()
            peer.log("connected")
            await self.send("after")

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data)
            await self.send(text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", "2", "3")
    await peer.settled()
    peer.log("told to go on")
    gate.set()


@scenario()
async def messages_are_handled_one_after_another(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("begins", text_data)
            await asyncio.sleep(0.01 if text_data == "1" else 0)
            await self.send(text_data)
            peer.log("ends", text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", "2", "3")


@scenario()
async def client_says_all_and_leaves_at_once(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data)
            await asyncio.sleep(0.001)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says(*map(str, range(10)))
    peer.leaves()


@scenario()
async def stop_consumer_in_receive(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.close(3001)
            raise StopConsumer

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("stop")


@scenario()
async def messages_that_wait_when_it_closes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data)
            if text_data == "close":
                await self.close(3001)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("close", "1", "2")


@scenario(
    differs=Differs(
        "closing",
        channels=Transcript(
            [ACCEPTED, ("close", 3001, ""), ("returned",)],
            [("receive", "close"), ("receive", "1"), ("disconnect", 3001)],
        ),
        here=Transcript(
            [ACCEPTED, ("close", 3001, ""), ("returned",)],
            [("receive", "close"), ("disconnect", 3001)],
        ),
    )
)
async def messages_that_come_after_close(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data)
            if text_data == "close":
                await self.close(3001)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.answers_close = False
    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("close")
    await peer.settled()
    peer.says("1")
    peer.answers()


# --- JSON -------------------------------------------------------------------------------------


@scenario("json")
async def json_comes_and_goes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            peer.log("receive_json", content, kwargs)
            await self.send_json(content if not isinstance(content, dict | list) else len(content))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says('"text"', "1.5", "null", "[]", "{}", '[ {"a":[1,null,"\\u00e9"]} ]')


@scenario("json")
async def send_json_that_closes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive_json(self, content: Any) -> None:
            await self.send_json("last words", close=content)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("3999")


@scenario("json")
async def encoder_and_decoder_of_ones_own(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        @classmethod
        async def decode_json(cls, text_data: str) -> Any:
            return json.loads(text_data, parse_int=str)

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            return json.dumps(content, sort_keys=True, indent=1)

        async def receive_json(self, content: Any) -> None:
            await self.send_json({"b": content, "a": float("inf")})

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("[1, 2]", "NaN")


@scenario("json")
async def encoder_that_is_no_class_method(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        indent = 2

        async def encode_json(self, content: Any) -> str:
            return json.dumps(content, indent=self.indent)

        async def decode_json(self, text_data: str) -> Any:
            return [self.indent, text_data]

        async def receive_json(self, content: Any) -> None:
            await self.send_json(content)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello")


@scenario("json")
async def receive_that_adds_keywords(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(
            self, text_data: Any = None, bytes_data: Any = None, **kwargs: Any
        ) -> None:
            peer.log("receive", text_data)
            await super().receive(text_data=text_data, bytes_data=bytes_data, tenant=7)

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            peer.log("receive_json", content, kwargs)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("[1]")


JSON = '{"a":[1,2],"é":"\\u00e9"}'


@scenario(
    "json",
    differs=Differs(
        "json",
        channels=Transcript(
            [ACCEPTED, ("send", '{"a": [1, 2], "\\u00e9": "\\u00e9"}'), ("returned",)],
        ),
        here=Transcript([ACCEPTED, ("send", '{"a":[1,2],"é":"é"}'), ("returned",)]),
    ),
)
async def text_of_json(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive_json(self, content: Any) -> None:
            await self.send_json(content)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says(JSON)


def unreadable(name: str, message: str | bytes, raised: str, key: str, *close: Any) -> None:
    async def play(peer: Peer, base: Any) -> None:
        class Consumer(base):  # type: ignore[misc]
            async def receive_json(self, content: Any) -> None:
                peer.log("receive_json", content)

            async def disconnect(self, code: int) -> None:
                peer.log("disconnect", code)

        peer.start(Consumer.as_asgi())
        await peer.settled()
        peer.says(message)

    play.__name__ = name
    channels = Transcript([ACCEPTED, ("raised", raised)])
    here = Transcript(
        [ACCEPTED, ("close", *close), ("returned",)], [("disconnect", close[0])]
    )
    scenario("json", differs=Differs(key, channels, here))(play)


BINARY = "this consumer takes JSON text"
unreadable("bytes_to_a_json_consumer", b"[1]", "ValueError", "binary", 1003, BINARY)
unreadable("empty_text_to_a_json_consumer", "", "ValueError", "binary", 1003, BINARY)
