"""Watching drains from outside: which nodes are done, which never will be, and how to say it.

Pure: looks at rows and a monotonic clock go in, an outcome per node comes out. A node's own clock
is not believed: it answers when its beat moves while it is watched.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from graceful_ws.store.nodes import Status

NAMED = 5  # sessions that one line names


class Outcome(StrEnum):
    WAITING = "waiting"
    DONE = "done"  # drained, or for an undo: up again
    BUSY = "busy"  # drained by force: some were dropped at the deadline
    SILENT = "silent"  # its beat stands still
    LATE = "late"  # it lives, and the time is up
    DIED = "died"  # while it drained
    STOPPING = "stopping"  # its process was told to stop, which an undo does not take back
    GONE = "gone"  # dead or stopped before it was asked: nothing to wait for


GOOD = (Outcome.DONE, Outcome.GONE)


@dataclass(slots=True)
class Watched:
    """One node: its last row, and what became of it."""

    status: Status
    moved_at: float  # when its beat was last seen to move
    beat_moved: bool = False
    outcome: Outcome = Outcome.WAITING

    def row(self) -> dict[str, Any]:
        """For machines."""
        progress = self.status.progress
        return {
            "name": self.status.name,
            "id": str(self.status.id),
            "host": self.status.host,
            "state": self.status.state,
            "outcome": str(self.outcome),
            "total": progress.get("total", 0),
            "remaining": progress.get("remaining", self.status.connections),
            "left": progress.get("left", 0),
            "left_sessions": progress.get("left_sessions", []),
        }


class Watch:
    """All nodes that were asked, until each has an outcome. ``undo``: they are to be up again."""

    def __init__(
        self, statuses: Iterable[Status], now: float, *, silent_after: float, undo: bool = False
    ) -> None:
        self.nodes = {status.id: Watched(status, now) for status in statuses}
        self._silent_after = silent_after
        self._undo = undo

    @property
    def waiting(self) -> list[Watched]:
        return [node for node in self.nodes.values() if node.outcome is Outcome.WAITING]

    @property
    def failed(self) -> list[Watched]:
        return [n for n in self.nodes.values() if n.outcome not in (*GOOD, Outcome.WAITING)]

    @property
    def to_ask_again(self) -> bool:
        """True when a node began to drain while its request was being withdrawn."""
        rows = [node.status for node in self.waiting]
        return self._undo and any(
            row.requested_state == "draining" for row in rows if row.state != "up"
        )

    def looked(self, statuses: Sequence[Status], now: float) -> None:
        """Rows as they are now; a node whose row has been purged is not among them."""
        rows: dict[uuid.UUID, Status] = {status.id: status for status in statuses}
        for pk, node in self.nodes.items():
            if node.outcome is not Outcome.WAITING:
                continue
            status = rows.get(pk)
            if status is None:
                node.outcome = Outcome.DIED if node.beat_moved else Outcome.GONE
                continue
            if status.beat != node.status.beat:
                node.beat_moved, node.moved_at = True, now
            node.status = status
            node.outcome = self._outcome(node, now)

    def gave_up(self) -> None:
        """The time is up."""
        for node in self.waiting:
            node.outcome = Outcome.LATE if node.beat_moved else Outcome.SILENT

    def _outcome(self, node: Watched, now: float) -> Outcome:
        status = node.status
        if status.state == "dead":
            return Outcome.DIED if node.beat_moved else Outcome.GONE
        if self._undo:
            if status.state == "stopped":
                return Outcome.GONE
            if status.state == "up" and status.requested_state != "draining":
                return Outcome.DONE
            if status.is_stopping:
                return Outcome.STOPPING
        elif status.state in ("drained", "stopped"):
            return Outcome.BUSY if status.progress.get("left") else Outcome.DONE
        if now - node.moved_at >= self._silent_after:
            return Outcome.SILENT
        return Outcome.WAITING


# --- in words ---------------------------------------------------------------------------------


def bar(done: int, total: int, width: int = 20, cells: str = "█░") -> str:
    """A progress bar of ``width`` characters."""
    full = width if total <= 0 else round(width * min(1.0, max(0.0, done / total)))
    return cells[0] * full + cells[1] * (width - full)


def phase(status: Status) -> str:
    """Where a drain stands, in one word; "" for a node that nobody asked."""
    if status.state == "draining":
        return str(status.progress.get("phase") or "draining")
    if status.state == "up":
        return "asked" if status.requested_state == "draining" else ""
    return status.state


def progress_text(status: Status, *, width: int = 20, cells: str = "█░") -> str:
    """Such as "notifying ████░░ 12/37 left"; "" for a node that was not asked."""
    word = phase(status)
    if not word or status.state in ("stopped", "dead"):
        return ""
    if word == "asked":
        return f"{word}, {status.connections} connections"
    remaining = status.progress.get("remaining", status.connections)
    total = max(status.progress.get("total", 0), remaining)
    return f"{word} {bar(total - remaining, total, width, cells)} {remaining}/{total} left"


def outcome_text(node: Watched, *, undo: bool = False) -> str:
    """What became of a node, to stand in a line with that of others."""
    status, progress = node.status, node.status.progress
    remaining = progress.get("remaining", status.connections)
    match node.outcome:
        case Outcome.DONE if undo:
            said = "up again"
        case Outcome.DONE:
            said = f"{status.state}, {progress.get('total', 0)} connections"
            if "seconds" in progress:
                said += f" in {progress['seconds']:.1f} s"
        case Outcome.BUSY:
            said = f"dropped {counted(progress['left'], 'busy connection')}"
            said += f" at the deadline ({_named(progress)})"
        case Outcome.SILENT if not node.beat_moved:
            said = "did not answer"
        case Outcome.SILENT:
            said = f"fell silent with {counted(remaining, 'connection')}"
        case Outcome.LATE if undo:
            said = f"is still {status.state}"
        case Outcome.LATE if status.state == "up":
            said = "did not begin"
        case Outcome.LATE:
            said = f"is still {phase(status)} with {counted(remaining, 'connection')}"
        case Outcome.STOPPING:
            said = "was told to stop: start it again"
        case Outcome.DIED:
            said = f"died with {counted(remaining, 'connection')}"
        case Outcome.GONE:
            said = f"was {status.state if status.state != 'up' else 'gone'} already"
        case _:
            said = progress_text(status) or status.state
    return f"{status.name} {said}"


def _named(progress: dict[str, Any]) -> str:
    names = progress.get("left_sessions", [])
    more = progress["left"] - len(names[:NAMED])
    return ", ".join([*names[:NAMED], *([f"{more} more"] if more > 0 else [])])


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
