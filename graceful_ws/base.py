"""What both consumers are: limits, hooks, accept and close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from channels.generic.websocket import AsyncWebsocketConsumer

from graceful_ws.core.frames import Gap
from graceful_ws.following import Follower
from graceful_ws.node.transaction import collected
from graceful_ws.serving import Serving


class Graceful(Follower, AsyncWebsocketConsumer):
    """To be derived from by way of ``GracefulConsumer`` or ``GracefulWebsocketConsumer``.

    Applications have names of their own for methods and attributes. The names that are taken here
    are Channels' and what the reference lists; one besides, for all the rest: ``_graceful``.
    """

    resumable: ClassVar[bool] = True  # False: heartbeat, drain and registry, but no journal
    receive_in_transaction: ClassVar[Callable[..., Any] | None] = None

    # Limits of this class; None takes the setting of the same name. Seconds and bytes.
    connecting_timeout: ClassVar[float | None] = None
    idle_timeout: ClassVar[float | None] = None
    close_when_idle: ClassVar[bool | None] = None
    closing_timeout: ClassVar[float | None] = None
    heartbeat_interval: ClassVar[float | None] = None
    heartbeat_timeout: ClassVar[float | None] = None
    max_missed: ClassVar[int | None] = None
    handler_timeout: ClassVar[float | None] = None
    close_on_error: ClassVar[bool | None] = None
    progress_timeout: ClassVar[float | None] = None
    message_rate: ClassVar[float | None] = None
    message_burst: ClassVar[int | None] = None
    message_bytes: ClassVar[int | None] = None
    hello_bytes: ClassVar[int | None] = None
    send_bytes: ClassVar[int | None] = None
    unacked: ClassVar[int | None] = None
    unacked_bytes: ClassVar[int | None] = None
    resume_window: ClassVar[float | None] = None
    check_origin: ClassVar[bool | None] = None

    session_id: str | None = None  # the public id that others see; None before the attach

    # --- to override --------------------------------------------------------------------------

    async def session_started(self) -> None:
        """The session is new. Runs once, before its first message."""

    async def resumed(self) -> None:
        """The session goes on over a new connection; missed messages are on their way."""

    async def session_ended(self) -> None:
        """The session is over for good: bye, ``close()``, an operator, or nobody resumed it."""

    async def on_gap(self, gap: Gap) -> None:
        """The client was told that messages are missing and why (``gap.reason``)."""

    # --- opening and closing ------------------------------------------------------------------

    async def accept(self, subprotocol: str | None = None, headers: Any = None) -> None:
        """As in Channels; without ``subprotocol`` a client that offers ``graceful.v1`` gets it."""
        if self._graceful.accepted:
            raise RuntimeError("accept() twice: the connect() of Channels calls it, too")
        await super().accept(self._graceful.subprotocol(subprotocol), headers)
        self._graceful.opened()

    async def close(self, code: int | bool | None = None, reason: str | None = None) -> None:
        """Closes the connection and ends the session. A code of the application's own (3000-3999,
        4600-4999) is passed through; otherwise ``graceful.v1`` clients get 4507. Raises ValueError
        for a code that nobody may send (RFC 6455, 7.4)."""
        if self._graceful.accepted:
            self._graceful.close(code, reason)
        else:
            await super().close(code, reason)
            self._graceful.denied()

    # --- what Channels calls ------------------------------------------------------------------

    async def websocket_connect(self, message: Any) -> None:
        await self._graceful.joined_and_connected()

    __serving: Serving | None = None
    _graceful_class: ClassVar[type[Serving]]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.base_send = send
        self.__serving = self._graceful_class(self)
        await self.__serving.serve(scope, receive, send)

    @property
    def _graceful(self) -> Serving:
        if self.__serving is None:
            raise RuntimeError("the consumer has no connection yet")
        return self.__serving


Serving.library = Graceful


def check_not_collecting(instead: str) -> None:
    if collected() is not None:
        raise RuntimeError(f"inside receive_in_transaction use {instead}")


def collecting(instead: str) -> list[Any]:
    replies = collected()
    if replies is None:
        raise RuntimeError(f"reply() belongs in receive_in_transaction; {instead} here")
    return replies
