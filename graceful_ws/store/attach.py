"""Attaching a connection to its session: new, resumed or taken over, in one transaction a round."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q
from django.utils import timezone

from graceful_ws.models import InboundResult, Session, Subscription

from .base import execute_many, is_outage, locked_rows, writing
from .entries import Later
from .presence import come_back
from .streams import Tip, tips


class OtherIdentity(Exception):
    """The token belongs to a session of somebody else: close 4403."""


class StaleAttempt(Exception):
    """A later hello of the same client object has attached already: close 4104."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection speaks for; a token is worth nothing without the same one."""

    user_id: Any = None
    auth_hash: str = ""
    session_key_hash: str = ""

    def owns(self, session: Session) -> bool:
        if session.user_id != self.user_id or session.auth_hash != self.auth_hash:
            return False
        return not session.session_key_hash or session.session_key_hash == self.session_key_hash


@dataclass(frozen=True, slots=True)
class Perhaps:
    """What a round whose commit's answer was lost may have made of a hello."""

    at: datetime
    generation: int
    taken_over: bool


@dataclass(slots=True, eq=False)
class Attach:
    """A hello that waits for the writer; ``token`` is what the client sent, None for a new one."""

    node: uuid.UUID
    consumer: str
    identity: Identity
    instance: str
    attempt: int
    token: str | None = None
    last_seq_id: int | None = None
    positions: dict[str, tuple[str, int]] = field(default_factory=dict)
    pending_from: int | None = None
    resumable: bool = True
    resume_window: float = 3600.0
    remote_address: str = ""
    user_agent: str = ""
    new_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    perhaps: Perhaps | None = field(default=None, init=False)
    _before: Perhaps | None = field(default=None, init=False)

    def begin(self) -> None:
        """A transaction is about to try the hello."""
        self._before = self.perhaps

    def rolled_back(self) -> None:
        """This transaction certainly did not commit; the one before it still may have."""
        self.perhaps = self._before


@dataclass(slots=True)
class Attached:
    """What the connection needs to know of the session that it now owns."""

    session: int
    uuid: uuid.UUID
    token: str | None
    token_hash: bytes
    generation: int
    resumed: bool
    last_seq: int
    last_client_seq: int
    tries: int
    position: int  # where sending the session's own messages continues
    taken_over: bool = False  # another instance owned the session before
    outcomes: dict[int, str] = field(default_factory=dict)
    subscriptions: list[Followed] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # streams that hear of a return of this round


@dataclass(frozen=True, slots=True)
class Followed:
    """A stream that a resumed session follows: what it has of it, and where the stream stands."""

    stream: str
    epoch: str
    from_seq: int
    acked_seq: int
    tip: Tip | None  # None: the stream was cleared away


def hash_token(token: str) -> bytes:
    """SHA-256 of a token; the token itself is stored and logged nowhere."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def attach(entries: Sequence[Attach]) -> list[Any]:
    """One transaction for many hellos. Returns, one by one, Attached or the OtherIdentity,
    StaleAttempt or Later that befell it. A resume reads and never consumes: the same hello may
    come again until one of its welcomes arrives."""
    outcomes: list[Any] = []
    now = timezone.now()
    for entry in entries:
        entry.begin()
    with writing() as using:
        sessions = Session.objects.using(using.alias)
        hashes = {entry: hash_token(entry.token) for entry in entries if entry.token}
        # A commit whose answer was lost may already have made the session of a new_token.
        fresh = {entry: hash_token(entry.new_token) for entry in entries}
        wanted = [*hashes.values(), *fresh.values()]
        found = {
            bytes(session.token_hash or b""): session
            for session in locked_rows(sessions.filter(token_hash__in=wanted), skip_locked=True)
        }
        missing = set(hashes.values()) - found.keys()
        locked = {
            bytes(value or b"")
            for value in sessions.filter(token_hash__in=missing).values_list(
                "token_hash", flat=True
            )
        }
        created: list[Session] = []
        changed: dict[int, Session] = {}
        for entry in entries:
            token_hash = hashes.get(entry)
            if token_hash in locked:
                outcomes.append(Later())
                continue
            made = found.get(fresh[entry])
            if made is not None and made.state == Session.State.ENDED:
                outcomes.append(StaleAttempt())  # ended before its client heard of it
                continue
            session = made or (found.get(token_hash) if token_hash else None)
            if made is None and session is not None and not _alive(session, entry, now):
                session = None
            if session is None:
                session = _new(entry, fresh[entry], now)
                created.append(session)
                entry.perhaps = Perhaps(now, session.generation, taken_over=False)
                outcomes.append(_Taken(entry, session, session.generation))
                continue
            try:
                taken_over = _take(session, entry, now)
            except (OtherIdentity, StaleAttempt) as error:
                outcomes.append(error)
                continue
            changed[session.pk] = session
            entry.perhaps = Perhaps(session.attached_at, session.generation, taken_over)
            outcomes.append(_Taken(entry, session, session.generation, made is None, taken_over))
        sessions.bulk_create(created)
        execute_many(
            using,
            f"UPDATE {Session._meta.db_table} SET {', '.join(f'{name}=%s' for name in TAKEN)}"
            " WHERE id=%s",
            [(*(getattr(row, name) for name in TAKEN), row.pk) for row in changed.values()],
        )
        taken = [outcome for outcome in outcomes if isinstance(outcome, _Taken)]
        extras = _extras([one for one in taken if one.resumed], using.alias)
        away = [(row.pk, row.uuid, row.user_id) for row in changed.values() if not row.present]
        extras["told"] = come_back(using.alias, away)
        return [
            _attached(outcome, extras) if isinstance(outcome, _Taken) else outcome
            for outcome in outcomes
        ]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A hello and the session it got. Its generation is kept apart: a later hello of the same
    round may take the row further."""

    entry: Attach
    session: Session
    generation: int
    resumed: bool = False
    taken_over: bool = False


