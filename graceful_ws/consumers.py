"""``GracefulConsumer``: Channels in, the core in the middle, Channels out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from graceful_ws import handshake
from graceful_ws.core.close_codes import CloseCode, is_application_code
from graceful_ws.core.frames import (
    SUBPROTOCOL,
    Gap,
    ProtocolError,
    check_data,
    check_text,
    decode_plain,
    encode_data,
)
from graceful_ws.following import Follower
from graceful_ws.node.identity import identity
from graceful_ws.node.limits import ConnectionLimits, limits_of
from graceful_ws.node.live import LiveConnection
from graceful_ws.node.transaction import collected, plain_transaction
from graceful_ws.serving import Served
from graceful_ws.store.attach import Identity
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced

__all__ = ["Fenced", "GracefulConsumer", "JournalUnavailable"]

DENIED_WAIT = 2.0  # seconds that a refused handshake may take to end


class GracefulConsumer(Served, Follower, AsyncJsonWebsocketConsumer):
    """An ``AsyncJsonWebsocketConsumer`` whose clients lose nothing, in either direction.

    ``connect``, ``receive_json``, ``send_json``, ``disconnect`` and ``groups`` work as in Channels.
    A client that offers the subprotocol ``graceful.v1`` gets numbers, acknowledgements and resume;
    any other is served as Channels would, and still listed and drained.

    New to override, all coroutines: ``session_started`` (once a session), ``resumed`` (after each
    resume), ``session_ended`` (once a session), ``on_gap(gap)``, ``receive_volatile(content)``;
    and the sync ``receive_in_transaction(content)`` in place of ``receive_json``.

    ``streams = ["news"]`` or ``await self.subscribe("room.7")`` follow what is published, here with
    ``await self.publish("room.7", data)`` and anywhere with ``graceful_ws.publishing.publish``.
    With ``presence = True`` the streams are told who comes and goes; then override
    ``exit_audience`` to tell others. ``may_subscribe(stream)`` is asked again at each resume.

    ``connect`` runs for each connection, before the client's hello: what it sends waits for the
    session. What ``receive_json`` returns goes back to the client with the acknowledgement.
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

    if TYPE_CHECKING:  # with ``**kwargs`` or without, and what it returns goes to the client
        receive_json: Callable[..., Coroutine[Any, Any, Any]]

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

    async def receive_volatile(self, content: Any) -> None:
        """An unnumbered message; goes to ``receive_json`` unless overridden."""
        await self.receive_json(content)

    # --- sending ------------------------------------------------------------------------------

    def send_json(
        self, content: Any, close: bool | int = False, *, volatile: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Sends ``content``; awaiting it waits until the message is kept.

        From then on it reaches the client's application once and in order, through any number of
        reconnects within ``resume_window``. With ``volatile`` it has no number, is not kept, and
        is dropped for a client that does not keep up.

        Raises ValueError when the content is not strict JSON or over ``send_bytes``, Fenced when
        the session has moved to another connection or ended, JournalUnavailable while the
        database is away.
        """
        if collected() is not None:
            raise RuntimeError("inside receive_in_transaction use self.reply(content)")
        return self._send_json(content, close, volatile)

    async def _send_json(self, content: Any, close: bool | int, volatile: bool) -> None:
        await self._live.send_data(await self._encode(content), volatile=volatile)
        if close:
            await self.close(close)

    def reply(self, content: Any) -> None:
        """Inside ``receive_in_transaction``: a message that commits with the handler's effect."""
        replies = collected()
        if replies is None:
            raise RuntimeError("reply() belongs in receive_in_transaction; await send_json() here")
        replies.append(self._checked(encode_data(content)))

    async def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """As in Channels; to a ``graceful.v1`` client text has to be JSON and bytes cannot go."""
        live = self._live
        if text_data is not None:
            await live.send_data(self._own_text(text_data))
        elif bytes_data is not None:
            if not live.plain:
                raise ValueError("graceful.v1 carries JSON text; bytes cannot be sent")
            await live.outbox.wait_uncrowded()
            live.outbox.plain(bytes_data)
        else:
            raise ValueError("You must pass one of bytes_data or text_data")
        if close:
            await self.close(close)

    async def accept(self, subprotocol: str | None = None, headers: Any = None) -> None:
        live = self._live
        live.check_lives()
        if subprotocol is None and not live.plain:
            subprotocol = SUBPROTOCOL
        elif subprotocol != SUBPROTOCOL:
            live.make_plain()
        await super().accept(subprotocol, headers)
        live.check_lives()  # it may have gone while the handshake was answered
        self._accepted = True
        live.opened()

    async def close(self, code: int | bool | None = None, reason: str | None = None) -> None:
        """Closes the connection and ends the session. A code of the application's own (3000-3999,
        4600-4999) is passed through; otherwise ``graceful.v1`` clients get 4507."""
        live = self._live
        if not self._accepted:
            await super().close(code, reason)
            asyncio.get_running_loop().call_later(DENIED_WAIT, live.reader.give_up)
            return
        number = CloseCode.NORMAL if code is None or code is True else int(code)
        if not live.plain and not is_application_code(number):
            number = CloseCode.ENDED_BY_APPLICATION
        live.close(number, reason or "", end="closed")

    # --- what the node asks -------------------------------------------------------------------

    @property
    def _live(self) -> LiveConnection:
        if self.live is None:
            raise RuntimeError("the consumer has no connection yet")
        return self.live

    @property
    def limits(self) -> ConnectionLimits:
        return limits_of(type(self))  # type: ignore[arg-type]

    def overrides(self, hook: str) -> bool:
        """Whether the application has this hook. One that it has not costs no task in a storm."""
        own = getattr(type(self), hook) is not getattr(GracefulConsumer, hook)
        return own or hook in vars(self)

    @property
    def has_transaction(self) -> bool:
        return self.receive_in_transaction is not None

    @classmethod
    def label(cls) -> str:
        """A token is good for the same class only."""
        return f"{cls.__module__}.{cls.__qualname__}"

    def identity(self) -> Identity:
        return identity(self.scope)

    def remote_address(self) -> str:
        client = self.scope.get("client")
        return str(client[0])[:64] if client else ""

    def user_agent(self) -> str:
        return handshake.header(self.scope, b"user-agent")[:200]

    def gap_told(self, gap: Gap) -> None:
        self._live.inbox.call(lambda: self.on_gap(gap))

    def plain_call(self, text: str | None, data: bytes | None) -> Callable[[], Awaitable[Any]]:
        return lambda: self._receive_plain(text, data)

    async def _receive_plain(self, text: str | None, data: bytes | None) -> None:
        live = self._live
        if not text and type(self).receive is AsyncJsonWebsocketConsumer.receive:
            live.close(CloseCode.UNSUPPORTED_DATA, "this consumer takes JSON text")
            return
        if self.has_transaction:
            try:
                content = decode_plain(text or "")
            except ProtocolError as error:
                live.close(error.code, error.reason)
                return
            replies = await live.node.handler_threads.run(plain_transaction, self, content)
            for reply in replies:
                live.outbox.plain(reply)
            return
        try:
            await self.receive(text_data=text, bytes_data=data)
        except UnreadableText as error:
            live.close(CloseCode.INVALID_DATA, str(error))

    # --- coding -------------------------------------------------------------------------------

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return decode_plain(text_data)
        except ProtocolError as error:
            raise UnreadableText(error.reason) from None

    async def _encode(self, content: Any) -> str:
        own = type(self).encode_json.__func__  # type: ignore[attr-defined]
        if own is AsyncJsonWebsocketConsumer.encode_json.__func__:  # type: ignore[attr-defined]
            return self._checked(encode_data(content))
        return self._own_text(await self.encode_json(content))

    def _own_text(self, text: str) -> str:
        return check_text(text) if self._live.plain else self._checked(check_data(text))

    def _checked(self, text: str) -> str:
        limit = self.limits.send_bytes
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise ValueError(f"{len(text.encode())} bytes, over send_bytes ({limit})")
        return text


class UnreadableText(ValueError):
    """A plain client's message is not JSON."""
