"""Hooks and handlers that fail, are cancelled or come late: what it costs, and whom."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.db import OperationalError

from graceful_ws.consumers import Fenced, GracefulConsumer, GracefulWebsocketConsumer
from graceful_ws.node import layer as layer_module
from graceful_ws.node.drain import DrainOptions
from graceful_ws.node.node import get_node
from graceful_ws.testing import (
    Closed,
    ConnectionEnded,
    GracefulCommunicator,
    LocalNode,
    Nacked,
    settle,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("graceful_node", "memory_layers"), pytest.mark.sqlite_only]


async def mistake() -> None:
    """Awaits a task of its own that it has cancelled."""
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


class Cancelling(GracefulConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> Any:
        self.handled().append(content)
        if content == "cancel":
            await mistake()
        return content

    @classmethod
    def handled(cls) -> list[Any]:
        raise NotImplementedError


def cancelling() -> type[Cancelling]:
    handled: list[Any] = []
    return type("One", (Cancelling,), {"handled": classmethod(lambda cls: handled)})


async def drained(deadline: float = 10.0) -> None:
    """As a process that stops does it, without the helper's own waiting."""
    drain = (await get_node()).start_drain(DrainOptions(0.0, 0.0, 100.0, deadline))
    assert drain.task is not None
    await asyncio.wait([drain.task])


@pytest.mark.parametrize("name", ["disconnect", "session_ended"])
async def test_cancelled_error_of_a_last_hook_leaves_no_connection_behind(name: str) -> None:
    async def hook(self: Any, *args: Any) -> None:
        await mistake()

    consumer = type("Leaving", (GracefulConsumer,), {name: hook})
    async with GracefulCommunicator(consumer.as_asgi(), "/ws/") as client:
        await client.bye()
    await settle()
    node = await get_node()
    assert (node.connections, node.served, node.sessions) == (set(), set(), {})


async def test_cancelled_error_of_a_handler_is_a_nack_and_stops_nobody() -> None:
    consumer = cancelling()
    async with GracefulCommunicator(consumer.as_asgi(), "/ws/") as client:
        answers = [client.send_nowait(text) for text in ("a", "cancel", "b", "c")]
        assert await answers[0] == "a"
        with pytest.raises(Nacked):
            await answers[1]
        assert [await answer for answer in answers[2:]] == ["b", "c"]
    assert consumer.handled() == ["a", "cancel", "b", "c"]


async def test_cancelled_error_of_a_handler_closes_a_plain_client() -> None:
    client = WebsocketCommunicator(cancelling().as_asgi(), "/ws/")
    await client.connect()
    await client.send_to('"cancel"')
    event = await client.receive_output()
    assert (event["type"], event["code"]) == ("websocket.close", 1011)
    await client.disconnect()


async def test_drain_waits_for_session_ended() -> None:
    done: list[str] = []

    class Ending(GracefulConsumer):
        async def session_ended(self) -> None:
            await asyncio.sleep(0.3)
            done.append("session_ended")

    client = WebsocketCommunicator(Ending.as_asgi(), "/ws/")
    await client.connect()
    leaving = asyncio.create_task(drained())
    assert (await client.receive_output())["code"] == 1012
    await client.send_input({"type": "websocket.disconnect", "code": 1012})
    await leaving
    assert done == ["session_ended"]
    await client.wait()


async def test_handshake_that_is_not_answered_yet_ends_with_the_drain() -> None:
    log: list[Any] = []
    gate = asyncio.Event()

    class Slow(GracefulConsumer):
        async def connect(self) -> None:
            log.append("connect")
            await gate.wait()
            await self.accept()

        async def disconnect(self, code: int) -> None:
            log.append("disconnect")

    application = Slow.as_asgi()
    client = WebsocketCommunicator(application, "/ws/")
    client.scope["extensions"] = {"websocket.http.response": {}}
    await client.send_input({"type": "websocket.connect"})
    await eventually(lambda: log == ["connect"], 5)
    leaving = asyncio.create_task(drained())
    node = await get_node()
    await eventually(lambda: any(live.over for live in node.served), 5)
    gate.set()
    await leaving
    assert log == ["connect", "disconnect"]
    answer = await client.receive_output()
    assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 503)
    await client.wait()


@pytest.mark.parametrize("how", ["the network", "a drain"])
async def test_session_started_runs_though_the_client_has_left(
    how: str, graceful_node: LocalNode
) -> None:
    log: list[str] = []
    gate = asyncio.Event()

    class Starting(GracefulConsumer):
        async def connect(self) -> None:
            await self.accept()
            await gate.wait()  # a query

        async def session_started(self) -> None:
            log.append("started")
            await self.subscribe("room")
            await self.send_json("hello")

        async def resumed(self) -> None:
            log.append("resumed")

    client = GracefulCommunicator(Starting.as_asgi(), "/ws/")
    await client.connect()
    [live] = (await get_node()).connections
    leaving = asyncio.create_task(graceful_node.drain() if how == "a drain" else client.drop())
    await eventually(lambda: not live.inbox.taking, 5)
    assert log == []
    gate.set()
    await leaving
    resumed = await client.resume()
    assert resumed.resumed
    assert (await client.receive()).data == "hello"
    await eventually(lambda: log == ["started", "resumed"], 5)
    node = await get_node()
    assert [live.subscriptions.names for live in node.connections] == [{"room"}]
    await client.bye()


