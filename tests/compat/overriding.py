"""Scenarios of consumers that override what others leave alone, and of mixins."""

from __future__ import annotations

from typing import Any

from channels.exceptions import StopConsumer

from tests.compat.kit import scenario
from tests.compat.layers import tell
from tests.compat.peer import Peer


@scenario()
async def mixin_of_everything(peer: Peer, base: Any) -> None:
    class Mixin:
        async def accept(self, *args: Any, **kwargs: Any) -> None:
            peer.log("accept", args, kwargs)
            await super().accept(*args, **kwargs)  # type: ignore[misc]

        async def send(self, *args: Any, **kwargs: Any) -> None:
            peer.log("send", args, kwargs)
            await super().send(*args, **kwargs)  # type: ignore[misc]

        async def close(self, *args: Any, **kwargs: Any) -> None:
            peer.log("close", args, kwargs)
            await super().close(*args, **kwargs)  # type: ignore[misc]

        async def receive(self, *args: Any, **kwargs: Any) -> None:
            peer.log("receive", args, kwargs)
            await self.send(*args, **kwargs, close=4009)

        async def connect(self) -> None:
            peer.log("connect")
            await super().connect()  # type: ignore[misc]

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)
            await super().disconnect(code)  # type: ignore[misc]

    class Consumer(Mixin, base):  # type: ignore[misc]
        pass

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello")


@scenario("json")
async def mixin_around_json(peer: Peer, base: Any) -> None:
    class Mixin:
        async def send(self, *args: Any, **kwargs: Any) -> None:
            peer.log("send", args, kwargs)
            await super().send(*args, **kwargs)  # type: ignore[misc]

        async def send_json(self, content: Any, close: Any = False) -> None:
            peer.log("send_json", content)
            await super().send_json([content], close=close)  # type: ignore[misc]

        async def receive(self, text_data: Any = None, **kwargs: Any) -> None:
            peer.log("receive", text_data)
            await super().receive(text_data=text_data, **kwargs)  # type: ignore[misc]

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.send_json(content, close=True)

    class Consumer(Mixin, base):  # type: ignore[misc]
        pass

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1")


@scenario()
async def websocket_connect_and_disconnect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def websocket_connect(self, message: Any) -> None:
            peer.log("websocket_connect", message)
            self.tenant = 7
            await super().websocket_connect(message)
            await self.send("connected")

        async def connect(self) -> None:
            peer.log("connect", self.tenant)
            await self.accept()

        async def websocket_disconnect(self, message: Any) -> None:
            peer.log("websocket_disconnect", message)
            await super().websocket_disconnect(message)

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

        async def item(self, event: Any) -> None:
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("news", "item", n=1)
    await peer.settled()
    peer.leaves(1001)


@scenario()
async def websocket_connect_without_super(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def websocket_connect(self, message: Any) -> None:
            await self.accept()
            await self.send("connected")

        async def websocket_disconnect(self, message: Any) -> None:
            peer.log("websocket_disconnect", message["code"])
            raise StopConsumer

    peer.start(Consumer.as_asgi())


@scenario()
async def websocket_receive(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def websocket_receive(self, message: Any) -> None:
            peer.log("websocket_receive", message["type"], message.get("text"))
            if message.get("text") == "ping":
                await self.send("pong")
            else:
                await super().websocket_receive(message)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            peer.log("receive", text_data, bytes_data)
            await self.send(text_data)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("ping", "hello")


@scenario()
async def dispatch(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        async def dispatch(self, message: Any) -> None:
            peer.log("dispatch", message["type"])
            if message.get("text") != "swallowed":
                await super().dispatch(message)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data)

        async def item(self, event: Any) -> None:
            await self.send(str(event["n"]))

        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello", "swallowed")
    await peer.settled()
    await tell("news", "item", n=1)
    await peer.settled()
    peer.leaves()


@scenario()
async def names_of_ones_own(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.live = self.node = self.session = self.inbox = self.outbox = "mine"

        async def connect(self) -> None:
            self.identity = self.limits = self.label = self.received = self.ended = "mine"
            self._live = self._accepted = self._pump = self._encode = self._send = "mine"
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(self.live + self.identity + self._send)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("hello")


@scenario()
async def channels_own_send(peer: Peer, base: Any) -> None:
    """Events of one's own, past ``send``."""

    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await self.base_send({"type": "websocket.send", "text": "straight"})

    peer.start(Consumer.as_asgi())


@scenario("json")
async def websocket_receive_that_takes_bytes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def websocket_receive(self, message: Any) -> None:
            if message.get("text"):
                await super().websocket_receive(message)
            else:
                await self.send(bytes_data=message.get("bytes") or b"empty")

        async def receive_json(self, content: Any) -> None:
            await self.send_json(content)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1", b"bytes", "")


@scenario("json")
async def dispatch_that_takes_bytes(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def dispatch(self, message: Any) -> None:
            if message.get("bytes"):
                await self.send(bytes_data=message["bytes"])
            else:
                await super().dispatch(message)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says(b"bytes")
