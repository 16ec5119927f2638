"""Who follows which stream, and whose audience hears of it: written in the rounds of the writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graceful_ws.models import Presence, StreamMessage, Subscription

from .entries import Entry, Row
from .sql import Batch, among, read
from .streams import MESSAGE, Tip, fresh, tips

if TYPE_CHECKING:
    from .rounds import Round


class StreamUnknown(LookupError):
    """The stream's row is missing: it was cleared away just now. Create it and ask again."""


@dataclass(slots=True, eq=False)
class Subscribe(Entry):
    """Follows a stream from its head on. Outcome: the Tip behind which the session follows it.

    ``joined`` is the message that tells the stream of it, or None without presence.
    """

    refusable = True
    stream: str = ""
    joined: str | None = None

    def apply(self, row: Row, work: Round) -> Tip:
        self.owned(row)
        tip = work.following.subscribe(row, self.stream)
        if self.joined is not None:
            work.following.join(row, self.stream, self.joined)
        return tip


@dataclass(slots=True, eq=False)
class Unsubscribe(Entry):
    """Follows a stream no longer. ``left`` is the message for the stream if it was told of the
    session; None: that goes on."""

    refusable = True
    stream: str = ""
    left: str | None = None

    def apply(self, row: Row, work: Round) -> bool:
        """Outcome: whether the stream is told of it."""
        self.owned(row)
        work.following.unsubscribe(row, self.stream)
        return self.left is not None and work.following.leave(row, self.stream, self.left)


@dataclass(slots=True, eq=False)
class Deny(Unsubscribe):
    """The same for a stream that the session may not follow any more: not given up in an outage."""

    refusable = False


@dataclass(slots=True, eq=False)
class Audience(Entry):
    """Exactly these streams are told of the session's comings and goings. Outcome: those that are
    told something now."""

    refusable = True
    streams: Sequence[str] = ()
    joined: str = ""
    left: str = ""

    def apply(self, row: Row, work: Round) -> list[str]:
        self.owned(row)
        following = work.following
        gone = [name for name in sorted(following.audience(row)) if name not in self.streams]
        told = [name for name in gone if following.leave(row, name, self.left)]
        return told + [name for name in self.streams if following.join(row, name, self.joined)]


@dataclass(slots=True, eq=False)
class Publish(Entry):
    """A message of a session's owner for a stream."""

    refusable = True
    stream: str = ""
    data: str = ""

    @property
    def size(self) -> int:
        return len(self.data)

    def apply(self, row: Row, work: Round) -> None:
        self.owned(row)
        if self.perhaps is not None and work.following.is_kept(self.perhaps):
            return
        kept = fresh(self.stream, self.data, work.now)
        self.perhaps = kept[0]
        work.following.published.append(kept)


Follows = Subscribe | Unsubscribe | Audience
Followed = type[Subscription] | type[Presence]


class Following:
    """What the entries of one round read and write of streams."""

    def __init__(self, work: Round) -> None:
        self.published: list[tuple[Any, ...]] = []
        self.acks: dict[tuple[int, str], tuple[str, int]] = {}  # (session, stream): (epoch, seq)
        self._work = work
        self._tips: dict[str, Tip] = {}
        self._subscriptions: dict[tuple[int, str], Tip] = {}
        self._audiences: dict[int, set[str]] = {}
        # (model, session, stream), in order; and the epoch and number that it begins with
        self._made: dict[tuple[Followed, int, str], Tip | None] = {}
        self._gone: list[tuple[Followed, int, str]] = []

    def read(self, entries: Sequence[Entry]) -> None:
        """What the entries must know, read under the locks of their sessions."""
        asked = [entry for entry in entries if isinstance(entry, Follows)]
        if not asked:
            return
        using = self._work.using
        self._tips = tips(sorted({e.stream for e in asked if isinstance(e, Subscribe)}))
        one_of, params = among(using, {entry.session for entry in asked})
        where = f"WHERE session_id{one_of}"
        columns = ("session_id", "stream", "epoch", "from_seq", "acked_seq")
        for session, stream, epoch, first, acked in read(
            using, Subscription, columns, where, params
        ):
            self._subscriptions[session, stream] = Tip(epoch, max(first, acked))
        for session, stream in read(using, Presence, columns[:2], where, params):
            self._audiences.setdefault(session, set()).add(stream)

    def subscribe(self, row: Row, stream: str) -> Tip:
        known = self._subscriptions.get((row.id, stream))
        if known is not None:
            return known
        tip = self._tips.get(stream)
        if tip is None:
            raise StreamUnknown(stream)
        self._subscriptions[row.id, stream] = tip
        self._made[Subscription, row.id, stream] = tip
        return tip

    def unsubscribe(self, row: Row, stream: str) -> None:
        if self._subscriptions.pop((row.id, stream), None) is not None:
            self._forget(Subscription, row, stream)

    def audience(self, row: Row) -> set[str]:
        return self._audiences.setdefault(row.id, set())

    def join(self, row: Row, stream: str, joined: str) -> bool:
        audience = self.audience(row)
        if stream in audience:
            return False
        audience.add(stream)
        self._made[Presence, row.id, stream] = None
        self.published.append(fresh(stream, joined, self._work.now))
        self._present(row, True)
        return True

    def leave(self, row: Row, stream: str, left: str) -> bool:
        audience = self.audience(row)
        if stream not in audience:
            return False
        audience.remove(stream)
        self._forget(Presence, row, stream)
        self.published.append(fresh(stream, left, self._work.now))
        self._present(row, bool(audience))
        return True

    def _present(self, row: Row, present: bool) -> None:
        if row.present != present:
            row.present = present
            self._work.present.append((present, row.id))

    def _forget(self, model: Followed, row: Row, stream: str) -> None:
        """A row of this very round is simply not made; what it said before is written yet."""
        what = model, row.id, stream
        if what in self._made:
            del self._made[what]
        else:
            self._gone.append(what)

    def acknowledge(self, session: int, stream: str, epoch: str, seq: int) -> None:
        known = self.acks.get((session, stream))
        if known is None or known[0] != epoch or known[1] < seq:
            self.acks[session, stream] = epoch, seq

    def is_kept(self, published: Any) -> bool:
        """Whether a message of a round whose commit's answer was lost is there."""
        rows = StreamMessage.objects.using(self._work.using.alias)
        return rows.filter(uuid=published).exists()

    def write(self, batch: Batch) -> None:
        for model in (Subscription, Presence):
            gone = [(session, stream) for kind, session, stream in self._gone if kind is model]
            batch.delete(model, ("session_id", "stream"), gone)
        batch.insert(
            Subscription,
            ("session_id", "stream", "epoch", "from_seq", "acked_seq"),
            [
                (session, stream, tip.epoch, tip.head, 0)
                for (_, session, stream), tip in self._made.items()
                if tip is not None
            ],
        )
        told = [(session, stream) for model, session, stream in self._made if model is Presence]
        batch.insert(Presence, ("session_id", "stream"), told)
        batch.insert(StreamMessage, MESSAGE, self.published)
        batch.update(
            Subscription,
            ("epoch", "acked_seq"),
            ("session_id", "stream"),
            [(epoch, seq, *key) for key, (epoch, seq) in self.acks.items()],
            # Where the epoch is another, numbers of the old one mean nothing any more.
            sets="from_seq = CASE WHEN epoch = {epoch} THEN from_seq ELSE {acked_seq} END,"
            " acked_seq = {acked_seq}, epoch = {epoch}",
            where="session_id = {session_id} AND stream = {stream}"
            " AND (epoch <> {epoch} OR acked_seq < {acked_seq})",
        )
