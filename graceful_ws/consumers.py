"""The consumers to derive from: ``GracefulConsumer`` for JSON, and one for text and bytes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from asgiref.sync import markcoroutinefunction
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from graceful_ws.base import Graceful, check_not_collecting, collecting
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import (
    ProtocolError,
    check_data,
    check_text,
    decode_plain,
    encode_data,
)
from graceful_ws.serving import Serving
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced

__all__ = ["Fenced", "GracefulConsumer", "GracefulWebsocketConsumer", "JournalUnavailable"]

if TYPE_CHECKING:  # whose receive_json may return nothing, says types-channels
    from channels.generic.websocket import AsyncWebsocketConsumer as JsonConsumer
else:
    JsonConsumer = AsyncJsonWebsocketConsumer


class UnreadableText(json.JSONDecodeError):
    """A plain client's message is not JSON."""


ENCODE_JSON = AsyncJsonWebsocketConsumer.encode_json.__func__  # type: ignore[attr-defined]


class JsonServing(Serving):
    """Content is data: what travels."""

    __slots__ = ()

    def content_of(self, data: Any) -> Any:
        return data

    def received(self, data: Any) -> Awaitable[Any]:
        received: Awaitable[Any] = self.consumer.receive_json(data)
        return received

    @property
    def reads_bytes(self) -> bool:
        """Whether the application has taken the place of what takes JSON text alone."""
        own = type(self.consumer).receive is not AsyncJsonWebsocketConsumer.receive
        return own or self.dispatches or self.overrides("websocket_receive")

    async def received_plain(self, text: str | None, data: bytes | None) -> None:
        live = self.live
        if not text and not self.reads_bytes:
            live.close(CloseCode.UNSUPPORTED_DATA, "this consumer takes JSON text")
            return
        try:
            if self.has_transaction:
                await self.in_plain_transaction(decode_plain(text or ""))
            else:
                await super().received_plain(text, data)
        except ProtocolError as error:
            live.close(error.code, error.reason)
        except UnreadableText as error:
            if error.doc is not text:  # of something else, that a handler has read
                raise
            live.close(CloseCode.INVALID_DATA, error.msg)

    async def encode(self, content: Any) -> str:
        consumer = self.consumer
        if getattr(type(consumer).encode_json, "__func__", None) is ENCODE_JSON:
            return await super().encode(content)
        return self.own_text(await consumer.encode_json(content))

    async def send(self, content: Any, close: bool | int, volatile: bool) -> None:
        await self.live.send_data(await self.encode(content), volatile=volatile)
        if close:
            await self.consumer.close(close)

    def own_text(self, text: str) -> str:
        return check_text(text) if self.live.plain else self.checked(check_data(text))


class TextServing(Serving):
    """Content is text or bytes, and what travels is JSON."""

    __slots__ = ()

    def content_of(self, data: Any) -> str | bytes:
        if isinstance(data, str):
            return data
        if isinstance(data, dict) and data.keys() == {"bytes"} and isinstance(data["bytes"], str):
            with contextlib.suppress(binascii.Error, ValueError):
                return base64.b64decode(data["bytes"], validate=True)
        return encode_data(data)

    def received(self, data: Any) -> Awaitable[Any]:
        return self.hand_over(self.content_of(data))

    def hand_over(self, content: str | bytes) -> Awaitable[Any]:
        name = "text_data" if isinstance(content, str) else "bytes_data"
        received: Awaitable[Any] = self.consumer.receive(**{name: content})
        return received

    async def received_plain(self, text: str | None, data: bytes | None) -> None:
        if self.has_transaction:
            await self.in_plain_transaction(data if text is None else text)
        else:
            await super().received_plain(text, data)

    async def send(
        self, text: str | None, data: bytes | None, close: bool | int, volatile: bool
    ) -> None:
        wire = self.on_wire(one_of(text, data))
        if isinstance(wire, bytes):
            await self.live.send_plain(wire)
        else:
            await self.live.send_data(wire, volatile=volatile)
        if close:
            await self.consumer.close(close)

    def on_wire(self, content: str | bytes) -> str | bytes:
        """Bytes only to a plain client."""
        if self.live.plain:
            return check_text(content) if isinstance(content, str) else content
        if isinstance(content, str):
            return self.checked(encode_data(content))
        return self.checked(encode_data({"bytes": base64.b64encode(content).decode()}))


