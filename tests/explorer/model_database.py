"""A database as far as the rules depend on it: rows, row locks, transactions at READ COMMITTED.

What PostgreSQL does (manual, "Transaction Isolation" and "Explicit Locking"):

* every statement sees what is committed when it starts, and its own transaction's writes;
* a locking statement that had to wait reads the *locked* row anew, and nothing else: the other rows
  are still those of its snapshot (a model that wants this calls ``rows`` first and ``lock`` later);
* an INSERT waits for the open transaction that inserted the same unique key;
* a foreign key takes KEY SHARE on the row it refers to, which FOR UPDATE waits for and FOR NO KEY
  UPDATE does not;
* locks are held until the end of the transaction; a crash of the client is a rollback.

SQLite is the same with one row to lock: the file.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from .model_values import Map


class Lock(enum.Enum):
    KEY_SHARE = enum.auto()  # what a foreign key takes on the row it refers to
    NO_KEY_UPDATE = enum.auto()  # an UPDATE, select_for_update(no_key=True)
    UPDATE = enum.auto()  # select_for_update()

    def waits_for(self, other: Lock) -> bool:
        if Lock.KEY_SHARE in (self, other):
            return Lock.UPDATE in (self, other)
        return True


@dataclass(frozen=True)
class Database:
    """Committed ``rows``, and what the open transactions (any name) wrote and locked."""

    rows: Map[Any, Any] = field(default_factory=Map)
    written: Map[Any, Any] = field(default_factory=Map)
    locks: frozenset[tuple[str, Hashable, Lock]] = frozenset()

    def free(self, who: str, key: Hashable, lock: Lock = Lock.NO_KEY_UPDATE) -> bool:
        """Whether ``who`` would get the lock without waiting."""
        return not any(
            key == locked and who != holder and lock.waits_for(held)
            for holder, locked, held in self.locks
        )

    def lock(self, who: str, key: Hashable, lock: Lock = Lock.NO_KEY_UPDATE) -> Database:
        """Lock a row until the end of ``who``'s transaction; ask ``free`` first."""
        assert self.free(who, key, lock), f"{who} must wait for {key}"
        return replace(self, locks=self.locks | {(who, key, lock)})

    def holds(self, who: str) -> bool:
        return any(holder == who for holder, _, _ in self.locks)

    def read(self, who: str, key: Hashable) -> Any:
        """Read one row in a new statement; None: there is none."""
        return self.written.get((who, key), self.rows.get(key))

    def write(self, who: str, key: Hashable, row: Any) -> Database:
        """Insert or update a row, which locks it; ask ``free`` first."""
        return replace(self.lock(who, key), written=self.written.set((who, key), row))

    def commit(self, who: str) -> Database:
        rows = dict(self.rows)
        rows.update({key: row for (writer, key), row in self.written.items() if writer == who})
        return replace(self.rollback(who), rows=Map(rows))

    def rollback(self, who: str) -> Database:
        """End the transaction of ``who``, if there is one, as a crash does too."""
        return replace(
            self,
            written=Map({k: row for k, row in self.written.items() if k[0] != who}),
            locks=frozenset(held for held in self.locks if held[0] != who),
        )

    def numbered(self, table: str) -> dict[int, Any]:
        """The committed rows ``(table, number)``, by number."""
        return {
            key[1]: row
            for key, row in sorted(
                (k, r) for k, r in self.rows.items() if isinstance(k, tuple) and k[0] == table
            )
        }
