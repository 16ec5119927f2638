"""A hello on its way to a session, and what it got."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from .streams import Tip

NONE: Mapping[int, str] = MappingProxyType({})


class OtherIdentity(Exception):
    """The token belongs to a session of somebody else: close 4403."""


class StaleAttempt(Exception):
    """A later hello of the same client object has attached already: close 4104."""


class TooMany(Exception):
    """The user has as many attached sessions as ``connections_per_user`` allows: close 4503."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection speaks for; a token is worth nothing without the same one."""

    user_id: Any = None
    auth_hash: str = ""
    session_key_hash: str = ""  # of the login; a user's sessions outlive it until it is logged out
    former_hashes: tuple[str, ...] = ()  # auth hashes made with SECRET_KEY_FALLBACKS: as good
    checked: bool = False  # the user is one of the site's user model: its row says if it still may

    def owns(self, user_id: Any, auth_hash: str, session_key_hash: str) -> bool:
        """Whether what was begun by the one is the other's too: for a user, user and auth hash
        decide; an anonymous one is known by its Django session, where it has one."""
        if user_id != self.user_id:
            return False
        if auth_hash != self.auth_hash and auth_hash not in self.former_hashes:
            return False
        anonymous_key = session_key_hash if user_id is None else ""
        return not anonymous_key or anonymous_key == self.session_key_hash


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
    cause: str = ""  # of the absence that a resume ends
    taken_over: bool = False  # another instance owned the session before
    pending: bool = False  # something waits to be numbered
    outcomes: Mapping[int, str] = field(default_factory=lambda: NONE)
    subscriptions: Sequence[Followed] = ()
    told: Sequence[str] = ()  # streams that hear of a return of this round

    def is_told(self) -> None:
        """The welcome says it: thousands of connections need not keep it."""
        self.token = None
        self.outcomes, self.subscriptions, self.told = NONE, (), ()


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
