"""Streams: what ``publish`` leaves, how it is numbered, and how it is read.

A publisher inserts its message without a number and takes no lock. Once its transaction has
committed, whoever comes first gives the numbers: the publisher's process, a node that hears of it,
or any node's look for what was left.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from graceful_ws.models import Stream, StreamMessage

from .base import alias, begin, connection, writing
from .sql import Batch, insert_many, read, select, update_many

NAME_BYTES = 100
RESERVED = ("session:", "user:", "graceful_ws.")
LIVE = "graceful_ws.live"  # figures of nodes, for the live dashboard

BATCH = 500  # messages numbered in one transaction
WAITING = 5000  # messages without a number that one look sees
NAMES = 500  # streams asked for in one query


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a stream stands. Two numbers are comparable within one ``epoch`` only."""

    epoch: str
    head: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """What one transaction has numbered, from ``first`` on, in order."""

    stream: str
    epoch: str
    first: int
    data: list[str]

    @property
    def head(self) -> int:
        return self.first + len(self.data) - 1


def check_name(name: str, declared: Collection[str] = ()) -> str:
    """``name`` if an application may use it for a stream: text of 1 to 100 bytes in UTF-8. Raises
    ValueError, TypeError for what is no text. ``LIVE`` is only for a class that has ``declared``
    it."""
    if not isinstance(name, str):
        raise TypeError(f"a stream's name is text, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a stream's name is well-formed Unicode, not {name!r}") from None
    if not 1 <= size <= NAME_BYTES:
        raise ValueError(f"a stream's name has 1 to {NAME_BYTES} bytes, {name[:40]!r} has {size}")
    if "\0" in name:
        raise ValueError(f"a stream's name has no NUL character: {name!r}")
    if name.startswith(RESERVED) and not (name == LIVE and name in declared):
        raise ValueError(f"{name!r}: names that begin with {', '.join(RESERVED)} are reserved")
    return name


def hash_name(name: str) -> bytes:
    """What a stream is found by: a collation without case would merge two rooms."""
    return hashlib.sha256(name.encode()).digest()


def _hashed(using: BaseDatabaseWrapper, name: str) -> Any:
    return using.Database.Binary(hash_name(name))  # type: ignore[attr-defined]


def new_epoch() -> str:
    return secrets.token_urlsafe(8)


# What a message without a number consists of.
MESSAGE = ("uuid", "stream", "seq", "data", "created_at")


def fresh(name: str, data: str, now: datetime) -> tuple[uuid.UUID, str, None, str, datetime]:
    """A message without a number, not written yet: values of ``MESSAGE``."""
    return uuid.uuid4(), name, None, data, now


def message(name: str, data: str) -> StreamMessage:
    """A message without a number, not saved yet."""
    return StreamMessage(uuid=uuid.uuid4(), stream=name, data=data, created_at=timezone.now())


def leave(name: str, data: str) -> None:
    """Keeps a message for a stream, in the caller's transaction if there is one; takes no lock."""
    using = connection()
    # As a model's save() does it: an error ends the caller's transaction.
    with transaction.mark_for_rollback_on_error(using.alias):
        insert_many(using, StreamMessage, MESSAGE, [fresh(name, data, timezone.now())])


def waiting() -> list[str]:
    """Streams in which something waits for its number; not all of them when very much does."""
    rows = StreamMessage.objects.using(alias()).filter(seq__isnull=True)
    # By the index of what waits. With DISTINCT, SQLite reads another one from end to end.
    names = rows.order_by("stream", "pk").values_list("stream", flat=True)
    return list(dict.fromkeys(names[:WAITING]))


def number(name: str) -> Numbered | None:
    """Numbers what waits in one stream, at most ``BATCH``, in the order of the inserts; None when
    nothing does.

    The stream's row is locked first, and what waits is read by a statement of its own: one that
    had waited for the lock would still see what its snapshot saw, and number it again.
    """
    with writing(joined=True) as using:
        pk, epoch, head = _locked(using, name)
        waits = "WHERE stream = %s AND seq IS NULL ORDER BY id"
        found = read(using, StreamMessage, ("id", "data"), f"{waits} LIMIT {BATCH}", [name])
        if not found:
            return None
        first, head = head + 1, head + len(found)
        batch = Batch(using)
        seqs = [(seq, row[0]) for seq, row in enumerate(found, first)]
        batch.update(StreamMessage, ("seq",), ("id",), seqs)
        batch.update(Stream, ("head", "used_at"), ("id",), [(head, timezone.now(), pk)])
        batch.run(last=True)
        return Numbered(name, epoch, first, [data for _, data in found])


