"""The streams that one connection's session follows: beginning, going on after a resume, ending."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graceful_ws.conf import settings
from graceful_ws.core.frames import Hello, Subscribed, Unsubscribed, encode
from graceful_ws.store import streams
from graceful_ws.store.attach import Attached, Followed
from graceful_ws.store.following import (
    Audience,
    Deny,
    Publish,
    StreamUnknown,
    Subscribe,
    Unsubscribe,
)
from graceful_ws.store.presence import exit_data, join_data
from graceful_ws.store.streams import Tip

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.connection")


class TooManySubscriptions(ValueError):
    """The session follows ``subscriptions`` streams already."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a resumed session goes on in a stream, and what its welcome says of it."""

    stream: str
    tip: Tip
    position: int
    state: str  # new, resumed, gap, denied
    reason: str = ""  # of a gap

    def told(self) -> dict[str, Any]:
        """``head``: where the client goes on."""
        if self.state == "denied":
            return {"state": self.state}
        head = self.position if self.state == "new" else self.tip.head
        return {"epoch": self.tip.epoch, "head": head, "state": self.state}


def resumed_at(followed: Followed, position: tuple[str, int] | None) -> Resumed:
    """Where to go on with a stream: ``position`` is what the client says, (epoch, seq).

    A number of another epoch means nothing. Without a word of the client's it is the last number
    that it has acknowledged, or where it began to follow.
    """
    name, tip = followed.stream, followed.tip
    if tip is None:
        tip = Tip(followed.epoch, max(followed.from_seq, followed.acked_seq))
    same = followed.epoch == tip.epoch
    first = followed.from_seq if same else 0
    if position is None:
        if same:
            return Resumed(name, tip, max(first, followed.acked_seq), "new")
    elif position[0] == tip.epoch:
        if position[1] > tip.head:
            return Resumed(name, tip, tip.head, "gap", "ahead")
        if position[1] < first:  # it has not heard that it left the stream, and came back
            return Resumed(name, tip, first, "new")
        return Resumed(name, tip, position[1], "resumed")
    return Resumed(name, tip, tip.head, "gap", "epoch")