def one_of(text: Any, data: Any) -> str | bytes:
    """What is to be sent. Raises ValueError for nothing, TypeError for what is neither text nor
    bytes: ``bytes(5)`` is five zeros."""
    if isinstance(text, str):
        return text
    if text is None and isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    wrong = data if text is None else text
    if wrong is None:
        raise ValueError("You must pass one of bytes_data or text_data")
    raise TypeError(f"text_data is a str and bytes_data is bytes, not {type(wrong).__name__}")


class GracefulConsumer(Graceful, JsonConsumer):
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

    _graceful_class = JsonServing
    if TYPE_CHECKING:
        receive_json: Callable[..., Coroutine[Any, Any, Any]]  # with ``**kwargs`` or without

        @classmethod
        async def encode_json(cls, content: Any) -> str: ...
        @property
        def _graceful(self) -> JsonServing: ...

    async def receive_volatile(self, content: Any) -> None:
        """An unnumbered message; goes to ``receive_json`` unless overridden."""
        await self.receive_json(content)

    # --- sending ------------------------------------------------------------------------------

    @markcoroutinefunction
    def send_json(
        self, content: Any, close: bool | int = False, *, volatile: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Sends ``content``; awaiting it waits until the message is kept.

        From then on it reaches the client's application once and in order, through any number of
        reconnects within ``resume_window``. With ``volatile`` it has no number, is not kept, and
        is dropped for a client that does not keep up.

        Raises ValueError when the content is not strict JSON or over ``send_bytes``, TypeError for
        types that JSON has not, Fenced when the session has moved to another connection or ended,
        JournalUnavailable while the database is away.
        """
        check_not_collecting("self.reply(content)")
        return self._graceful.send(content, close, volatile)

    def reply(self, content: Any) -> None:
        """Inside ``receive_in_transaction``: a message that commits with the handler's effect."""
        collecting("await send_json()").append(self._graceful.checked(encode_data(content)))

    async def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
    ) -> None:
        """As in Channels; to a ``graceful.v1`` client text has to be JSON and bytes cannot go."""
        serving = self._graceful
        content = one_of(text_data, bytes_data)
        if isinstance(content, str):
            await serving.live.send_data(serving.own_text(content))
        elif not serving.live.plain:
            raise ValueError("graceful.v1 carries JSON: bytes are for a GracefulWebsocketConsumer")
        else:
            await serving.live.send_plain(content)
        if close:
            await self.close(close)

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return decode_plain(text_data)
        except ProtocolError as error:
            raise UnreadableText(error.reason, text_data, 0) from None


class GracefulWebsocketConsumer(Graceful):
    """An ``AsyncWebsocketConsumer``, for text and bytes, with all that ``GracefulConsumer`` has.

    ``receive(text_data=None, bytes_data=None)`` and ``send(text_data=None, bytes_data=None)`` work
    as in Channels, for every client. A ``graceful.v1`` client, whose messages are JSON, sends and
    gets text as a string, and bytes as ``{"bytes": "<base64>"}`` (RFC 4648, section 4); anything
    else that it sends arrives as its JSON text.

    What ``receive`` returns goes back to the client with the acknowledgement. In place of
    ``receive``, ``receive_in_transaction(content)`` takes a str or bytes, and so does ``reply``.
    What is published to a stream remains JSON, for plain clients too.
    """

    _graceful_class = TextServing
    if TYPE_CHECKING:

        @property
        def _graceful(self) -> TextServing: ...

    async def receive_volatile(self, content: str | bytes) -> None:
        """An unnumbered message; goes to ``receive`` unless overridden."""
        await self._graceful.hand_over(content)

    # --- sending ------------------------------------------------------------------------------

    @markcoroutinefunction
    def send(  # type: ignore[override]
        self,
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        close: bool | int = False,
        *,
        volatile: bool = False,
    ) -> Coroutine[Any, Any, None]:
        """Sends text or bytes; awaiting it waits until the message is kept, and raises, as
        ``GracefulConsumer.send_json`` does. ``volatile``: see there."""
        check_not_collecting("self.reply(content)")
        return self._graceful.send(text_data, bytes_data, close, volatile)

    def reply(self, content: str | bytes) -> None:
        """Inside ``receive_in_transaction``: a message that commits with the handler's effect."""
        kinds = (content, None) if isinstance(content, str) else (None, content)
        collecting("await send()").append(self._graceful.on_wire(one_of(*kinds)))
