"""One WebSocket of a consumer, from the ASGI scope to the end: who is let in, the hooks that run
for each connection, and what its node asks of the consumer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

from channels.consumer import get_handler_name
from channels.exceptions import AcceptConnection, DenyConnection, StopConsumer
from channels.layers import get_channel_layer

from graceful_ws import handshake
from graceful_ws.core.close_codes import CloseCode, is_application_code, is_sendable
from graceful_ws.core.frames import SUBPROTOCOL, Gap, encode_data
from graceful_ws.following import Following
from graceful_ws.node.admission import Full, Place
from graceful_ws.node.calls import called
from graceful_ws.node.ending import end
from graceful_ws.node.identity import identity
from graceful_ws.node.layer import LayerPump
from graceful_ws.node.limits import ConnectionLimits, limits_of
from graceful_ws.node.live import LiveConnection
from graceful_ws.node.node import Node, local_nodes, node_here
from graceful_ws.node.transaction import plain_transaction
from graceful_ws.servers import limit_messages
from graceful_ws.store.attach import Identity
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced

if TYPE_CHECKING:
    from graceful_ws.base import Graceful

logger = logging.getLogger("graceful_ws.connection")
DENIED_WAIT = 2.0  # seconds that a refused handshake may take to end


class Serving(Following):
    """Beside the consumer, whose names are the application's: all that ours has no name for.

    Each kind of consumer has its own, which knows how content travels.
    """

    __slots__ = (
        *("accepted", "connected", "consumer", "dispatches", "limits", "live", "pump"),
        "refused",
    )

    library: ClassVar[type]  # what an application derives from; it has none of its hooks
    live: LiveConnection  # once the connection has been let in
    pump: LayerPump

    def __init__(self, consumer: Graceful) -> None:
        self.consumer: Any = consumer
        self.limits: ConnectionLimits = limits_of(type(consumer))  # type: ignore[arg-type]
        self.accepted = False
        self.refused = False
        self.connected = False
        self.dispatches = self.overrides("dispatch")

    # --- who is let in ------------------------------------------------------------------------

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        limits = self.limits
        limit_messages(scope, send, max(limits.hello_bytes, limits.message_bytes))
        await receive()  # websocket.connect
        if limits.check_origin and not handshake.origin_allowed(scope):
            _refused("origin")
            await handshake.refuse(scope, send, 403, "foreign origin")
            return
        node = node_here()
        try:
            place = node.admission.enter(self.remote_address())
        except Full as full:
            await handshake.refuse(scope, send, 503, str(full))
            return
        live: LiveConnection | None = None
        try:
            if await self._may_enter(node, place, receive):
                consumer = self.consumer
                consumer.channel_layer = get_channel_layer(consumer.channel_layer_alias)
                live = LiveConnection(node, self, scope, receive, send)
                live.place, self.live = place, live
        finally:
            if live is None:
                place.leave()
        if live is not None:
            await self._run(live, place)

    async def _may_enter(self, node: Node, place: Place, receive: Any) -> bool:
        """Refuses, and returns False; or waits until the node works, and returns True."""
        scope, send = self.consumer.scope, self.consumer.base_send
        if place.crowded:
            reason = "too many connections of this address"
            await handshake.turn_away(scope, receive, send, CloseCode.CONNECTION_LIMIT, reason)
            return False
        try:
            await node.started()
        except JournalUnavailable as error:
            logger.error("%s", error)
            _refused("unavailable")
            await handshake.refuse(scope, send, 503, "unavailable")
            return False
        if node.refusing:
            _refused("draining")
            await handshake.refuse(scope, send, 503, "draining")
            return False
        return True

    async def _run(self, live: LiveConnection, place: Place) -> None:
        code: int = CloseCode.ABNORMAL
        self.pump = LayerPump(live)
        consumer = self.consumer
        live.node.served.add(live)

        def ended(task: asyncio.Task[None]) -> None:
            live.node.served.discard(live)
            place.leave()

        try:
            await self.pump.open()
            own = any(map(self.overrides, ("connect", "accept", "websocket_connect")))
            # They may wait.
            if own or self.dispatches or consumer.groups or consumer.channel_layer is not None:
                live.inbox.call(self._connect)
            else:
                await self._connect_here()
            code = await live.reader.run()
        finally:
            # As a task of the node: a server may cancel this one while a handler still runs.
            ending = live.node.spawn(end(live, code), live.context)
            ending.add_done_callback(ended)
            await asyncio.shield(ending)
        await live.node.django_thread.look()

    # --- opening and closing ------------------------------------------------------------------

    async def _connect(self) -> None:
        self.connected = True
        try:
            if self.dispatches or self.overrides("websocket_connect"):
                await called(self.handle({"type": "websocket.connect"}))
            else:
                await called(self.joined_and_connected())
            self.pump.start()
        except Fenced:
            raise  # the connection ended meanwhile
        except asyncio.CancelledError:
            if not self.live.over:  # by handler_timeout
                self.live.node.spawn(self._connect_failed("connect() took too long"))
            raise
        except Exception as error:
            if isinstance(error, StopConsumer):
                if self.accepted:
                    raise
            else:
                self.live.node.django_thread.failed(error)
                logger.exception("connect() failed", extra=self.live.extra())
            await self._connect_failed("connect() failed")

    async def joined_and_connected(self) -> None:
        """What ``websocket_connect`` of Channels does."""
        try:
            await self.pump.join()
            await self.consumer.connect()
        except AcceptConnection:
            await self.consumer.accept()
        except DenyConnection:
            await self.consumer.close()

    async def _connect_failed(self, reason: str) -> None:
        if self.accepted:
            self.live.inbox.stop_taking()
            self.live.close(CloseCode.INTERNAL_ERROR, "handler failed")
            return
        await self._refuse(500, reason)
        self.live.reader.give_up()

    async def _refuse(self, status: int, reason: str) -> None:
        if not self.refused:
            self.refused = True
            with contextlib.suppress(OSError, RuntimeError):  # the client may be gone
                scope, send = self.consumer.scope, self.consumer.base_send
                await handshake.refuse(scope, send, status, reason)

    async def _connect_here(self) -> None:
        # Nobody has anything to wait for: without a task.
        try:
            with contextlib.suppress(Fenced):
                await self._connect()
        except Exception as error:
            self.live.handler_failed(error)

    def subprotocol(self, wanted: str | None) -> str | None:
        """What to accept for what the application asks for. Raises Fenced when it is too late."""
        live = self.live
        live.check_lives()
        if wanted is None and not live.plain:
            return SUBPROTOCOL
        if wanted != SUBPROTOCOL:
            live.make_plain()
        return wanted

    def opened(self) -> None:
        self.live.check_lives()  # it may have gone while the handshake was answered
        self.accepted = True
        self.live.opened()

    def denied(self) -> None:
        self.refused = True
        asyncio.get_running_loop().call_later(DENIED_WAIT, self.live.reader.give_up)

    def close(self, code: int | bool | None, reason: str | None) -> None:
        number = CloseCode.NORMAL if code is None or code is True else int(code)
        if not is_sendable(number):
            raise ValueError(f"close code {number} must not be sent (RFC 6455, 7.4)")
        if not self.live.plain and not is_application_code(number):
            number = CloseCode.ENDED_BY_APPLICATION
        self.live.close(number, reason or "", end="closed")

    async def ended(self, code: int) -> None:
        await self.pump.stop()
        if not self.accepted and self.live.node.refusing:
            await self._refuse(503, "draining")
        if not self.connected:
            return
        if self.dispatches or self.overrides("websocket_disconnect"):
            event = {**(self.live.reader.last_event or {}), "type": "websocket.disconnect"}
            event["code"] = code
            await self._last("websocket_disconnect", self.handle, event)
        elif self.overrides("disconnect"):
            await self._last("disconnect", self.consumer.disconnect, code)

    async def call_session_ended(self) -> None:
        if self.overrides("session_ended"):
            await self._last("session_ended", self.consumer.session_ended)

    async def _last(self, name: str, hook: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            async with asyncio.timeout(self.limits.handler_timeout):
                await called(hook(*args))
        except StopConsumer:
            pass  # it stops anyway
        except asyncio.CancelledError:
            logger.warning("the node stops before %s() is done", name, extra=self.live.extra())
            raise
        except Exception:
            logger.exception("%s() failed", name, extra=self.live.extra())

    async def handle(self, event: dict[str, Any]) -> None:
        """An ASGI event, by way of the methods that Channels calls for it."""
        consumer = self.consumer
        if self.dispatches:
            await consumer.dispatch(event)
        else:
            await getattr(consumer, get_handler_name(event))(event)

    # --- what the node asks -------------------------------------------------------------------

    def overrides(self, hook: str) -> bool:
        """Whether the application has this hook. One that it has not costs no task in a storm."""
        consumer = self.consumer
        own = getattr(type(consumer), hook) is not getattr(self.library, hook)
        return own or hook in vars(consumer)

    @property
    def has_transaction(self) -> bool:
        return self.consumer.receive_in_transaction is not None

    @property
    def label(self) -> str:
        """A token is good for the same class only."""
        cls = type(self.consumer)
        return f"{cls.__module__}.{cls.__qualname__}"

    def identity(self) -> Identity:
        return identity(self.consumer.scope)

    def remote_address(self) -> str:
        client = self.consumer.scope.get("client")
        return str(client[0])[:64] if client else ""

    def user_agent(self) -> str:
        return handshake.header(self.consumer.scope, b"user-agent")[:200]

    def gap_told(self, gap: Gap) -> None:
        self.live.inbox.call(lambda: self.consumer.on_gap(gap))

    # --- content ------------------------------------------------------------------------------

    def content_of(self, data: Any) -> Any:
        """The data of a ``graceful.v1`` message as handlers get it."""
        raise NotImplementedError

    def received(self, data: Any) -> Awaitable[Any]:
        """Hands it to the handler; what that returns is the message's result."""
        raise NotImplementedError

    async def received_plain(self, text: str | None, data: bytes | None) -> None:
        """A plain client's message, one of the two."""
        event = {"text": text} if text is not None else {"bytes": data}
        await self.handle({"type": "websocket.receive", **event})

    def plain_call(self, text: str | None, data: bytes | None) -> Callable[[], Awaitable[None]]:
        return lambda: self.received_plain(text, data)

    async def in_plain_transaction(self, content: Any) -> None:
        live = self.live
        for reply in await live.node.handler_threads.run(plain_transaction, self.consumer, content):
            live.outbox.plain(reply)

    async def encode(self, content: Any) -> str:
        """What the application sends or publishes, as JSON. Raises ValueError."""
        return self.checked(encode_data(content))

    def checked(self, text: str) -> str:
        limit = self.limits.send_bytes
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise ValueError(f"{len(text.encode())} bytes, over send_bytes ({limit})")
        return text


def _refused(why: str) -> None:
    for node in local_nodes():  # normally one; none before the first connection
        node.stats.refused[why] += 1
