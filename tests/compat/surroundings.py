"""Scenarios of what a site has around its consumers: contexts, threads, users of its own kind."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import StopConsumer
from django.utils import translation

from tests.compat.kit import scenario
from tests.compat.layers import layer, tell
from tests.compat.peer import Peer

tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")


@scenario()
async def what_one_handler_sets_the_next_one_sees(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        groups = ["news"]

        def follows(self, name: str) -> None:
            peer.log(name, "after", tenant.get())
            tenant.set(name)

        async def connect(self) -> None:
            self.follows("connect")
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.follows(text_data)

        async def item(self, event: Any) -> None:
            self.follows("item")

        async def disconnect(self, code: int) -> None:
            self.follows("disconnect")

    inner = Consumer.as_asgi()

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        tenant.set("the middleware")
        await inner(scope, receive, send)

    peer.start(middleware)
    await peer.settled()
    peer.says("one")
    await peer.settled()
    await tell("news", "item")
    await peer.settled()
    peer.says("two", "three")
    await peer.settled()
    peer.leaves()
    await peer.over()
    peer.log("outside", tenant.get())


@scenario()
async def language_activated_in_connect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            translation.activate("de")
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=translation.get_language())

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("which?")


@scenario()
async def sync_code_in_its_thread(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            self.thread = await sync_to_async(threading.get_ident)()
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await sync_to_async(self.work)()

        def work(self) -> None:
            peer.log(threading.get_ident() == self.thread)
            async_to_sync(self.send)(text_data="from the thread")
            async_to_sync(self.close)(4123)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("go")


@scenario("json")
async def sync_code_that_sends_json(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive_json(self, content: Any) -> None:
            await sync_to_async(async_to_sync(self.send_json))(content)
            peer.log(asyncio.iscoroutinefunction(self.send_json))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("1")


@scenario()
async def task_of_ones_own(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            self.task = asyncio.create_task(self.tick())

        async def tick(self) -> None:
            for n in range(3):
                await self.send(str(n))
            await self.close(4000)

        async def disconnect(self, code: int) -> None:
            self.task.cancel()
            peer.log("disconnect", code)

    peer.start(Consumer.as_asgi())


@scenario()
async def call_of_ones_own(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def heard() -> Any:
                event = await receive()
                peer.log("heard", event["type"])
                return event

            await super().__call__({**scope, "tenant": 7}, heard, send)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(str(self.scope["tenant"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("whose?")
    await peer.settled()
    peer.leaves()


def user(name: str, value: Any) -> None:
    async def play(peer: Peer, base: Any) -> None:
        class Consumer(base):  # type: ignore[misc]
            async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
                await self.send(text_data=str(self.scope["user"]))

        peer.start(Consumer.as_asgi(), user=value, session={"n": 1})
        await peer.settled()
        peer.says("who am I?")

    play.__name__ = f"user_{name}"
    scenario()(play)


user("is_a_dictionary", {"sub": "ann"})
user("has_no_key", SimpleNamespace(is_authenticated=True, name="ann"))
for kind, key in (("text", "device:7"), ("uuid", uuid.UUID(int=7)), ("pair", ("site", 7))):
    user(f"has_a_key_of_{kind}", SimpleNamespace(is_authenticated=True, pk=key))


@scenario()
async def groups_of_the_instance(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.groups = ["own"]

        async def connect(self) -> None:
            self.groups.append("late")
            await self.channel_layer.group_add("late", self.channel_name)
            await self.accept()

        async def item(self, event: Any) -> None:
            await self.send(str(event["n"]))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    await tell("own", "item", n=1)
    await peer.settled()
    await tell("late", "item", n=2)
    await peer.settled()
    peer.leaves()
    await peer.over()
    peer.log([name for name in ("own", "late") if layer().groups.get(name)])


@scenario()
async def attributes_of_a_consumer(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def connect(self) -> None:
            names = ("scope", "channel_layer", "channel_name", "channel_receive", "base_send")
            peer.log([name for name in names if hasattr(self, name)])
            await self.accept()

    peer.start(Consumer.as_asgi())


@scenario()
async def stop_consumer_in_disconnect(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def disconnect(self, code: int) -> None:
            peer.log("disconnect", code)
            raise StopConsumer

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.leaves()


# --- JSON -------------------------------------------------------------------------------------


@scenario("json")
async def unreadable_text_is_caught(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, **kwargs: Any) -> None:
            try:
                await super().receive(text_data=text_data, **kwargs)
            except json.JSONDecodeError as error:
                await self.send_json(f"bad JSON: {error.doc}")

        async def receive_json(self, content: Any) -> None:
            await self.send_json(content)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("x y", "1")


@scenario("json")
async def decoder_is_called_by_hand(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            try:
                content = await self.decode_json(text_data)
            except ValueError:
                content = "bad"
            await self.send(text_data=await self.encode_json(content))

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("nope", "1")


@scenario("json")
async def coders_that_are_static(peer: Peer, base: Any) -> None:
    class Consumer(base):  # type: ignore[misc]
        @staticmethod
        async def decode_json(text_data: str) -> Any:
            return [text_data]

        @staticmethod
        async def encode_json(content: Any) -> str:
            return f"<{content}>"

        async def receive_json(self, content: Any) -> None:
            await self.send_json(content)

    peer.start(Consumer.as_asgi())
    await peer.settled()
    peer.says("x")