class Subscriptions:
    """Of one connection; the outbox's feeds say which streams there are."""

    __slots__ = ("_coming", "_live", "_present")

    def __init__(self, live: LiveConnection) -> None:
        self._live = live
        self._present: set[str] = set()  # streams that are told of the session
        self._coming = 0  # subscriptions under way

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name in self._live.outbox.feeds if name is not None)

    def acked(self) -> dict[str, tuple[str, int]]:
        """What the client has of each stream; nothing until it has something of a new epoch."""
        return {
            name: (feed.acked_epoch or "", feed.cursor.acked)
            for name, feed in self._live.outbox.feeds.items()
            if name is not None and feed.acked_epoch == feed.source.epoch
        }

    # --- a resume -----------------------------------------------------------------------------

    async def allowed(
        self, followed: Sequence[Followed], positions: dict[str, tuple[str, int]]
    ) -> list[Resumed]:
        """Where the session goes on in each stream that it may still follow. Nothing is sent yet.
        Raises what ``may_subscribe`` raises, TimeoutError when that takes too long."""
        going_on = []
        async with asyncio.timeout(settings.attach_timeout):
            for one in followed:
                if await self._live.consumer.may_subscribe(one.stream):
                    going_on.append(resumed_at(one, positions.get(one.stream)))
                else:
                    going_on.append(Resumed(one.stream, Tip("", 0), 0, "denied"))
        return going_on

    def all_allowed(self, attached: Attached, hello: Hello | None) -> list[Resumed]:
        """The same where nothing says no."""
        positions = hello.positions if hello is not None else {}
        return [resumed_at(one, positions.get(one.stream)) for one in attached.subscriptions]

    def resume(self, followed: Sequence[Resumed]) -> None:
        """Behind the welcome: what was missed comes, and then what is new."""
        live = self._live
        for one in followed:
            if one.state == "denied":
                told = not live.application.has_audience
                live.node.spawn(self._write_unsubscribed(Deny, one.stream, "denied", told=told))
                continue
            live.node.hub.follow(live.outbox, one.stream, one.tip, one.position)
            if one.state == "gap":
                live.outbox.gap(live.outbox.feeds[one.stream], one.reason)

    # --- from now on --------------------------------------------------------------------------

    async def subscribe(self, stream: str, *, presence: bool) -> None:
        """Follows a stream from its head on; nothing happens when it is followed already. Raises
        ValueError, TooManySubscriptions, and what the journal raises."""
        live = self._live
        streams.check_name(stream, live.consumer.streams)
        attached = await live.ready()
        if stream in live.outbox.feeds and (not presence or stream in self._present):
            return
        names = self.names
        if stream not in names and len(names) + self._coming >= settings.subscriptions:
            raise TooManySubscriptions(f"a session follows at most {settings.subscriptions}")
        joined = join_data(*self._who) if presence else None
        entry = Subscribe(attached.session, attached.generation, stream=stream, joined=joined)
        self._coming += 1
        try:
            await self._write(entry, presence=presence)
        finally:
            self._coming -= 1

    async def _write(self, entry: Subscribe, *, presence: bool) -> None:
        node = self._live.node
        while True:
            try:
                await node.journal.write(
                    entry, lambda tip: self._subscribed(entry.stream, tip, presence=presence)
                )
                return
            except StreamUnknown:
                await node.readers.run(streams.create, [entry.stream])

    def _subscribed(self, stream: str, tip: Tip, *, presence: bool) -> None:
        live = self._live
        if presence:
            self._present.add(stream)
            live.node.sequencer.ask([stream])
        if stream in live.outbox.feeds or not live.is_open:
            return
        live.control(encode(Subscribed(stream, tip.epoch, tip.head)))
        live.node.hub.follow(live.outbox, stream, tip, tip.head)

    async def unsubscribe(self, stream: str, *, told: bool = True) -> None:
        """Follows a stream no longer, which it is ``told``, if it was told of the session."""
        await self._write_unsubscribed(Unsubscribe, stream, "unsubscribed", told=told)

    async def _write_unsubscribed(
        self, kind: type[Unsubscribe], stream: str, cause: str, *, told: bool
    ) -> None:
        live = self._live
        attached = await live.ready()
        entry = kind(
            attached.session,
            attached.generation,
            stream=stream,
            left=exit_data(*self._who, cause) if told else None,
        )
        await live.node.journal.write(entry, lambda told: self._unsubscribed(stream, told))

    def _unsubscribed(self, stream: str, told: bool) -> None:
        live = self._live
        self._present.discard(stream)
        if stream in live.outbox.feeds:
            live.node.hub.leave(live.outbox, stream)
            live.control(encode(Unsubscribed(stream)))
        if told:
            live.node.sequencer.ask([stream])

    async def tell(self, audience: Sequence[str]) -> None:
        """Exactly these streams hear when the session comes and goes."""
        live = self._live
        attached = await live.ready()
        entry = Audience(
            attached.session,
            attached.generation,
            streams=[streams.check_name(name) for name in audience],
            joined=join_data(*self._who),
            left=exit_data(*self._who, "unsubscribed"),
        )
        live.node.sequencer.ask(await live.node.journal.write(entry))

    async def publish(self, stream: str, data: str) -> None:
        """Keeps a message for a stream, as the owner of the session. Raises Fenced."""
        live = self._live
        attached = await live.ready()
        entry = Publish(
            attached.session, attached.generation, stream=streams.check_name(stream), data=data
        )
        await live.node.journal.write(entry, lambda _: live.node.sequencer.ask([stream]))

    @property
    def _who(self) -> tuple[str | None, Any]:
        live = self._live
        return live.consumer.session_id, live.application.identity().user_id
