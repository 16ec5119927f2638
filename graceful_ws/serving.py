"""The half of a consumer that serves its WebSocket, from the ASGI scope to the end: who is let in,
and the hooks that run for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, cast

from channels.exceptions import AcceptConnection, DenyConnection
from channels.layers import get_channel_layer

from graceful_ws import handshake
from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode, plain_code
from graceful_ws.core.frames import SUBPROTOCOL
from graceful_ws.node.admission import Full, Place
from graceful_ws.node.ending import end
from graceful_ws.node.layer import LayerPump
from graceful_ws.node.limits import ConnectionLimits
from graceful_ws.node.live import LiveConnection
from graceful_ws.node.node import Node, local_nodes, node_here
from graceful_ws.servers import dropper, limit_messages
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced

if TYPE_CHECKING:
    from graceful_ws.node.application import Application

logger = logging.getLogger("graceful_ws.connection")


class Served:
    """What the ASGI server calls, for ``GracefulConsumer``."""

    scope: Any
    base_send: Any
    channel_layer: Any
    live: LiveConnection | None = None
    _accepted = False
    _connected = False
    _pump: LayerPump

    if TYPE_CHECKING:  # what the class that is mixed in has
        groups: Any
        channel_layer_alias: str

        @property
        def limits(self) -> ConnectionLimits: ...
        @property
        def _live(self) -> LiveConnection: ...
        def overrides(self, hook: str) -> bool: ...
        def remote_address(self) -> str: ...
        async def connect(self) -> None: ...
        async def accept(self, subprotocol: str | None = None, headers: Any = None) -> None: ...
        async def close(self, code: Any = None, reason: str | None = None) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.base_send = send
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
        try:
            if await self._may_enter(node, place, receive):
                self.channel_layer = get_channel_layer(self.channel_layer_alias)
                live = LiveConnection(node, cast("Application", self), scope, receive, send)
                live.place, self.live = place, live
        finally:
            if self.live is None:
                place.leave()
        if self.live is not None:
            await self._serve(self.live, place)

    async def _may_enter(self, node: Node, place: Place, receive: Any) -> bool:
        """Refuses, and returns False; or waits until the node works, and returns True."""
        scope, send = self.scope, self.base_send
        if place.crowded:
            reason = "too many connections of this address"
            await turn_away(scope, receive, send, CloseCode.CONNECTION_LIMIT, reason)
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

    async def _serve(self, live: LiveConnection, place: Place) -> None:
        code: int = CloseCode.ABNORMAL
        self._pump = LayerPump(live)
        try:
            await self._pump.open()
            own = self.overrides("connect") or self.overrides("accept")  # they may wait
            if own or self.groups or self.channel_layer is not None:
                live.inbox.call(self._connect)
            else:
                await self._connect_here()
            code = await live.reader.run()
        finally:
            # As a task of the node: a server may cancel this one while a handler still runs.
            ending = live.node.spawn(end(live, code))
            ending.add_done_callback(lambda _: place.leave())
            await asyncio.shield(ending)

    async def _connect(self) -> None:
        self._connected = True
        try:
            await self._pump.start()
            await self.connect()
        except AcceptConnection:
            await self.accept()
        except DenyConnection:
            await self.close()
        except Fenced:
            raise  # the connection ended meanwhile
        except Exception:
            if self._accepted:
                raise
            logger.exception("connect() failed")
            await handshake.refuse(self.scope, self.base_send, 500, "connect() failed")
            self._live.reader.give_up()

    async def _connect_here(self) -> None:
        # Nobody has anything to wait for: without a task.
        try:
            with contextlib.suppress(Fenced):
                await self._connect()
        except Exception as error:
            self._live.handler_failed(error)

    async def ended(self, code: int) -> None:
        await self._pump.stop()
        if self._connected:
            await self._last("disconnect", code)

    async def call_session_ended(self) -> None:
        await self._last("session_ended")

    async def _last(self, hook: str, *args: Any) -> None:
        if not self.overrides(hook):
            return
        try:
            async with asyncio.timeout(self.limits.handler_timeout):
                await getattr(self, hook)(*args)
        except Exception:
            logger.exception("%s() failed", hook, extra=self._live.extra())


def _refused(why: str) -> None:
    for node in local_nodes():  # normally one; none before the first connection
        node.stats.refused[why] += 1


async def turn_away(scope: Any, receive: Any, send: Any, code: int, reason: str) -> None:
    """Accepts and closes: of a handshake that is refused a browser sees neither code nor reason.
    Returns when the peer is gone, so that it counts as long as it costs something."""
    plain = SUBPROTOCOL not in scope.get("subprotocols", ())
    with contextlib.suppress(OSError, RuntimeError):  # it may be gone already
        await send({"type": "websocket.accept", "subprotocol": None if plain else SUBPROTOCOL})
        code = plain_code(code) if plain else code
        await send({"type": "websocket.close", "code": int(code), "reason": reason})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.closing_timeout):
            while (await receive())["type"] != "websocket.disconnect":
                pass
        return
    drop = dropper(scope, send)
    if drop is not None:
        drop()
