"""Rows of sessions as hellos find, make and take them."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count

from graceful_ws.conf import settings
from graceful_ws.models import Session

from .hello import Attach, Identity, hash_token
from .sql import Batch, insert_many, read

IDS = 64  # drawn together
AT_ONCE = 500  # hashes in one query of SQLite, whose statements are bounded

# What a hello must know of a session, read under its lock.
FOUND = (
    *("id", "token_hash", "uuid", "consumer", "user_id", "auth_hash", "session_key_hash"),
    *("generation", "instance", "attempt", "state", "resumable", "present", "last_seq"),
    *("acked_seq", "last_client_seq", "tries", "resumes", "attached_at", "left_at", "cause"),
)
TAKEN = (
    *("generation", "instance", "attempt", "node_id", "attached_at", "remote_address"),
    *("user_agent", "resumes", "tries", "auth_hash", "session_key_hash"),
)
RETURNED = (
    ", ".join(f"{name} = {{{name}}}" for name in TAKEN)
    + f", seen_at = {{attached_at}}, state = '{Session.State.ATTACHED}', left_at = NULL"
    + ", close_code = NULL, close_reason = '', cause = ''"
)
# A new session: what its hello says, and what is the same for all of them.
NEW = (
    *("uuid", "token_hash", "consumer", "user_id", "auth_hash", "session_key_hash", "node_id"),
    *("instance", "attempt", "resumable", "started_at", "attached_at", "seen_at"),
    *("remote_address", "user_agent"),
)
FIRST: dict[str, Any] = {
    **{"generation": 1, "state": str(Session.State.ATTACHED), "present": False, "resumes": 0},
    **{"last_seq": 0, "acked_seq": 0, "last_client_seq": 0, "tries": 0},
    **{"left_at": None, "ended_at": None, "connection_state": "", "rtt_ms": None},
    **{"close_code": None, "close_reason": "", "cause": ""},
}
ROW = (*NEW, *FIRST)
CONSTANT = tuple(FIRST.values())


@dataclass(slots=True)
class Owned:
    """A session's row as a hello finds it, or makes it."""

    id: int
    token_hash: bytes
    uuid: uuid.UUID
    consumer: str
    user_id: Any
    auth_hash: str
    session_key_hash: str
    generation: int
    instance: str
    attempt: int
    state: str
    resumable: bool
    present: bool
    last_seq: int
    acked_seq: int
    last_client_seq: int
    tries: int
    resumes: int
    attached_at: datetime
    left_at: datetime | None
    cause: str = ""  # of its absence

    def owned_by(self, identity: Identity) -> bool:
        return identity.owns(self.user_id, self.auth_hash, self.session_key_hash)


def public_ids() -> Iterator[uuid.UUID]:
    """Random ones (RFC 9562, version 4). Each call of the system's generator lets the event loop
    have the interpreter, and waits for it: so one for many."""
    while True:
        some = os.urandom(16 * IDS)
        for start in range(0, len(some), 16):
            yield uuid.UUID(bytes=some[start : start + 16], version=4)


def new(entry: Attach, now: datetime, public_id: uuid.UUID) -> Owned:
    who = entry.identity
    return Owned(
        0,  # until it is inserted
        hash_token(entry.new_token),
        public_id,
        entry.consumer,
        who.user_id,
        who.auth_hash,
        who.session_key_hash,
        1,
        entry.instance,
        entry.attempt,
        Session.State.ATTACHED,
        entry.resumable,
        False,
        0,
        0,
        0,
        0,
        0,
        now,
        None,
    )


def _by_hash(
    using: BaseDatabaseWrapper, columns: tuple[str, ...], hashes: Iterable[bytes], rest: str = ""
) -> list[Any]:
    """Rows of sessions with these hashes of tokens."""
    asked = list(hashes)
    if not asked:
        return []
    if using.vendor == "postgresql":
        where = f"WHERE token_hash = ANY(%s::bytea[]) {rest}"
        return read(using, Session, columns, where, [asked])
    rows: list[Any] = []
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        where = f"WHERE token_hash IN ({','.join(['%s'] * len(some))}) {rest}"
        rows += read(using, Session, columns, where, some)
    return rows


def locked(using: BaseDatabaseWrapper, hashes: Collection[bytes]) -> dict[bytes, Owned]:
    """The sessions of tokens, locked in id order; what others have locked is left out."""
    lock = "ORDER BY id FOR NO KEY UPDATE SKIP LOCKED" if using.vendor == "postgresql" else ""
    rows = _by_hash(using, FOUND, hashes, lock)
    return {bytes(row[1]): Owned(row[0], bytes(row[1]), *row[2:]) for row in rows}


def existing(using: BaseDatabaseWrapper, hashes: Collection[bytes]) -> set[bytes]:
    """Those that exist all the same: their rows are locked elsewhere."""
    if using.vendor == "sqlite":  # no row is
        return set()
    return {bytes(token_hash) for (token_hash,) in _by_hash(using, ("token_hash",), hashes)}


class Seats:
    """How many sessions each user of a round has attached, on whatever node. Rounds of several
    nodes at the same moment do not see each other's: together they may go a little over."""

    def __init__(self, using: BaseDatabaseWrapper, entries: Iterable[Attach]) -> None:
        self._limit = settings.connections_per_user
        self._attached: Counter[Any] = Counter()
        users = {one.identity.user_id for one in entries if self._limit} - {None}
        if users:
            rows = Session.objects.using(using.alias).filter(user_id__in=users)
            attached = rows.filter(state=Session.State.ATTACHED).order_by()
            self._attached.update(dict(attached.values_list("user_id").annotate(Count("pk"))))

    def taken(self, entry: Attach) -> bool:
        """Takes one for a session that was not attached; True when there is none left."""
        user = entry.identity.user_id
        if not self._limit or user is None:
            return False
        if self._attached[user] >= self._limit:
            return True
        self._attached[user] += 1
        return False


def insert(using: BaseDatabaseWrapper, made: Sequence[tuple[Owned, Attach]]) -> None:
    """Inserts new sessions and gives each its primary key."""
    rows = []
    for session, entry in made:
        now, who = session.attached_at, entry.identity
        rows.append(
            (
                *(session.uuid, session.token_hash, entry.consumer, who.user_id, who.auth_hash),
                *(who.session_key_hash, entry.node, entry.instance, entry.attempt),
                *(entry.resumable, now, now, now, entry.remote_address, entry.user_agent),
                *CONSTANT,
            )
        )
    insert_many(using, Session, ROW, rows)
    hashes = [session.token_hash for session, _ in made]
    ids = {bytes(token_hash): pk for pk, token_hash in _by_hash(using, FOUND[:2], hashes)}
    for session, _ in made:
        session.id = ids[session.token_hash]


def update(
    using: BaseDatabaseWrapper,
    changed: Iterable[tuple[Owned, Attach]],
    told: Sequence[tuple[datetime, int]] = (),
) -> None:
    """Sessions have another connection now; clients of ``told`` (when, primary key) came too late,
    and hear of a gap."""
    rows = [
        (
            *(row.generation, row.instance, row.attempt, entry.node, row.attached_at),
            *(entry.remote_address, entry.user_agent, row.resumes, row.tries),
            *(row.auth_hash, row.session_key_hash, row.id),
        )
        for row, entry in changed
    ]
    batch = Batch(using).update(Session, TAKEN, ("id",), rows, sets=RETURNED, where="id = {id}")
    batch.update(Session, ("told_at",), ("id",), told).run()
