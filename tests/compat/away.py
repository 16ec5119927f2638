"""A channel layer that can be away."""

from __future__ import annotations

from typing import Any

from channels.layers import InMemoryChannelLayer


class AwayLayer(InMemoryChannelLayer):
    away = False

    def _check(self) -> None:
        if self.away:
            raise ConnectionError("the layer is away")

    async def new_channel(self, prefix: str = "specific.") -> str:
        self._check()
        return str(await super().new_channel(prefix))

    async def group_add(self, group: str, channel: str) -> None:
        self._check()
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._check()
        await super().group_discard(group, channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        self._check()
        message: dict[str, Any] = await super().receive(channel)
        return message
