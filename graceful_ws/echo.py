"""A consumer that says what it hears: for ``manage.py soak``, and for a first look at a client.

    path("ws/soak/", EchoConsumer.as_asgi())

Whoever may connect may use your database as every consumer lets them: up to ``unacked`` messages of
``message_bytes`` at a time, kept until they are acknowledged. So mount it on staging, or behind a
login.
"""

from __future__ import annotations

from typing import Any

from graceful_ws.consumers import GracefulConsumer, JsonServing
from graceful_ws.core.close_codes import CloseCode


class EchoServing(JsonServing):
    """Which of its messages are JSON is not asked."""

    __slots__ = ()

    async def received_plain(self, text: str | None, data: bytes | None) -> None:
        if data is not None and len(data) > self.limits.message_bytes:
            await self.consumer.close(CloseCode.MESSAGE_TOO_BIG, f"{len(data)} bytes")
        else:
            await self.consumer.send(text_data=text, bytes_data=data)


class EchoConsumer(GracefulConsumer):
    """Answers each message with the same data, as a message and as the result of its handling.

    The echo commits with the number of the message that it answers, so that there is exactly one,
    whatever dies in between. A volatile message gets a volatile echo. A client without
    ``graceful.v1`` gets back the text or bytes that it sent, JSON or not.
    """

    _graceful_class = EchoServing

    def receive_in_transaction(self, content: Any) -> Any:
        self.reply(content)
        return content

    async def receive_volatile(self, content: Any) -> None:
        await self.send_json(content, volatile=True)
