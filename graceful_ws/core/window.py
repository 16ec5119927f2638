"""Numbers: what is unacknowledged, what is next, what is a copy, what is a hole.

Sequences count from 1 without gaps. Four small objects, one for each end of each direction:

=====================  ==============================  ===========================
direction              sending end                     receiving end
=====================  ==============================  ===========================
server to client       ``Cursor`` in a ``SendWindow``  ``Position`` (client)
client to server       ``Pending`` (client)            ``Intake`` (credit)
=====================  ==============================  ===========================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .close_codes import CloseCode
from .frames import MAX_SEQ, ProtocolError


@dataclass(slots=True)
class SendWindow:
    """What one connection may have sent without an acknowledgement, over all its cursors."""

    max_messages: int
    max_bytes: int
    messages: int = 0
    bytes: int = 0

    def has_room(self, size: int = 0) -> bool:
        """True when a message of ``size`` bytes may go; one message may always go."""
        return self.messages == 0 or (
            self.messages < self.max_messages and self.bytes + size <= self.max_bytes
        )


@dataclass(slots=True)
class Cursor:
    """Where one connection stands in one sequence that the server sends.

    ``position`` is the last number given to the socket, ``acked`` the last that the client's
    application has. Nothing but the sizes is kept: what must be sent again is read again.
    """

    window: SendWindow
    position: int = 0
    acked: int = 0
    _before: int = 0  # the highest position before a gap led back behind it
    _sizes: list[tuple[int, int]] = field(default_factory=list)  # an idle deque takes 0.7 KiB

    def advance(self, seq: int, size: int) -> None:
        """``seq`` goes to the socket. It must be the next number."""
        if seq != self.position + 1:
            raise AssertionError(f"cursor at {self.position} was given {seq}")
        self.position = seq
        self._sizes.append((seq, size))
        self.window.messages += 1
        self.window.bytes += size

    def ack(self, seq: int) -> bool:
        """The client has everything up to ``seq``. True when that is news.

        Raises ProtocolError 1002 for a number that was never sent.
        """
        if seq > self.position:
            if self.is_old(seq):
                return False  # on its way when the gap was told
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"ack of {seq}, sent {self.position}")
        if seq <= self.acked:
            return False
        self.acked = seq
        self._release(seq)
        return True

    def is_old(self, seq: int) -> bool:
        """Whether an acknowledgement may be of a number from before a gap led back behind it."""
        return self.position < seq <= self._before

    def jump(self, seq: int) -> None:
        """The client has everything up to ``seq`` from elsewhere."""
        self.skip(seq)
        self.acked = seq

    def skip(self, seq: int) -> None:
        """A gap is told: sending goes on behind ``seq``, and what was on its way counts as done
        with. Not as acknowledged: if the gap does not arrive, it has to be told again."""
        self._release(MAX_SEQ)
        if seq < self.position:
            self._before = max(self._before, self.position)
        self.position = seq
        self.acked = min(self.acked, seq)

    def _release(self, seq: int) -> None:
        sizes = self._sizes
        count = 0
        for number, size in sizes:
            if number > seq:
                break
            count += 1
            self.window.bytes -= size
        self.window.messages -= count
        del sizes[:count]


class Hole(Exception):
    """A page of rows does not continue where the cursor stands; ``oldest`` is what there is."""

    def __init__(self, oldest: int | None) -> None:
        super().__init__(oldest)
        self.oldest = oldest


def check_page(position: int, head: int, seqs: list[int]) -> None:
    """A page read after ``position``, of a sequence whose head was ``head`` before the read, must
    start at the next number and have no hole; an empty page below the head is one. Raises Hole."""
    if not seqs:
        if position < head:
            raise Hole(None)
        return
    if seqs[0] != position + 1 or seqs[-1] != position + len(seqs):
        raise Hole(seqs[0])


class Arrival(Enum):
    """What a client's message number means to the server."""

    NEW = "new"  # hand it to the handler
    PENDING = "pending"  # a copy of one that waits or runs: say nothing yet
    DONE = "done"  # a copy of one that is done: acknowledge it again
    SKIPPED = "skipped"  # after a nack with retry: comes again behind it


