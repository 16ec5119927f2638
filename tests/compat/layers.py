"""Scenarios of the channel layer."""

from __future__ import annotations

import asyncio
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer

from tests.compat.kit import Differs, Transcript, scenario
from tests.compat.peer import Peer
from tests.compat.talking import ACCEPTED


def layer(alias: str = "default") -> InMemoryChannelLayer:
    found = get_channel_layer(alias)
    assert isinstance(found, InMemoryChannelLayer)
    return found


async def tell(group: str, kind: str, **data: Any) -> None:
    await layer().group_send(group, {"type": kind, **data})


@scenario()
async def groups_of_the_class(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news", "sport"]

        async def news_item(self, event: Any) -> None:
            peer.log("news_item", event)
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("news", "news.item", n=1)
    await tell("sport", "news.item", n=2)
    await tell("weather", "news.item", n=3)
    await peer.settled()
    peer.leaves()
    await peer.over()
    peer.log([name for name in ("news", "sport") if layer().groups.get(name)])


@scenario()
async def group_joined_in_connect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            self.room = "room_" + self.scope["query_string"].decode()
            await self.channel_layer.group_add(self.room, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(self.room, self.channel_name)
            peer.log("disconnect", code, self.channel_layer.groups.get(self.room))

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            event = {"type": "chat.message", "text": text_data}
            await self.channel_layer.group_send(self.room, event)

        async def chat_message(self, event: Any) -> None:
            await self.send(text_data=event["text"])

    peer.start(Consumer.as_asgi(), query_string=b"7")
    await peer.settled()
    peer.says("hello", "world")
    await peer.settled()
    peer.leaves(1001)


@scenario()
async def message_to_the_channel_itself(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.send(self.channel_name, {"type": "job.done", "job": 1})
            await self.accept()
            peer.log("connected", isinstance(self.channel_name, str) and bool(self.channel_name))

        async def job_done(self, event: Any) -> None:
            peer.log("job_done", event)
            await self.send(str(event["job"]))

    peer.start(Consumer.as_asgi())


@scenario()
async def group_is_told_before_accept(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def connect(self) -> None:
            await tell("news", "item", n=1)
            await self.accept()
            await self.send("welcome")

        async def item(self, event: Any) -> None:
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())


@scenario()
async def messages_of_client_and_group_in_turn(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive begins", text_data)
            await asyncio.sleep(0.005)
            peer.log("receive ends")
            await self.send(text_data)

        async def item(self, event: Any) -> None:
            peer.log("item begins", event["n"])
            await asyncio.sleep(0.005)
            peer.log("item ends")
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("a")
    await peer.settled()
    await tell("news", "item", n=1)
    await tell("news", "item", n=2)
    await peer.settled()
    peer.says("b")


@scenario()
async def handler_that_closes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def shut_down(self, event: Any) -> None:
            await self.close(code=event["code"])

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("news", "shut.down", code=4008)


@scenario()
async def another_layer(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        channel_layer_alias = "other"
        groups = ["news"]

        async def item(self, event: Any) -> None:
            await self.send(event["from"])

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await layer().group_send("news", {"type": "item", "from": "default"})
    await layer("other").group_send("news", {"type": "item", "from": "other"})


@scenario()
async def layer_that_is_not_configured(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        channel_layer_alias = "nowhere"

        async def connect(self) -> None:
            peer.log(self.channel_layer, hasattr(self, "channel_name"))
            await self.accept()

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "denied",
        channels=Transcript([("raised", "InvalidChannelLayerError")]),
        here=Transcript(
            [
                ("http", 500, [(b"content-type", b"text/plain"), (b"content-length", b"16")]),
                ("body", b"connect() failed"),
                ("returned",),
            ],
            [("disconnect", 1006)],
        ),
    )
)
async def groups_and_no_layer(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        channel_layer_alias = "nowhere"
        groups = ["news"]

        async def connect(self) -> None:
            peer.log("connect")

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario(
    differs=Differs(
        "unknown type",
        channels=Transcript([ACCEPTED, ("raised", "ValueError")]),
        here=Transcript([ACCEPTED, ("send", "1"), ("returned",)]),
    )
)
async def group_message_of_an_unknown_type(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def item(self, event: Any) -> None:
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("news", "new.in.the.next.version")
    await peer.settled()
    await tell("news", "item", n=1)
