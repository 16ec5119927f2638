"""Channel layers that lose messages, as the real ones may: delivery is at most once."""

from __future__ import annotations

import random
from typing import Any

from channels_redis.core import RedisChannelLayer  # type: ignore[import-untyped]
from channels_redis.pubsub import (  # type: ignore[import-untyped]
    RedisPubSubChannelLayer,
)


class LossyRedisChannelLayer(RedisChannelLayer):  # type: ignore[misc]
    """``drops``: the share of ``group_send`` that reaches nobody."""

    def __init__(self, *args: Any, drops: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drops = drops

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if random.random() >= self._drops:
            await super().group_send(group, message)


class LossyRedisPubSubChannelLayer(RedisPubSubChannelLayer):  # type: ignore[misc]
    """``drops``: the share of ``group_send`` that reaches nobody."""

    def __init__(self, *args: Any, drops: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drops = drops

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if random.random() >= self._drops:
            # The layer hands its methods out by __getattr__, one real layer per event loop.
            await self.__getattr__("group_send")(group, message)