@pytest.mark.parametrize("how", ["websocket_connect", "dispatch"])
async def test_groups_of_the_class_are_joined_by_channels_own_websocket_connect(how: str) -> None:
    class Guests(GracefulConsumer):
        groups = ["staff"]

        async def tell(self, event: Any) -> None:
            await self.send_json(event["text"])

    async def websocket_connect(self: Any, message: Any) -> None:
        if self.scope["path"] == "/guest/":
            await self.accept()
        else:
            await GracefulConsumer.websocket_connect(self, message)

    async def dispatch(self: Any, message: Any) -> None:
        if message["type"] == "websocket.connect":
            await websocket_connect(self, message)
        else:
            await GracefulConsumer.dispatch(self, message)

    hook = websocket_connect if how == "websocket_connect" else dispatch
    application = type("Consumer", (Guests,), {how: hook}).as_asgi()
    clients = [WebsocketCommunicator(application, path) for path in ("/guest/", "/member/")]
    for client in clients:
        assert (await client.connect())[0]
    await get_channel_layer().group_send("staff", {"type": "tell", "text": "a secret"})
    assert await clients[1].receive_json_from() == "a secret"
    assert await clients[0].receive_nothing()
    for client in clients:
        await client.disconnect()


async def test_groups_joined_in_connect_are_joined_again_when_the_layer_has_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layer_module, "RETRY", 0.01)
    layer = get_channel_layer()
    receive = layer.receive
    failing = [False]

    async def forgetful(channel: str) -> Any:
        if failing.pop():
            layer.groups.clear()
            failing.append(False)
            raise ConnectionError("Redis has restarted")
        failing.append(False)
        return await receive(channel)

    monkeypatch.setattr(layer, "receive", forgetful)

    class Room(GracefulConsumer):
        async def connect(self) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.channel_layer.group_add("left", self.channel_name)
            await self.channel_layer.group_discard("left", self.channel_name)
            await self.accept()

        async def tell(self, event: Any) -> None:
            await self.send_json(event["n"])

    client = WebsocketCommunicator(Room.as_asgi(), "/ws/")
    await client.connect()
    failing[:] = [True]
    await layer.group_send("room", {"type": "tell", "n": 1})  # the receive after this one fails
    assert await client.receive_json_from() == 1
    await eventually(lambda: "room" in layer.groups, 5)
    await layer.group_send("room", {"type": "tell", "n": 2})
    assert await client.receive_json_from() == 2
    assert "left" not in layer.groups
    await client.disconnect()
    await settle()
    assert not layer.groups


async def test_all_that_a_connection_calls_has_its_own_context() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: set[tuple[str, str]] = set()

    class Speaking(GracefulConsumer):
        async def connect(self) -> None:
            await self.accept()

        def receive_in_transaction(self, content: Any) -> None:
            seen.add(("transaction of " + content, who.get()))
            self.reply(content)

    consumer = Speaking.as_asgi()

    def middleware(name: str) -> Callable[..., Awaitable[None]]:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            who.set(name)

            async def sending(message: Any) -> None:
                seen.add((name, who.get()))
                await send(message)

            await consumer(scope, receive, sending)

        return application

    clients = [WebsocketCommunicator(middleware(name), "/ws/") for name in ("a", "b", "c")]
    for client in clients:
        await client.connect()
    for _ in range(3):
        for name, client in zip("abc", clients, strict=True):
            await client.send_json_to(name)
    for name, client in zip("abc", clients, strict=True):
        for _ in range(3):
            assert await client.receive_json_from() == name
        await client.disconnect()
    expected = {(name, name) for name in "abc"}
    assert seen == expected | {("transaction of " + name, name) for name in "abc"}


@pytest.mark.parametrize("late", [False, True])
async def test_connect_that_fails_after_accept_closes(late: bool) -> None:
    class Failing(GracefulConsumer):
        async def connect(self) -> None:
            await self.accept()
            while late and self.session_id is None:  # noqa: ASYNC110  (the hello is faster)
                await asyncio.sleep(0)
            raise LookupError("not allowed after all")

    client = GracefulCommunicator(Failing.as_asgi(), "/ws/")
    try:
        await client.connect()
    except ConnectionEnded:
        assert not late
    await eventually(lambda: client.closed is not None, 5)
    assert client.closed == Closed(1011, "handler failed")


async def test_may_subscribe_that_fails_closes() -> None:
    class Asking(GracefulConsumer):
        streams = ["room"]

        async def may_subscribe(self, stream: str) -> bool:
            raise OperationalError("server closed the connection")

    client = GracefulCommunicator(Asking.as_asgi(), "/ws/")
    await client.connect()
    await eventually(lambda: client.closed is not None, 5)
    assert client.closed == Closed(1011, "may_subscribe failed")


