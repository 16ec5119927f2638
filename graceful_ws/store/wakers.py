"""Who is told at once, in this process, that something was left in the database."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from typing import Protocol


class Waker(Protocol):
    """The nodes of this process; called in any thread. False when there is none that can act."""

    def published(self, stream: str) -> bool:
        """Messages of a stream (or for a user, ``user:…``) wait for their numbers."""

    def left(self, sessions: Iterable[tuple[int, uuid.UUID | None]]) -> bool:
        """Messages wait for sessions (primary keys, and the nodes they are attached to)."""

    def asked(self, nodes: Collection[uuid.UUID]) -> bool:
        """These nodes have something to see in the database."""


wakers: list[Waker] = []


def published(stream: str) -> bool:
    return any(waker.published(stream) for waker in wakers)


def asked(nodes: Collection[uuid.UUID]) -> bool:
    return any(waker.asked(nodes) for waker in wakers)


def left(sessions: Iterable[tuple[int, uuid.UUID | None]]) -> bool:
    found = list(sessions)
    return any(waker.left(found) for waker in wakers)
