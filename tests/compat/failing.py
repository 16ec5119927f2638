"""Scenarios of exceptions: the server logs them in Channels, we log them here."""

from __future__ import annotations

from typing import Any

from channels.exceptions import DenyConnection, StopConsumer

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.layers import tell
from tests.compat.peer import Peer
from tests.compat.talking import ACCEPTED

REFUSED = [
    ("http", 500, [(b"content-type", b"text/plain"), (b"content-length", b"16")]),
    ("body", b"connect() failed"),
    ("returned",),
]
FAILED = ("close", 1011, "handler failed")
LEFT = ("disconnect", 1011)


class Boom(Exception):
    pass


@scenario(
    differs=Differs(
        "denied",
        channels=Transcript([("raised", "Boom")]),
        here=Transcript(REFUSED, [("disconnect", 1006)]),
    )
)
async def exception_before_accept(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            raise Boom

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "exception",
        channels=Transcript([ACCEPTED, ("send", "1"), ("raised", "Boom")]),
        here=Transcript([ACCEPTED, ("send", "1"), FAILED, ("returned",)], [LEFT]),
    )
)
async def exception_after_accept(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.send("1")
            raise Boom

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "exception",
        channels=Transcript(
            [ACCEPTED, ("send", "1"), ("raised", "Boom")], [("receive", "1"), ("receive", "fail")]
        ),
        here=Transcript(
            [ACCEPTED, ("send", "1"), FAILED, ("returned",)],
            [("receive", "1"), ("receive", "fail"), LEFT],
        ),
    )
)
async def exception_in_receive(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data)
            if text_data == "fail":
                raise Boom
            await self.send(text_data)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", "fail", "2", "3")


@scenario(
    differs=Differs(
        "exception",
        channels=Transcript([ACCEPTED, ("raised", "Boom")]),
        here=Transcript([ACCEPTED, FAILED, ("returned",)], [LEFT]),
    )
)
async def exception_in_a_group_handler(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def item(self, event: Any) -> None:
            raise Boom

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("news", "item")


@scenario(
    differs=Differs(
        "exception",
        channels=Transcript([ACCEPTED, ("raised", "Boom")]),
        here=Transcript([ACCEPTED, ("returned",)]),
    )
)
async def exception_in_disconnect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def disconnect(self, code: int) -> None:
            raise Boom

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.leaves()


@scenario(
    differs=Differs(
        "exception",
        channels=Transcript([ACCEPTED, ("raised", "DenyConnection")]),
        here=Transcript([ACCEPTED, FAILED, ("returned",)], [LEFT]),
    )
)
async def deny_connection_in_receive(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            raise DenyConnection

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("deny me")


@scenario(
    differs=Differs(
        "stop",
        channels=Transcript([ACCEPTED, ("returned",)]),
        here=Transcript([ACCEPTED, ("close", 1000, ""), ("returned",)], [("disconnect", 1000)]),
    )
)
async def stop_consumer_without_close(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            raise StopConsumer

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", "2")


@scenario(
    differs=Differs(
        "stop",
        channels=Transcript([("returned",)]),
        here=Transcript(REFUSED, [("disconnect", 1006)]),
    )
)
async def stop_consumer_before_accept(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            raise StopConsumer

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def exception_after_a_denial(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close()
            raise StopConsumer

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "disconnect",
        channels=Transcript([ACCEPTED, ("close", 3001, ""), ("returned",)]),
        here=Transcript([ACCEPTED, ("close", 3001, ""), ("returned",)], [("disconnect", 3001)]),
    )
)
async def stop_consumer_after_close(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.close(3001)
            raise StopConsumer

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("stop")
