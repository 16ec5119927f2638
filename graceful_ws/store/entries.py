"""What the writer writes: one entry for one thing, applied to the session's row under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from graceful_ws.models import Session

if TYPE_CHECKING:
    from .rounds import Round


class Fenced(Exception):
    """The session no longer belongs to this connection: taken over, detached or ended."""


class Later(Exception):
    """The row is locked by somebody else; the entry waits for the next round."""


@dataclass(slots=True)
class Row:
    """What a round knows of a session, read under its lock."""

    id: int
    generation: int
    state: str
    last_seq: int
    acked_seq: int
    last_client_seq: int
    tries: int
    present: bool
    instance: str
    changed: bool = False


COLUMNS = "id, generation, state, last_seq, acked_seq, last_client_seq, tries, present, instance"


@dataclass(slots=True, eq=False)
class Entry:
    """One thing to write for one session, as the owner of ``generation``."""

    refusable: ClassVar[bool] = False  # told at once when the database is away, and not kept

    session: int
    generation: int
    # What a transaction whose commit's answer was lost may have written; None: nothing.
    perhaps: Any = field(default=None, init=False)
    _before: Any = field(default=None, init=False)

    @property
    def size(self) -> int:
        """The characters of text that it brings."""
        return 0

    def begin(self) -> None:
        """A transaction is about to try the entry."""
        self._before = self.perhaps

    def apply(self, row: Row, work: Round) -> Any:
        """Changes ``row`` and adds to ``work``; what it returns is the entry's outcome."""
        raise NotImplementedError

    def rolled_back(self) -> None:
        """This transaction certainly did not commit; the one before it still may have."""
        self.perhaps = self._before

    def owned(self, row: Row) -> None:
        if row.generation != self.generation or row.state != Session.State.ATTACHED:
            raise Fenced


@dataclass(slots=True, eq=False)
class Append(Entry):
    """Numbers and keeps messages to the client. Outcome: the number of the first."""

    refusable = True
    data: Sequence[str] = ()

    @property
    def size(self) -> int:
        return sum(map(len, self.data))

    def apply(self, row: Row, work: Round) -> int:
        self.owned(row)
        if self.perhaps is not None and work.has_message(self, *self.perhaps):
            first, _ = self.perhaps
            return int(first)
        first = row.last_seq + 1
        self.perhaps = first, work.now
        work.append(row, self.data)
        return first


@dataclass(slots=True, eq=False)
class TakePending(Entry):
    """Numbers what ``send_to_session`` left for the session. Outcome: (first number, data)."""

    def apply(self, row: Row, work: Round) -> tuple[int, list[str]]:
        self.owned(row)
        if self.perhaps is not None and work.has_taken(*self.perhaps[:2]):
            first, _, taken = self.perhaps
            return first, taken
        first = row.last_seq + 1
        pending = work.pending.pop(row.id, [])
        taken = [data for _, data in pending]
        self.perhaps = (first, pending[0][0], taken) if pending else None
        for pk, _ in pending:
            row.last_seq += 1
            row.changed = True
            work.taken.append((row.last_seq, pk))
        return first, taken


@dataclass(slots=True, eq=False)
class Complete(Entry):
    """Moves ``last_client_seq`` from n - 1 to n together with the outcome.

    Outcome: True when this entry moved it, False when it was there already (the handler's own
    transaction has won against its time limit).
    """

    client_seq: int = 0
    outcome: str | None = None  # encoded {"result": …} or {"nack": …}; None: a plain ack
    keep: int = 64  # outcomes of the last so many numbers are kept

    @property
    def size(self) -> int:
        return len(self.outcome or "")

    def apply(self, row: Row, work: Round) -> bool:
        self.owned(row)
        if row.last_client_seq >= self.client_seq:
            return self.perhaps is not None and work.has_outcome(self)
        if row.last_client_seq != self.client_seq - 1:
            raise Fenced
        self.perhaps = True
        work.complete(row, self.client_seq, self.outcome, self.keep)
        return True


@dataclass(slots=True, eq=False)
class CountTry(Entry):
    """Counts a start of the handler of ``client_seq`` that may not be the first.

    Outcome: the count. Past 1 the handler must not be started: it may have run twice already.
    """

    client_seq: int = 0

    def apply(self, row: Row, work: Round) -> int:
        self.owned(row)
        if row.last_client_seq != self.client_seq - 1:
            raise Fenced
        if self.perhaps is None or row.tries < self.perhaps:
            row.tries += 1
            row.changed = True
        self.perhaps = row.tries
        return row.tries


@dataclass(slots=True, eq=False)
class Note(Entry):
    """What costs nothing when lost: acknowledgements, and liveness for the admin."""

    acked_seq: int = 0
    streams: dict[str, tuple[str, int]] = field(default_factory=dict)  # name: (epoch, acked)
    connection_state: str = ""
    rtt_ms: int | None = None

    def apply(self, row: Row, work: Round) -> Any:
        self.owned(row)
        self.acknowledge(row, work)
        work.notes.append((work.now, self.connection_state, self.rtt_ms, row.id))

    def acknowledge(self, row: Row, work: Round) -> None:
        if self.acked_seq > row.acked_seq:
            row.acked_seq = min(self.acked_seq, row.last_seq)
            row.changed = True
            work.acked.append((row.id, row.acked_seq))
        for stream, (epoch, seq) in self.streams.items():
            work.following.acknowledge(row.id, stream, epoch, seq)


@dataclass(slots=True, eq=False)
class Detach(Note):
    """The connection is gone. With ``end`` the session is over too. Outcome: True when it was
    this entry that did it.

    A bye ends it also when the next connection of the same client object has attached meanwhile:
    in the middle of a move there are two, and it says bye on one.
    """

    end: bool = False
    instance: str = ""
    close_code: int | None = None
    close_reason: str = ""
    cause: str = ""

    def apply(self, row: Row, work: Round) -> bool:
        if row.generation != self.generation:
            mine = self.cause == "bye" and row.instance == self.instance != ""
            if not mine or row.state == Session.State.ENDED:
                return mine and self.perhaps is not None  # the answer to its commit was lost
            row.generation += 1
        elif row.state != Session.State.ATTACHED:
            return self.perhaps is not None  # others add 1 to the generation when they end it
        self.perhaps = True
        self.acknowledge(row, work)
        row.state = Session.State.ENDED if self.end else Session.State.DETACHED
        work.detached.append(
            (
                row.state,
                row.generation,
                work.now,
                work.now if self.end else None,
                self.close_code,
                self.close_reason,
                self.cause,
                None,
                "",
                row.id,
            )
        )
        return True