@dataclass(slots=True)
class Intake:
    """The server's end of what a client sends: order, copies and credit.

    ``done`` moves only when the handler's outcome is committed; ``received`` is the last number
    taken in. The reader never stops: a client that sends past its credit is closed.
    """

    max_messages: int
    max_bytes: int
    done: int = 0
    received: int = 0
    bytes: int = 0
    retry: int | None = None  # the number that must come next, after nack(retry)
    _sizes: list[int] = field(default_factory=list)

    def receive(self, seq: int, size: int) -> Arrival:
        """Takes in a number. Raises ProtocolError 1002 for a hole, 4201 past the credit."""
        if seq <= self.done:
            if seq < 1:
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "numbers count from 1")
            return Arrival.DONE
        if seq <= self.received:
            return Arrival.PENDING
        if seq != self.received + 1:
            if self.retry is not None:
                return Arrival.SKIPPED
            raise ProtocolError(
                CloseCode.PROTOCOL_ERROR, f"message {seq} after {self.received}: a hole"
            )
        if seq > MAX_SEQ:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "numbers end at 2**53 - 1")
        if len(self._sizes) >= self.max_messages or (
            self._sizes and self.bytes + size > self.max_bytes
        ):
            raise ProtocolError(CloseCode.LIMIT_EXCEEDED, "too much unacknowledged")
        self.retry = None
        self.received = seq
        self.bytes += size
        self._sizes.append(size)
        return Arrival.NEW

    def complete(self, seq: int) -> None:
        """The outcome of ``seq``, the one after ``done``, is committed."""
        if seq != self.done + 1:
            raise AssertionError(f"{seq} completed after {self.done}")
        self.done = seq
        self.bytes -= self._sizes.pop(0)

    def ask_again(self, seq: int) -> None:
        """``seq`` was nacked with retry: it and what follows are forgotten until it returns."""
        if seq != self.done + 1:
            raise AssertionError(f"retry of {seq} after {self.done}")
        self.received = seq - 1
        self.retry = seq
        self.bytes = 0
        self._sizes.clear()


@dataclass(slots=True)
class Pending:
    """The client's end of what it sends: numbered messages until their outcome is known.

    ``items`` maps number to encoded data, in order. At most ``max_messages`` and ``max_bytes``
    travel unacknowledged (the credit from ``welcome``); the rest waits its turn.
    """

    max_messages: int = 64
    max_bytes: int = 256 * 1024
    next_seq: int = 1
    sent: int = 0  # the last number given to the current connection
    items: dict[int, str] = field(default_factory=dict)

    def add(self, data: str) -> int:
        """Numbers a message and keeps it until its outcome is known."""
        seq = self.next_seq
        self.next_seq += 1
        self.items[seq] = data
        return seq

    def sendable(self) -> list[tuple[int, str]]:
        """The messages that credit lets go now, in order; they count as sent."""
        found: list[tuple[int, str]] = []
        size = 0
        for travelling, (seq, data) in enumerate(self.items.items()):
            cost = len(data.encode())
            if travelling and (travelling >= self.max_messages or size + cost > self.max_bytes):
                break
            size += cost
            if seq > self.sent:
                found.append((seq, data))
        if found:
            self.sent = found[-1][0]
        return found

    def resolve_upto(self, seq: int) -> list[int]:
        """A cumulative ack. Returns the numbers whose outcome this settles, in order."""
        settled = [n for n in self.items if n <= seq]
        for n in settled:
            del self.items[n]
        return settled

    def resolve(self, seq: int) -> bool:
        """The outcome of one number, from a nack without retry. True when it was waiting."""
        return self.items.pop(seq, None) is not None

    def send_again(self, seq: int) -> None:
        """After a nack with retry: ``seq`` and all behind it travel again."""
        self.sent = min(self.sent, seq - 1)

    def withdraw(self, seq: int) -> dict[int, int]:
        """Takes back what is not on its way, and gives its number to the next one. Returns old
        number to new, of those behind it."""
        assert seq > self.sent
        del self.items[seq]
        behind = [n for n in self.items if n > seq]
        moved = {n: n - 1 for n in behind}
        for n in behind:
            self.items[n - 1] = self.items.pop(n)
        self.next_seq -= 1
        return moved

    def reconnected(self, last_client_seq: int) -> list[int]:
        """After a resume: what is done is settled, the rest will be sent again, in order."""
        self.sent = last_client_seq
        self.next_seq = max(self.next_seq, last_client_seq + 1)
        return [n for n in self.items if n <= last_client_seq]

    def renumber(self, last_client_seq: int) -> dict[int, int]:
        """In a new session, or as its new instance, the waiting messages get numbers after
        ``last_client_seq``. Returns old number to new."""
        moved = {}
        items = {}
        for new, (old, data) in enumerate(self.items.items(), last_client_seq + 1):
            moved[old] = new
            items[new] = data
        self.items = items
        self.next_seq = last_client_seq + 1 + len(items)
        self.sent = last_client_seq
        return moved


@dataclass(slots=True)
class Position:
    """The client's end of one sequence: what its application has."""

    seq: int = 0
    epoch: str = ""
    acked: int = 0  # the last number told to the server

    def receive(self, seq: int) -> bool:
        """True to deliver, False for a copy. Raises ProtocolError 4000 for a hole: the client
        closes with it and resumes, which fills the hole or tells a gap."""
        if seq <= self.seq:
            return False
        if seq != self.seq + 1:
            raise ProtocolError(CloseCode.SUSPENDED, f"message {seq} after {self.seq}: a hole")
        self.seq = seq
        return True

    def jump(self, head: int, epoch: str | None) -> None:
        """After a gap: both sides stand at ``head``."""
        self.seq = head
        self.acked = min(self.acked, head)
        if epoch is not None:
            self.epoch = epoch
