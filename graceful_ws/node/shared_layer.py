"""A channel layer between processes, as the backplane needs it: every call ends in time, many joins
at once, and connections that can be thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

from channels import layers
from channels.layers import InMemoryChannelLayer, get_channel_layer

from graceful_ws.conf import settings

logger = logging.getLogger("graceful_ws.layer")

TIMEOUT = 2.0  # seconds for one call of the layer
CLOSE_TIMEOUT = 0.4  # seconds
LEAVE_TIMEOUT = 0.5  # seconds for leaving everything at the end
AT_ONCE = 16  # calls under way

Kind = Literal["none", "memory", "shared"]


def own_layer() -> tuple[Kind, SharedLayer | None]:
    """The configured layer, if there is one and it is shared. Raises whatever it raises when it
    cannot be loaded."""
    layer: Any = get_channel_layer(settings.channel_layer)
    if layer is None:
        return "none", None
    if isinstance(layer, InMemoryChannelLayer):
        return "memory", None
    if any(base.__module__.startswith("channels_redis.") for base in type(layer).__mro__):
        # An instance of our own: consumers do not fill its mailbox nor hold its locks, and its
        # connections can be closed without ending theirs.
        own = layers.channel_layers.make_backend(settings.channel_layer)
        if type(own) is type(layer):
            return "shared", SharedLayer(own, is_own=True)
    return "shared", SharedLayer(layer, is_own=False)


class SharedLayer:
    """One channel on a layer."""

    def __init__(self, layer: Any, *, is_own: bool) -> None:
        self._layer = layer
        self._is_own = is_own
        self._is_core = is_own and hasattr(type(layer), "close_pools")
        self._channel: str | None = None
        # The pub/sub layer does not wait for an answer to SUBSCRIBE.
        self.add_is_answered = self._is_core

    async def open(self) -> None:
        """Has a channel after this."""
        if self._channel is None:
            self._channel = await _timed(self._layer.new_channel())

    async def receive(self) -> Any:
        """The next message. Without a timeout: idle is no error, and the pub/sub layer closes a
        channel whose receive is cancelled."""
        return await self._layer.receive(self._channel)

    async def send(self, group: str, message: dict[str, Any]) -> None:
        await _timed(self._layer.group_send(group, message))

    async def add(self, groups: Sequence[str]) -> None:
        await self._for_each(self._layer.group_add, groups)

    async def discard(self, groups: Sequence[str]) -> None:
        await self._for_each(self._layer.group_discard, groups)

    async def _for_each(self, call: Callable[[str, Any], Any], groups: Sequence[str]) -> None:
        for index in range(0, len(groups), AT_ONCE):
            calls = [_timed(call(group, self._channel)) for group in groups[index:][:AT_ONCE]]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Ends the tasks that use it; the first one may be in ``receive``."""
        if self._is_own and not self._is_core:
            await _end(tasks[1:])
            await self._close()  # first: a receive that is cancelled unsubscribes, and may hang
        await _end(tasks)

    async def reset(self, groups: Iterable[str]) -> None:
        """After an error: whatever is remembered of a broken connection is not trusted."""
        if self._is_own:
            await self._close()
        else:
            await self._leave(groups)
            self._channel = None

    async def stop(self, groups: Iterable[str]) -> None:
        """Leaves ``groups`` and closes, within a second."""
        if self._is_core or not self._is_own:
            await self._leave(groups)
        if self._is_own:
            await self._close()

    async def _leave(self, groups: Iterable[str]) -> None:
        if self._channel is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await self.discard(list(groups))

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self._is_core:  # its channel stays valid
                    for cleaner in list(self._layer.receive_cleaners):
                        cleaner.cancel()
                    await self._layer.close_pools()
                else:
                    self._channel = None
                    await self._layer.flush()


async def _timed(call: Awaitable[Any]) -> Any:
    async with asyncio.timeout(TIMEOUT):
        return await call


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels, and waits a second; what they raised has been seen or does not matter."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()
