"""Scenarios of messages, both ways, and of the end."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.exceptions import StopConsumer

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Line, Peer

ACCEPTED: Line = ("accept", None, [])


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


@scenario(
    differs=Differs(
        "left",
        channels=Transcript(
            [ACCEPTED, ("returned",)],
            [
                *((what, text) for text in "123" for what in ("begins", "ends")),
                ("disconnect", 1000),
            ],
        ),
        here=Transcript(
            [ACCEPTED, ("returned",)],
            [("begins", "1"), ("ends", "1"), ("begins", "2"), ("disconnect", 1000)],
        ),
    )
)
async def client_leaves_more_than_can_be_handled_in_time(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        handler_timeout = 0.6

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("begins", text_data)
            await asyncio.sleep(0.4)
            peer.log("ends", text_data)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", "2", "3")
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
