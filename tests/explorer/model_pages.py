"""Replay and live: one cursor, pages from the journal, the hub's live set, the send window.

``Cursor``, ``SendWindow``, ``check_page`` and the client's ``Position`` are those of the core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graceful_ws.core.frames import ProtocolError
from graceful_ws.core.window import Cursor, Hole, Position, SendWindow, check_page

from .explorer import Broken, Process, Promise, Steps
from .model_rules import Rule, Scenario
from .model_values import Frozen

WINDOW = 2  # messages


def cursor_at(position: int) -> Frozen[Cursor]:
    return Frozen(Cursor(SendWindow(WINDOW, 999), position=position, acked=position))


@dataclass(frozen=True)
class Streaming:
    oldest: int = 1  # the journal's rows are oldest to head
    head: int = 1
    hub: int = 1  # the hub's position in the stream
    cursor: Frozen[Cursor] = cursor_at(0)  # noqa: RUF009 - a value
    live: bool = False  # is in the hub's live set
    loop: str = "compares"  # compares, sends, enters
    page: tuple[int, ...] = ()
    socket: tuple[tuple[str, int], ...] = ()
    position: Frozen[Position] = Frozen(Position())  # noqa: RUF009 - a value
    delivered: tuple[int, ...] = ()
    told_lost: tuple[int, ...] = ()  # numbers that a gap stood for
    hole: str = ""
    trims: int = 2
    cuts: int = 1


class ReplayThenLive(Scenario[Streaming]):
    """One client catches up while four messages are published, old rows go, its acks are slow and
    its connection is cut once."""

    at_least = 5000
    messages = 4

    def start(self) -> Streaming:
        return Streaming()

    def processes(self) -> tuple[Process[Streaming], ...]:
        return self.publisher, self.hub, self.cursor_loop, self.client, self.client_acks

    def faults(self) -> tuple[Process[Streaming], ...]:
        return self.retention, self.cut

    def publisher(self, s: Streaming) -> Steps[Streaming]:
        if s.head < self.messages:
            yield f"commits {s.head + 1}", replace(s, head=s.head + 1)

    def hub(self, s: Streaming) -> Steps[Streaming]:
        """A wake-up came, or the 5 s round saw the head."""
        n = s.hub + 1
        if s.hub == s.head:
            return
        after = replace(s, hub=n)
        cursor = s.cursor.thaw()
        if not s.live or cursor.position >= n:
            yield f"comes to {n}", after
        elif cursor.window.has_room(1) or not self.on(Rule.PAST_THE_WINDOW_SPILL):
            yield f"sends {n} live", self._send(after, n)
        else:
            yield f"spills {n}", replace(after, live=False)

    def cursor_loop(self, s: Streaming) -> Steps[Streaming]:
        position, room = s.cursor.peek.position, s.cursor.peek.window.has_room(1)
        if s.live:
            return
        if s.loop == "enters":
            yield "enters the live set", replace(s, live=True, loop="compares")
        elif s.loop == "sends" and s.page and room:
            yield f"sends {s.page[0]}", self._send(replace(s, page=s.page[1:]), s.page[0])
        elif s.loop == "sends":
            yield "is through its page", replace(s, loop="compares", page=())
        elif position == s.hub and self.on(Rule.ENTER_LIVE_AT_ONCE):
            yield f"compares with the hub at {s.hub}, enters the live set", replace(s, live=True)
        elif position == s.hub:
            yield f"compares with the hub at {s.hub}", replace(s, loop="enters")
        elif position < s.head and room:
            yield from self.read_page(s, position)

    def read_page(self, s: Streaming, position: int) -> Steps[Streaming]:
        page = tuple(range(max(position + 1, s.oldest), s.head + 1))[:2]
        try:
            if self.on(Rule.PAGE_HAS_NO_HOLE):
                check_page(position, s.head, list(page))
        except Hole:
            yield f"reads {page}: tells a gap", self._jump(s, s.head, ("gap", s.head))
            return
        if page:
            if page[0] > position + 1:  # nobody looked
                s = self._jump(s, page[0] - 1)
            yield f"reads {page}", replace(s, loop="sends", page=page)
        else:
            yield "reads nothing, is content", self._jump(s, s.head)

    def client(self, s: Streaming) -> Steps[Streaming]:
        if not s.socket:
            return
        (kind, n), *rest = s.socket
        s = replace(s, socket=tuple(rest))
        position = s.position.thaw()
        if kind == "gap":
            lost = tuple(range(position.seq + 1, n + 1))
            position.jump(n, None)
            s = replace(s, told_lost=s.told_lost + lost)
        else:
            try:
                if position.receive(n):
                    s = replace(s, delivered=(*s.delivered, n))
            except ProtocolError as hole:
                s = replace(s, hole=hole.reason)
        yield f"receives {kind} {n}", replace(s, position=Frozen(position))

    def client_acks(self, s: Streaming) -> Steps[Streaming]:
        cursor = s.cursor.thaw()
        if s.position.peek.seq > cursor.acked and not s.socket:
            cursor.ack(s.position.peek.seq)
            yield f"{cursor.acked}", replace(s, cursor=Frozen(cursor))

    def retention(self, s: Streaming) -> Steps[Streaming]:
        if s.trims and s.oldest <= s.head:
            yield f"deletes {s.oldest}", replace(s, oldest=s.oldest + 1, trims=s.trims - 1)

    def cut(self, s: Streaming) -> Steps[Streaming]:
        if s.cuts:
            resumed = replace(s, cuts=s.cuts - 1, cursor=cursor_at(s.position.peek.seq))
            yield (
                f"the connection; the client resumes at {s.position.peek.seq}",
                replace(resumed, live=False, loop="compares", page=(), socket=()),
            )

    def _send(self, s: Streaming, n: int) -> Streaming:
        cursor = s.cursor.thaw()
        if cursor.position + 1 < n:  # only without ENTER_LIVE_AT_ONCE
            cursor.jump(n - 1)
        cursor.advance(n, 1)
        return replace(s, cursor=Frozen(cursor), socket=(*s.socket, ("message", n)))

    def _jump(self, s: Streaming, n: int, *frames: tuple[str, int]) -> Streaming:
        cursor = s.cursor.thaw()
        cursor.jump(n)
        return replace(s, cursor=Frozen(cursor), socket=s.socket + frames)

    def broken(self, s: Streaming) -> Broken | None:
        if s.hole:
            return Broken(Promise.G1, f"the client got {s.hole}, and no gap was told")
        if s.cursor.peek.window.messages > WINDOW:
            return Broken(Promise.G8, "more is on its way to a slow client than the window allows")
        return None

    def unfinished(self, s: Streaming) -> Broken | None:
        if sorted(s.delivered + s.told_lost) != list(range(1, s.head + 1)):
            why = f"published 1 to {s.head}, delivered {s.delivered}, told lost {s.told_lost}"
            return Broken(Promise.G1, why)
        if not s.live:
            return Broken(Promise.NO_DEADLOCK, "the client has everything and is not live")
        return None


@dataclass(frozen=True)
class Claim:
    """What a client comes back with, and what the server knows of its subscription."""

    story: str = ""
    claim: tuple[str, int] | None = None
    has: tuple[str, ...] = ()  # what its application has, from this stream
    from_seq: int = 0
    acked: int = 0
    journal: tuple[str, ...] = ()  # of the stream's present epoch, "new"
    told_gap: bool = False
    over: bool = False


STORIES = (
    Claim(
        "after a restore from a backup, a, b and c are followed by x and y",
        claim=("old", 4),
        has=("a", "b", "c", "d"),
        journal=("a", "b", "c", "x", "y"),
    ),
    Claim(
        "the client was let in after c, and claims to have stood at the beginning",
        claim=("new", 0),
        from_seq=3,
        journal=("a", "b", "c", "x", "y"),
    ),
    Claim(
        "the page was reloaded; it knows no position, but a, b and c were acknowledged",
        claim=None,
        has=("a", "b", "c"),
        acked=3,
        journal=("a", "b", "c", "x", "y"),
    ),
)


class Positions(Scenario[Claim]):
    """Where a resume starts reading; x and y were sent to the client, c and before were not."""

    at_least = 7

    def start(self) -> Claim:
        return Claim()

    def processes(self) -> tuple[Process[Claim], ...]:
        return self.story, self.resume

    def story(self, s: Claim) -> Steps[Claim]:
        if not s.story:
            for told in STORIES:
                yield told.story, told

    def resume(self, s: Claim) -> Steps[Claim]:
        if s.over or not s.story:
            return
        head = len(s.journal)
        if s.claim is None:
            acked = max(s.from_seq, s.acked) if self.on(Rule.POSITION_ELSE_ACKED) else head
            yield from self.read(s, acked)
        elif s.claim[0] == "new" or not self.on(Rule.POSITION_HAS_AN_EPOCH):
            on = self.on(Rule.POSITION_FROM_SUBSCRIPTION)
            yield from self.read(s, max(s.claim[1], s.from_seq) if on else s.claim[1])
        else:
            yield f"tells a gap, both stand at {head}", replace(s, told_gap=True, over=True)

    def read(self, s: Claim, position: int) -> Steps[Claim]:
        rows = s.journal[position:]
        yield f"reads {rows} from {position}", replace(s, has=s.has + rows, over=True)

    def broken(self, s: Claim) -> Broken | None:
        if s.from_seq and set(s.has) & set("abc"):
            return Broken(Promise.G1, f"{s.has}: the client was sent what it must not see")
        return None

    def unfinished(self, s: Claim) -> Broken | None:
        if not s.told_gap and not {"x", "y"} <= set(s.has):
            return Broken(Promise.G1, f"the client has {s.has}, and was told no gap")
        return None