async def test_task_that_outlives_its_connection_hears_of_the_end() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Ticking(GracefulConsumer):
        async def connect(self) -> None:
            await self.accept()
            tasks.append(asyncio.create_task(self.tick()))

        async def tick(self) -> None:
            while True:
                await self.send_json("tick")
                await asyncio.sleep(0.001)

    client = WebsocketCommunicator(Ticking.as_asgi(), "/ws/")
    await client.connect()
    await client.disconnect()
    await asyncio.wait(tasks, timeout=5)
    assert isinstance(tasks[0].exception(), Fenced)


async def test_message_that_found_no_free_thread_is_asked_for_again() -> None:
    node = await get_node()
    node.handler_threads._count = 1
    ran: list[str] = []

    class Blocking(GracefulConsumer):
        handler_timeout = 0.3

        def receive_in_transaction(self, content: Any) -> None:
            ran.append(content)
            if content == "block":
                time.sleep(1.0)

    application = Blocking.as_asgi()
    async with (
        GracefulCommunicator(application, "/a/") as one,
        GracefulCommunicator(application, "/b/") as other,
    ):
        blocking = one.send_nowait("block")
        await eventually(lambda: ran == ["block"], 5)
        innocent = other.send_nowait("innocent")
        assert await asyncio.wait_for(innocent, 10) is None
        with contextlib.suppress(Nacked):  # its commit may be faster
            await blocking
    assert ran == ["block", "innocent"]


async def test_text_that_a_handler_cannot_read_is_its_own_affair(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Nested(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.decode_json(content)

    client = WebsocketCommunicator(Nested.as_asgi(), "/ws/")
    await client.connect()
    await client.send_json_to("not json")
    assert (await client.receive_output())["code"] == 1011
    assert "handler failed" in caplog.text
    await client.disconnect()


@pytest.mark.parametrize("volatile", [False, True])
async def test_handler_that_sends_without_end_lets_others_have_their_turn(volatile: bool) -> None:
    left, turns, done = asyncio.Event(), [0], asyncio.Event()

    class Endless(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await left.wait()
            before = turns[0]
            for _ in range(3000):
                await self.send_json("x", volatile=volatile)
            turns[0] -= before
            done.set()

    async def somebody_else() -> None:
        while not done.is_set():
            turns[0] += 1
            await asyncio.sleep(0)

    client: Any
    if volatile:  # and nobody takes it as fast
        client = GracefulCommunicator(Endless.as_asgi(), "/ws/")
        await client.connect()
        client.send_nowait("go")
    else:  # to a client that has gone
        client = WebsocketCommunicator(Endless.as_asgi(), "/ws/")
        await client.connect()
        await client.send_json_to("go")
        node = await get_node()
        await eventually(lambda: all(live.inbox.busy for live in node.connections), 5)
        await client.send_input({"type": "websocket.disconnect", "code": 1001})
        await eventually(lambda: all(live.over for live in node.connections), 5)
    other = asyncio.create_task(somebody_else())
    left.set()
    await other
    assert turns[0] > 2
    if not volatile:
        await client.wait()


@pytest.mark.parametrize("code", [0, 1006, 2000, 5000])
async def test_code_that_nobody_may_send_is_an_error_of_the_handler(code: int) -> None:
    class Closing(GracefulConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.close(code)

    client = WebsocketCommunicator(Closing.as_asgi(), "/ws/")
    await client.connect()
    await client.send_json_to("go")
    assert (await client.receive_output())["code"] == 1011
    await client.disconnect()


async def test_second_accept_is_an_error_of_the_handler() -> None:
    class Twice(GracefulConsumer):
        async def connect(self) -> None:
            await super().connect()
            await self.accept()

    client = WebsocketCommunicator(Twice.as_asgi(), "/ws/")
    assert (await client.connect())[0]
    assert (await client.receive_output())["code"] == 1011
    await client.disconnect()


@pytest.mark.parametrize("base", [GracefulConsumer, GracefulWebsocketConsumer])
@pytest.mark.parametrize("wrong", [{"text_data": 5}, {"bytes_data": 5}, {"text_data": b"text"}])
async def test_what_is_neither_text_nor_bytes_is_not_sent(base: Any, wrong: Any) -> None:
    class Sending(base):  # type: ignore[misc]
        async def receive(self, *args: Any, **kwargs: Any) -> None:
            await self.send(**wrong)

    client = WebsocketCommunicator(Sending.as_asgi(), "/ws/")
    await client.connect()
    await client.send_to("go")
    assert (await client.receive_output())["code"] == 1011
    await client.disconnect()


async def test_disconnect_by_the_layer_runs_disconnect_once() -> None:
    codes: list[int] = []

    class Leaving(GracefulConsumer):
        groups = ["all"]

        async def disconnect(self, code: int) -> None:
            codes.append(code)

    client = WebsocketCommunicator(Leaving.as_asgi(), "/ws/")
    await client.connect()
    await get_channel_layer().group_send("all", {"type": "websocket.disconnect", "code": 4444})
    assert (await client.receive_output())["code"] == 1000
    await client.disconnect()
    assert len(codes) == 1
