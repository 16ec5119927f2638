"""Scenarios of the bounds that are here and not in Channels."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Line, Peer
from tests.compat.talking import ACCEPTED

KIB = 1024


@scenario(
    differs=Differs(
        "size",
        channels=Transcript([ACCEPTED, ("send", "65537"), ("returned",)]),
        here=Transcript(
            [ACCEPTED, ("close", 1009, "65537 bytes, at most 65536"), ("returned",)],
        ),
    )
)
async def message_of_more_than_message_bytes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=str(len(text_data)))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("x" * (64 * KIB + 1))


@scenario()
async def message_of_more_where_the_class_allows_it(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        message_bytes = 1024 * KIB

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=str(len(text_data)))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("x" * (1024 * KIB))


@scenario(
    "json",
    differs=Differs(
        "answer",
        channels=Transcript([ACCEPTED, ("send", '"' + "x" * KIB + '"'), ("returned",)]),
        here=Transcript(
            [ACCEPTED, ("returned",)], [("ValueError", "1026 bytes, over send_bytes (1024)")]
        ),
    ),
)
async def answer_of_more_than_send_bytes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        send_bytes = KIB

        async def receive_json(self, content: Any) -> None:
            try:
                await self.send_json("x" * content)
            except ValueError as error:
                peer.log("ValueError", str(error))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1024")


@scenario()
async def long_text_and_bytes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data="x" * 2048 * KIB)
            await self.send(bytes_data=b"x" * 2048 * KIB)

    peer.start(Consumer.as_asgi())


@scenario(
    "json",
    differs=Differs(
        "strict",
        channels=Transcript(
            [ACCEPTED, ("send", "NaN"), ("send", '"\\ud800"'), ("returned",)],
        ),
        here=Transcript([ACCEPTED, ("returned",)], [("ValueError",), ("ValueError",)]),
    ),
)
async def answer_that_is_no_strict_json(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            for content in (float("nan"), "\ud800"):
                try:
                    await self.send_json(content)
                except ValueError:
                    peer.log("ValueError")

    peer.start(Consumer.as_asgi())


@scenario("json")
async def answer_that_json_has_no_form_for(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            for content in ({1, 2}, b"bytes", object()):
                try:
                    await self.send_json(content)
                except TypeError:
                    peer.log("TypeError")
            for content in ((1, 2)[:1], 2**70, None, True, ""):
                await self.send_json(content)

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "timeout",
        channels=Transcript([ACCEPTED, ("send", "done"), ("returned",)], [("disconnect", 1000)]),
        here=Transcript(
            [ACCEPTED, ("close", 1011, "handler failed"), ("returned",)],
            [("cancelled",), ("disconnect", 1011)],
        ),
    )
)
async def handler_of_more_than_handler_timeout(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        handler_timeout = 0.05

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                peer.log("cancelled")
                raise
            await self.send("done")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("sleep")
    await asyncio.sleep(0.3)


LONG = "x" * 124


@scenario(
    differs=Differs(
        "reason",
        channels=Transcript([ACCEPTED, ("close", 3000, LONG), ("returned",)]),
        here=Transcript([ACCEPTED, ("close", 3000, LONG[:123]), ("returned",)]),
    )
)
async def reason_of_more_than_a_frame_carries(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.close(3000, LONG)

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "past",
        channels=Transcript([ACCEPTED, ("send", "welcome"), ("send", "hello"), ("returned",)]),
        here=Transcript([ACCEPTED, ("send", "welcome"), ("returned",)]),
    )
)
async def accept_past_the_method(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.base_send({"type": "websocket.accept"})
            await self.base_send({"type": "websocket.send", "text": "welcome"})

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello")


def unreadable(name: str, text: str, raised: str | None, reason: str) -> None:
    async def play(peer: Peer, base: Any) -> None:
        class Consumer(base):  # type: ignore[misc]
            async def receive_json(self, content: Any) -> None:
                await self.send_json("read")

        peer.start(Consumer.as_asgi())
        await peer.settled()
        peer.says(text)

    play.__name__ = name
    end: list[Line] = [("raised", raised)] if raised else [("send", '"read"'), ("returned",)]
    channels = Transcript([ACCEPTED, *end])
    here = Transcript([ACCEPTED, ("close", 1007, reason), ("returned",)])
    scenario("json", differs=Differs("not json", channels, here))(play)


unreadable("no_json", "{", "JSONDecodeError", "not JSON: Input data was truncated")
unreadable("not_a_number", "NaN", None, "not JSON: JSON is malformed: invalid character (byte 0)")
unreadable("deep_json", "[" * 65 + "]" * 65, None, "nested deeper than 64")