def attach_all(entries: Sequence[Attach]) -> list[Any]:
    """``attach``; when one hello's data is refused, each for itself."""
    try:
        return attach(entries)
    except Exception as error:
        if is_outage(error):
            return [error] * len(entries)
        for entry in entries:
            entry.rolled_back()
        if len(entries) == 1:
            return [error]
        return [outcome for entry in entries for outcome in attach_all([entry])]


CONDITIONS = 200  # in one query; SQLite's parser refuses a thousand

TAKEN = (
    *("generation", "instance", "attempt", "node_id", "state", "attached_at", "seen_at"),
    *("left_at", "remote_address", "user_agent", "resumes", "tries"),
    *("close_code", "close_reason", "cause"),
)


def _alive(session: Session, entry: Attach, now: datetime) -> bool:
    """An unknown, an ended and an expired session all get the same answer: a new session."""
    if session.state == Session.State.ENDED or session.consumer != entry.consumer:
        return False
    if not session.resumable:
        return False
    left = session.left_at
    return left is None or left + timedelta(seconds=entry.resume_window) >= now


def _new(entry: Attach, token_hash: bytes, now: datetime) -> Session:
    return Session(
        uuid=uuid.uuid4(),
        token_hash=token_hash,
        consumer=entry.consumer,
        user_id=entry.identity.user_id,
        auth_hash=entry.identity.auth_hash,
        session_key_hash=entry.identity.session_key_hash,
        node_id=entry.node,
        instance=entry.instance,
        attempt=entry.attempt,
        resumable=entry.resumable,
        started_at=now,
        attached_at=now,
        seen_at=now,
        remote_address=entry.remote_address,
        user_agent=entry.user_agent,
    )


def _take(session: Session, entry: Attach, now: datetime) -> bool:
    """Makes ``entry`` the owner. True when another instance was it before."""
    if not entry.identity.owns(session):
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
    session.generation += 1
    session.instance = entry.instance
    session.attempt = entry.attempt
    session.node_id = entry.node
    session.state = Session.State.ATTACHED
    session.attached_at = session.seen_at = now
    session.left_at = None
    session.remote_address = entry.remote_address
    session.user_agent = entry.user_agent
    session.resumes += 1
    session.close_code = None
    session.close_reason = session.cause = ""
    if other:
        session.tries = 0  # its pending messages are "outcome unknown"; numbers go on
    return other


def _extras(resumed: list[_Taken], using: str) -> dict[str, Any]:
    """What resumed sessions need beside their row, in one query a table."""
    extras: dict[str, Any] = {"outcomes": {}, "subscriptions": {}}
    if not resumed:
        return extras
    ids = [one.session.pk for one in resumed]
    asked = [
        Q(session_id=one.session.pk, client_seq__gte=one.entry.pending_from)
        for one in resumed
        if one.entry.pending_from is not None
        and one.entry.pending_from <= one.session.last_client_seq
    ]
    results = InboundResult.objects.using(using).order_by("client_seq")
    for start in range(0, len(asked), CONDITIONS):
        for row in results.filter(reduce(or_, asked[start : start + CONDITIONS])):
            extras["outcomes"].setdefault(row.session_id, {})[row.client_seq] = row.outcome
    rows = Subscription.objects.using(using).filter(session_id__in=ids).order_by("pk")
    subscriptions = list(rows)
    now = tips(sorted({sub.stream for sub in subscriptions}))
    for sub in subscriptions:
        extras["subscriptions"].setdefault(sub.session_id, []).append(
            Followed(sub.stream, sub.epoch, sub.from_seq, sub.acked_seq, now.get(sub.stream))
        )
    return extras


def _attached(taken: _Taken, extras: dict[str, Any]) -> Attached:
    entry, session = taken.entry, taken.session
    position = session.acked_seq if entry.last_seq_id is None else entry.last_seq_id
    if not taken.taken_over:
        # A hello may be older than the last acknowledgement over the connection before it.
        position = max(position, session.acked_seq)
    return Attached(
        session=session.pk,
        uuid=session.uuid,
        token=None if taken.resumed else entry.new_token,
        token_hash=bytes(session.token_hash or b""),
        generation=taken.generation,
        resumed=taken.resumed,
        last_seq=session.last_seq,
        last_client_seq=session.last_client_seq,
        tries=session.tries,
        position=position if taken.resumed else 0,
        taken_over=taken.taken_over,
        outcomes=extras["outcomes"].get(session.pk, {}),
        subscriptions=extras["subscriptions"].get(session.pk, []),
        told=extras["told"],
    )
