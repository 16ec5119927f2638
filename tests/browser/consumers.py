"""The consumer that the page talks to."""

from __future__ import annotations

from typing import Any

from graceful_ws.consumers import GracefulConsumer


class Counter(GracefulConsumer):
    """Sends every message back, exactly once, and passes on what is published meanwhile."""

    streams = ["ticks"]

    def receive_in_transaction(self, content: Any) -> Any:
        self.reply(content)
        return content
