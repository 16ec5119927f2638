"""Attaching a connection to its session: new, resumed or taken over, in one transaction a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from graceful_ws.models import InboundResult, OutboundMessage, Session, Subscription

from . import sessions
from .base import is_outage, writing
from .entries import Later
from .hello import (
    NONE,
    Attach,
    Attached,
    Followed,
    Identity,
    OtherIdentity,
    Perhaps,
    StaleAttempt,
    TooMany,
    hash_token,
)
from .presence import come_back
from .sessions import Owned
from .sql import among, read, select
from .streams import tips

__all__ = [
    "Attach",
    "Attached",
    "Followed",
    "Identity",
    "OtherIdentity",
    "Perhaps",
    "StaleAttempt",
    "TooMany",
    "attach",
    "attach_all",
    "hash_token",
]

ON_PURPOSE = ("bye", "closed", "credentials")  # causes of an end that a client is told of anyway
CONDITIONS = 200  # in one query; SQLite's parser refuses a thousand


@dataclass(frozen=True, slots=True)
class _Taken:
    """A hello and the session it got. Its generation is kept apart: a later hello of the same
    round may take the row further."""

    entry: Attach
    session: Owned
    generation: int
    resumed: bool = False
    taken_over: bool = False


def attach(entries: Sequence[Attach]) -> list[Any]:
    """One transaction for many hellos. Returns, one by one, Attached or the OtherIdentity,
    StaleAttempt, TooMany or Later that befell it. A resume reads and never consumes: the same hello
    may come again until one of its welcomes arrives."""
    outcomes: list[Any] = []
    now = timezone.now()
    hashes = {entry: hash_token(entry.token) for entry in entries if entry.token}
    # A commit whose answer was lost may already have made the session of a new_token.
    made = {entry: hash_token(entry.new_token) for entry in entries if entry.perhaps is not None}
    for entry in entries:
        entry.begin()
    wanted = {*hashes.values(), *made.values()}
    with writing() as using:
        found = sessions.locked(using, wanted)
        elsewhere = sessions.existing(using, set(hashes.values()).difference(found))
        seats = sessions.Seats(using, entries)
        ids = sessions.public_ids()
        changed: dict[int, tuple[Owned, Attach]] = {}
        told: list[tuple[datetime, int]] = []  # hear that everything is missing
        for entry in entries:
            token_hash = hashes.get(entry)
            if token_hash in elsewhere:
                outcomes.append(Later())
                continue
            session = mine = found.get(made[entry]) if entry in made else None
            if mine is not None and mine.state == Session.State.ENDED:
                outcomes.append(StaleAttempt())  # ended before its client heard of it
                continue
            if mine is None and token_hash is not None:
                session = found.get(token_hash)
                if session is not None and not _alive(session, entry, now):
                    if _owed(session, entry):
                        told.append((now, session.id))
                    session = None
            if session is None:
                if seats.taken(entry):
                    outcomes.append(TooMany())
                    continue
                session = sessions.new(entry, now, next(ids))
                entry.perhaps = Perhaps(now, session.generation, taken_over=False)
                outcomes.append(_Taken(entry, session, session.generation))
                continue
            before = session.generation
            try:
                taken_over = _take(session, entry, now, seats)
            except (OtherIdentity, StaleAttempt, TooMany) as error:
                outcomes.append(error)
                continue
            if session.generation != before:
                changed[session.id] = session, entry
            entry.perhaps = Perhaps(session.attached_at, session.generation, taken_over)
            outcomes.append(_Taken(entry, session, session.generation, mine is None, taken_over))
        taken = [outcome for outcome in outcomes if isinstance(outcome, _Taken)]
        sessions.insert(using, [(one.session, one.entry) for one in taken if not one.session.id])
        sessions.update(using, changed.values(), told)
        extras = _extras(using, [one for one in taken if one.resumed])
        away = [(row.id, row.uuid, row.user_id) for row, _ in changed.values() if not row.present]
        extras.told = come_back(using, away)
        return [
            _attached(outcome, extras) if isinstance(outcome, _Taken) else outcome
            for outcome in outcomes
        ]


def attach_all(entries: Sequence[Attach]) -> list[Any]:
    """``attach``; when one hello's data is refused, the others without it: they are cut in halves
    until the culprit stands alone and gets its error."""
    try:
        return attach(entries)
    except Exception as error:
        if is_outage(error):
            return [error] * len(entries)
        for entry in entries:
            entry.rolled_back()
        if len(entries) == 1:
            return [error]
    middle = len(entries) // 2
    return [*attach_all(entries[:middle]), *attach_all(entries[middle:])]


# --- rules ----------------------------------------------------------------------------------------


def _alive(session: Owned, entry: Attach, now: datetime) -> bool:
    """An unknown, an ended and an expired session all get the same answer: a new session."""
    if session.state == Session.State.ENDED or session.consumer != entry.consumer:
        return False
    if not session.resumable:
        return False
    left = session.left_at
    return left is None or left + timedelta(seconds=entry.resume_window) >= now


def _owed(session: Owned, entry: Attach) -> bool:
    """Whether its client now hears that everything is missing: what ended on purpose owes nothing,
    and what another consumer may yet resume is not over."""
    over = session.resumable and session.consumer == entry.consumer
    return over and session.cause not in ON_PURPOSE and session.owned_by(entry.identity)


def _take(session: Owned, entry: Attach, now: datetime, seats: sessions.Seats) -> bool:
    """Makes ``entry`` the owner. True when another instance was it before."""
    if not session.owned_by(entry.identity):
        raise OtherIdentity
    other = session.instance != entry.instance
    if not other and entry.attempt <= session.attempt:
        mine = entry.perhaps
        # The attempt alone proves nothing: the same hello may have come by another socket.
        if mine is None or (mine.at, entry.attempt) != (session.attached_at, session.attempt):
            raise StaleAttempt
        other = mine.taken_over
        if mine.generation == session.generation:
            return other  # our own commit, whose answer was lost
    if session.state != Session.State.ATTACHED and seats.taken(entry):
        raise TooMany
    session.generation += 1
    session.instance = entry.instance
    session.attempt = entry.attempt
    session.state = Session.State.ATTACHED
    if session.user_id is not None:  # over this login from now on
        who = entry.identity
        session.auth_hash, session.session_key_hash = who.auth_hash, who.session_key_hash
    session.attached_at = now
    session.left_at = None
    session.resumes += 1
    if other:
        session.tries = 0  # its pending messages are "outcome unknown"; numbers go on
    return other


def _attached(taken: _Taken, extras: _Extras) -> Attached:
    entry, session = taken.entry, taken.session
    position = session.acked_seq if entry.last_seq_id is None else entry.last_seq_id
    if not taken.taken_over:
        # A hello may be older than the last acknowledgement over the connection before it.
        position = max(position, session.acked_seq)
    return Attached(
        session=session.id,
        uuid=session.uuid,
        token=None if taken.resumed else entry.new_token,
        token_hash=session.token_hash,
        generation=taken.generation,
        resumed=taken.resumed,
        last_seq=session.last_seq,
        last_client_seq=session.last_client_seq,
        tries=session.tries,
        position=position if taken.resumed else 0,
        cause=session.cause if taken.resumed else "",
        taken_over=taken.taken_over,
        pending=session.id in extras.pending,
        outcomes=extras.outcomes.get(session.id, NONE),
        subscriptions=extras.subscriptions.get(session.id, ()),
        told=extras.told,
    )


# --- queries --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Extras:
    """What resumed sessions need beside their row, by primary key."""

    outcomes: dict[int, dict[int, str]] = field(default_factory=dict)
    subscriptions: dict[int, list[Followed]] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)


def _extras(using: BaseDatabaseWrapper, resumed: Sequence[_Taken]) -> _Extras:
    """In one query a table."""
    extras = _Extras()
    if not resumed:
        return extras
    asked = [
        f"(session_id = {one.session.id:d} AND client_seq >= {one.entry.pending_from:d})"
        for one in resumed
        if one.entry.pending_from is not None
        and one.entry.pending_from <= one.session.last_client_seq
    ]
    for start in range(0, len(asked), CONDITIONS):
        where = f"WHERE {' OR '.join(asked[start : start + CONDITIONS])} ORDER BY client_seq"
        found = read(using, InboundResult, ("session_id", "client_seq", "outcome"), where)
        for session, client_seq, outcome in found:
            extras.outcomes.setdefault(session, {})[client_seq] = outcome
    one_of, params = among(using, {one.session.id for one in resumed})
    waiting = f"SELECT session_id FROM {OutboundMessage._meta.db_table} WHERE seq IS NULL"
    extras.pending = {pk for (pk,) in select(using, f"{waiting} AND session_id{one_of}", params)}
    columns = ("session_id", "stream", "epoch", "from_seq", "acked_seq")
    where = f"WHERE session_id{one_of} ORDER BY id"
    followed = read(using, Subscription, columns, where, params)
    now = tips(sorted({stream for _, stream, *_ in followed}))
    for session, stream, epoch, first, acked in followed:
        one = Followed(stream, epoch, first, acked, now.get(stream))
        extras.subscriptions.setdefault(session, []).append(one)
    return extras
