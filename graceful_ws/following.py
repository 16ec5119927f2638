"""The half of a consumer that follows streams and publishes to them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from graceful_ws.core.close_codes import CloseCode
from graceful_ws.store.base import JournalUnavailable

if TYPE_CHECKING:
    from graceful_ws.node.live import LiveConnection


class Follower:
    """What ``GracefulConsumer`` offers for streams."""

    streams: ClassVar[Sequence[str]] = ()  # what every session follows
    presence: ClassVar[bool] = False  # True: streams are told when a session comes and goes

    _accepted: bool

    @property
    def _live(self) -> LiveConnection:
        raise NotImplementedError

    async def _encode(self, content: Any) -> str:
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
        self._check_accepted("subscribe")
        wanted = self.presence if presence is None else presence
        presence = wanted and not self.has_audience
        await self._live.subscriptions.subscribe(stream, presence=presence)

    @property
    def has_audience(self) -> bool:
        return type(self).exit_audience is not Follower.exit_audience

    def follows_all(self, followed: Collection[str | None]) -> bool:
        """Whether ``follow_streams`` has nothing to do for a session that follows these."""
        if not self.streams:
            return not self.has_audience
        if self.presence or self.has_audience:
            return False
        return all(stream in followed for stream in self.streams)

    async def unsubscribe(self, stream: str) -> None:
        """Follows ``stream`` no longer. Raises as ``subscribe`` does."""
        self._check_accepted("unsubscribe")
        await self._live.subscriptions.unsubscribe(stream, told=not self.has_audience)

    @property
    def subscriptions(self) -> frozenset[str]:
        """The streams that the session follows."""
        return self._live.subscriptions.names

    async def publish(self, stream: str, content: Any) -> None:
        """Sends ``content`` to everybody who follows ``stream``; returns when it is kept.

        In ``receive_in_transaction`` call ``graceful_ws.publishing.publish`` instead, which takes
        part in the transaction. Raises ValueError, Fenced and JournalUnavailable.
        """
        self._check_accepted("publish")
        await self._live.subscriptions.publish(stream, await self._encode(content))

    def _check_accepted(self, what: str) -> None:
        if not self._accepted:
            raise RuntimeError(f"accept() first: {what}() waits for the client's hello")

    async def follow_streams(self) -> None:
        """What the class says is followed, if it may be, before the first hook of each
        connection."""
        try:
            if len(self.streams) == 1:
                await self._follow(self.streams[0])
            else:
                await asyncio.gather(*map(self._follow, self.streams))
            audience = await self.exit_audience()
            if audience is not None:
                await self._live.subscriptions.tell(list(dict.fromkeys(audience)))
        except JournalUnavailable as error:
            # It would go on without what its class declares.
            self._live.close(CloseCode.TRY_AGAIN_LATER, str(error))

    async def _follow(self, stream: str) -> None:
        # A resume has asked for what is followed already.
        if stream in self.subscriptions or await self.may_subscribe(stream):
            await self.subscribe(stream)