def _locked(using: BaseDatabaseWrapper, name: str) -> tuple[int, str, int]:
    """The stream's row, locked, as (primary key, epoch, head); made if it is missing. Waits for
    whoever numbers it: skipping it would leave what was inserted meanwhile to nobody."""
    lock = "FOR NO KEY UPDATE" if using.vendor == "postgresql" else ""
    sql = f"SELECT id, epoch, head FROM {Stream._meta.db_table} WHERE name_hash = %s {lock}"
    hashed = [_hashed(using, name)]
    rows = select(using, begin(using) + sql, hashed)
    if not rows:
        _create(using, [name])
        rows = select(using, sql, hashed)
    pk, epoch, head = rows[0]
    if head == 0:  # it may have been cleared away once; what has a number keeps it
        last = f"SELECT MAX(seq) FROM {StreamMessage._meta.db_table} WHERE stream = %s"
        head = select(using, last, [name])[0][0] or 0
    return pk, epoch, head


def _create(using: BaseDatabaseWrapper, names: Iterable[str]) -> None:
    """In one order everywhere: two that insert the same names wait for each other in one row."""
    now = timezone.now()
    Stream.objects.using(using.alias).bulk_create(
        [
            Stream(name_hash=hash_name(name), name=name, epoch=new_epoch(), used_at=now)
            for name in sorted(names)
        ],
        ignore_conflicts=True,
    )


def tips(names: Sequence[str]) -> dict[str, Tip]:
    """Where streams stand; those that do not exist are left out."""
    using = connection()
    found: dict[str, Tip] = {}
    for start in range(0, len(names), NAMES):
        hashes = [_hashed(using, name) for name in names[start : start + NAMES]]
        where = f"WHERE name_hash IN ({', '.join(['%s'] * len(hashes))})"
        rows = read(using, Stream, ("name", "epoch", "head"), where, hashes)
        found.update({name: Tip(epoch, head) for name, epoch, head in rows})
    return found


def create(names: Sequence[str]) -> None:
    """Makes the rows of streams that do not exist yet."""
    missing = set(names) - tips(names).keys()
    if missing:
        with writing() as using:
            _create(using, missing)


def page(name: str, after: int, rows: int) -> list[tuple[int, str]]:
    """A stream's messages behind ``after``, in order: ``(seq, data)``."""
    where = "WHERE stream = %s AND seq > %s ORDER BY seq LIMIT %s"
    return read(connection(), StreamMessage, ("seq", "data"), where, [name, after, rows])


def rotate(name: str, epoch: str | None) -> None:
    """The numbers of a stream mean something else from here on, if its epoch is this one yet."""
    streams = Stream.objects.using(alias())
    streams.filter(name_hash=hash_name(name), epoch=epoch).update(epoch=new_epoch())


def rotate_if_behind(name: str, epoch: str, seen: int) -> None:
    """A node has seen number ``seen`` in a stream whose head is below it now: the database was
    restored to an older state. From here on its numbers mean something else."""
    streams = Stream.objects.using(alias())
    streams.filter(name_hash=hash_name(name), epoch=epoch, head__lt=seen).update(epoch=new_epoch())


def rotate_all() -> int:
    """Gives every stream a new epoch, as after a restore from a backup; returns how many. Numbers
    go on from where they stand."""
    count = 0
    last = 0
    while True:
        with writing() as using:
            rows = Stream.objects.using(using.alias).filter(pk__gt=last).order_by("pk")
            ids = list(rows.values_list("pk", flat=True)[:BATCH])
            if not ids:
                return count
            update_many(using, Stream, ("epoch",), ("id",), [(new_epoch(), pk) for pk in ids])
        last = ids[-1]
        count += len(ids)
