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

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.layer")
RETRY = 1.0  # seconds between tries while the layer does not answer
TIMEOUT = 2.0  # seconds for leaving the groups of a connection that is gone


class LayerPump:
    """Reads the consumer's channel and hands each message to its handler, in turn."""

    def __init__(self, live: LiveConnection) -> None:
        self._live = live
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Joins ``consumer.groups``; raises what the layer raises, as Channels does."""
        consumer = self._live.consumer
        await self._join()
        if consumer.channel_layer is not None:
            self._task = self._live.node.spawn(self._pump())

    async def _join(self) -> None:
        consumer = self._live.consumer
        for group in consumer.groups or ():
            await consumer.channel_layer.group_add(group, consumer.channel_name)

    async def _pump(self) -> None:
        consumer = self._live.consumer
        layer, name = consumer.channel_layer, consumer.channel_name
        while True:
            try:
                message = await layer.receive(name)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("channel layer: %r", error, extra=self._live.extra())
                await asyncio.sleep(RETRY)
                with contextlib.suppress(Exception):
                    await self._join()
                continue
            handler = self._handler(message)
            if handler is not None:
                await self._live.inbox.wait_uncrowded()
                self._live.inbox.call(functools.partial(handler, message))

    def _handler(self, message: dict[str, Any]) -> Any:
        """None for a type this version does not know: during a rolling deploy versions mix, and
        the message of a newer one must not end older consumers."""
        try:
            handler = getattr(self._live.consumer, get_handler_name(message), None)
        except ValueError:
            handler = None
        if handler is None:
            logger.warning("no handler for %r", message.get("type"), extra=self._live.extra())
        return handler

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        consumer = self._live.consumer
        if consumer.channel_layer is None:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(TIMEOUT):
                for group in consumer.groups or ():
                    await consumer.channel_layer.group_discard(group, consumer.channel_name)
