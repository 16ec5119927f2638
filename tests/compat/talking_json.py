"""Scenarios of JSON, both ways."""

from __future__ import annotations

import json
from typing import Any

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Peer
from tests.compat.talking import ACCEPTED


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
    here = Transcript([ACCEPTED, ("close", *close), ("returned",)], [("disconnect", close[0])])
    scenario("json", differs=Differs(key, channels, here))(play)


BINARY = "this consumer takes JSON text"
unreadable("bytes_to_a_json_consumer", b"[1]", "ValueError", "binary", 1003, BINARY)
unreadable("empty_text_to_a_json_consumer", "", "ValueError", "binary", 1003, BINARY)
