"""Streams: what a consumer offers for them, and what its node asks about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from channels.exceptions import StopConsumer

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Fenced

if TYPE_CHECKING:
    from graceful_ws.node.live import LiveConnection
    from graceful_ws.serving import Serving

logger = logging.getLogger("graceful_ws.connection")


class Follower:
    """What consumers offer for streams."""

    streams: ClassVar[Sequence[str]] = ()  # what every session follows
    presence: ClassVar[bool] = False  # True: streams are told when a session comes and goes

    @property
    def _graceful(self) -> Serving:
        raise NotImplementedError

    async def may_subscribe(self, stream: str) -> bool:
        """Whether the session may follow ``stream``: asked for those of the class when they are
        not followed yet, and for all that are followed at each resume. Otherwise permission is for
        the code that calls ``subscribe``."""
        return True

    async def exit_audience(self) -> Sequence[str] | None:
        """The streams that are told ``client_join`` and ``client_exit`` of this session; None:
        those that it follows with presence. Asked once a connection."""
        return None

    async def subscribe(self, stream: str, *, presence: bool | None = None) -> None:
        """Follows ``stream`` from now on, through every reconnect; nothing happens when the
        session does already. With ``presence`` (None: as the class says) the stream is told of it,
        and later who has gone.

        Raises ValueError for a bad name or past ``subscriptions`` streams, Fenced and
        JournalUnavailable as ``send_json`` does.
        """
        serving = self._graceful
        serving.check_accepted("subscribe")
        wanted = self.presence if presence is None else presence
        presence = wanted and not serving.has_audience
        await serving.live.subscriptions.subscribe(stream, presence=presence)

    async def unsubscribe(self, stream: str) -> None:
        """Follows ``stream`` no longer. Raises as ``subscribe`` does."""
        serving = self._graceful
        serving.check_accepted("unsubscribe")
        await serving.live.subscriptions.unsubscribe(stream, told=not serving.has_audience)

    @property
    def subscriptions(self) -> frozenset[str]:
        """The streams that the session follows."""
        return self._graceful.live.subscriptions.names

    async def publish(self, stream: str, content: Any) -> None:
        """Sends ``content`` to everybody who follows ``stream``; returns when it is kept.

        In ``receive_in_transaction`` call ``graceful_ws.publishing.publish`` instead, which takes
        part in the transaction. Raises ValueError, Fenced and JournalUnavailable.
        """
        serving = self._graceful
        serving.check_accepted("publish")
        await serving.live.subscriptions.publish(stream, await serving.encode(content))


class Following:
    """What a node asks about the streams of a ``consumer``."""

    __slots__ = ()
    if TYPE_CHECKING:
        consumer: Any
        live: LiveConnection
        accepted: bool

    def check_accepted(self, what: str) -> None:
        if not self.accepted:
            raise RuntimeError(f"accept() first: {what}() waits for the client's hello")

    @property
    def has_audience(self) -> bool:
        return type(self.consumer).exit_audience is not Follower.exit_audience

    def follows_all(self, followed: Collection[str | None]) -> bool:
        """Whether ``follow_streams`` has nothing to do for a session that follows these."""
        if not self.consumer.streams:
            return not self.has_audience
        if self.consumer.presence or self.has_audience:
            return False
        return all(stream in followed for stream in self.consumer.streams)

    async def follow_streams(self) -> None:
        """What the class says is followed, if it may be, before the first hook of each
        connection."""
        consumer = self.consumer
        try:
            if len(consumer.streams) == 1:
                await self._follow(consumer.streams[0])
            else:
                await asyncio.gather(*map(self._follow, consumer.streams))
            audience = await consumer.exit_audience()
            if audience is not None:
                await self.live.subscriptions.tell(list(dict.fromkeys(audience)))
        # Else it would go on without what its class declares.
        except JournalUnavailable as error:
            self.live.close(CloseCode.TRY_AGAIN_LATER, str(error))
        except asyncio.CancelledError:  # by handler_timeout, or the end
            self.live.close(CloseCode.TRY_AGAIN_LATER, "may_subscribe takes too long")
            raise
        except (Fenced, StopConsumer):
            raise
        except Exception as error:
            self.live.node.django_thread.failed(error)
            logger.exception("may_subscribe failed", extra=self.live.extra())
            self.live.close(CloseCode.INTERNAL_ERROR, "may_subscribe failed")

    async def _follow(self, stream: str) -> None:
        # A resume has asked for what is followed already.
        if stream in self.live.subscriptions.names or await self.consumer.may_subscribe(stream):
            await self.consumer.subscribe(stream)
