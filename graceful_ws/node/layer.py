"""What comes to one connection over the channel layer: groups and ``channel_name``.

A Redis that restarts ends the core layer's reader and forgets every membership
(django/channels_redis#422 and servers alike): the pump outlives that and joins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

from channels.consumer import get_handler_name
from channels.exceptions import InvalidChannelLayerError, StopConsumer

from .calls import called

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.layer")
RETRY = 1.0  # seconds between tries while the layer does not answer
CANCEL_AGAIN = 0.1  # seconds; a layer may lose a cancellation
TIMEOUT = 2.0  # seconds for a channel, or for leaving the groups of a connection that is gone


class ConsumerLayer:
    """The channel layer as one consumer has it: knows which groups it has joined."""

    def __init__(self, layer: Any, consumer: Any) -> None:
        self._layer = layer
        self._consumer = consumer
        self.graceful_groups: dict[str, None] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "_layer":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._layer, name)

    async def group_add(self, group: str, channel: str) -> None:
        await self._layer.group_add(group, channel)
        if channel == self._consumer.channel_name:
            self.graceful_groups[group] = None

    async def join_again(self) -> None:
        """All of them, but for what the consumer leaves meanwhile."""
        channel = self._consumer.channel_name
        for group in list(self.graceful_groups):
            joined = None
            while joined != (group in self.graceful_groups):
                joined = group in self.graceful_groups
                change = self._layer.group_add if joined else self._layer.group_discard
                await change(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        if channel == self._consumer.channel_name:
            self.graceful_groups.pop(group, None)
        await self._layer.group_discard(group, channel)


async def _stop(message: Any) -> None:
    raise StopConsumer


class LayerPump:
    """Reads the consumer's channel and hands each message to its handler, in turn."""

    __slots__ = ("_joined", "_live", "_receiving", "_task")

    def __init__(self, live: LiveConnection) -> None:
        self._live = live
        self._task: asyncio.Task[None] | None = None
        self._joined = True  # False: groups have to be joined, or again
        self._receiving = False  # then cancelling frees the channel

    async def open(self) -> None:
        """Gives the consumer its ``channel_name``: "" while the layer does not answer, which must
        refuse no connection; it comes when the layer does."""
        consumer = self._live.consumer
        if consumer.channel_layer is None:
            return
        consumer.channel_layer = ConsumerLayer(consumer.channel_layer, consumer)
        consumer.channel_name = ""
        if self._live.node.backplane.failing:
            return
        try:
            await self._take_channel()
        except Exception as error:
            logger.warning("channel layer: %r", error, extra=self._live.extra())

    async def _take_channel(self) -> None:
        consumer: Any = self._live.consumer
        async with asyncio.timeout(TIMEOUT):
            consumer.channel_name = await consumer.channel_layer.new_channel()
        receive = consumer.channel_layer.receive
        consumer.channel_receive = functools.partial(receive, consumer.channel_name)

    async def join(self) -> None:
        """Joins ``consumer.groups``. A layer that is away is tried again: a Redis that is down must
        not refuse connections."""
        consumer = self._live.consumer
        if consumer.channel_layer is None:
            if consumer.groups:
                raise InvalidChannelLayerError("BACKEND is unconfigured or doesn't support groups")
            return
        consumer.channel_layer.graceful_groups.update(dict.fromkeys(consumer.groups or ()))
        try:
            await self._join()
        except Exception as error:
            logger.warning("channel layer: %r", error, extra=self._live.extra())
            self._joined = False

    async def _join(self) -> None:
        consumer = self._live.consumer
        if not consumer.channel_name:
            await self._take_channel()
        await consumer.channel_layer.join_again()

    def start(self) -> None:
        """Starts to read."""
        if self._live.consumer.channel_layer is not None and not self._live.over:
            self._task = self._live.node.spawn(self._pump(), self._live.context)

    async def _pump(self) -> None:
        consumer = self._live.consumer
        while not self._live.over:
            try:
                if not (self._joined and consumer.channel_name):
                    await asyncio.sleep(RETRY)
                    if self._live.node.backplane.failing:
                        continue  # a name that the pub/sub layer cannot subscribe stays in it
                    await self._join()
                    self._joined = True
                self._receiving = True
                message = await consumer.channel_layer.receive(consumer.channel_name)
                self._receiving = False
            except Exception as error:
                logger.warning("channel layer: %r", error, extra=self._live.extra())
                self._joined = False
                continue
            handler = None if self._live.over else self._handler(message)
            if handler is not None:
                await self._live.inbox.wait_uncrowded()
                self._live.inbox.call(functools.partial(handler, message))

    def _handler(self, message: dict[str, Any]) -> Any:
        """None for a type this version does not know: during a rolling deploy versions mix, and
        the message of a newer one must not end older consumers."""
        consumer: Any = self._live.consumer
        if message.get("type") == "websocket.disconnect":
            return _stop  # which runs disconnect(), once
        if self._live.application.overrides("dispatch"):
            return consumer.dispatch
        try:
            handler = getattr(consumer, get_handler_name(message), None)
        except ValueError:
            handler = None
        if handler is None:
            logger.warning("no handler for %r", message.get("type"), extra=self._live.extra())
        return handler

    async def stop(self) -> None:
        consumer = self._live.consumer
        if consumer.channel_layer is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(TIMEOUT):
                await called(self._leave())

    async def _leave(self) -> None:
        consumer = self._live.consumer
        await self._end_task()
        if not consumer.channel_name:
            return
        for group in list(consumer.channel_layer.graceful_groups):
            await consumer.channel_layer.group_discard(group, consumer.channel_name)
        if not self._receiving:
            await self._give_back()

    async def _end_task(self) -> None:
        """A layer may lose a cancellation, or take it for an error of its own."""
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_AGAIN)

    async def _give_back(self) -> None:
        """A layer frees a channel when its ``receive`` is cancelled, and in no other way."""
        consumer = self._live.consumer
        receiving = asyncio.ensure_future(consumer.channel_layer.receive(consumer.channel_name))
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
