"""``receive_in_transaction``: the handler, its client's number and its replies commit together.

Inside it nothing waits for the writer: on SQLite the handler holds the only write lock there is, so
that would always be a deadlock. What it sends is collected and written as its last step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from django.db import InterfaceError, OperationalError

from graceful_ws.core.frames import encode_data
from graceful_ws.store.base import (
    JournalUnavailable,
    forget_connection,
    is_conflict,
    is_locked,
    is_lost,
    writing,
)
from graceful_ws.store.rounds import claim

_local = threading.local()


class HandlerError(Exception):
    """The handler raised an error of a database that is there; everything was rolled back."""


class CommitUnknown(Exception):
    """The database connection broke; whether the transaction committed is not known."""


def collected() -> list[Any] | None:
    """The replies collected in this thread; None outside ``receive_in_transaction``."""
    return getattr(_local, "replies", None)


@contextmanager
def _collecting() -> Iterator[list[Any]]:
    replies: list[Any] = []
    _local.replies = replies
    try:
        yield replies
    finally:
        del _local.replies


def receive_in_transaction(
    consumer: Any, owner: tuple[int, int, int, int], content: Any
) -> tuple[int, list[str], str | None]:
    """Runs in a thread. ``owner`` is (session, generation, client_seq, outcomes kept). Returns the
    number of the first reply, the replies, and the outcome. Raises what the handler raises, Fenced
    when the number is no longer ours to take; in both cases nothing is kept."""
    session, generation, client_seq, keep = owner
    try:
        with _collecting() as replies:
            with writing(long=True):
                result = consumer.receive_in_transaction(content)
                outcome = None if result is None else encode_data({"result": result})
                first = claim(session, generation, client_seq, replies, outcome, keep)
            return first, replies, outcome
    except (OperationalError, InterfaceError) as error:
        if is_locked(error):
            raise
        if is_conflict(error):
            raise JournalUnavailable("it was in another's way, and rolled back") from error
        if not is_lost(error):
            raise HandlerError from error  # its own: a time limit, another database
        forget_connection()
        raise CommitUnknown from error


def decode_outcome(outcome: str) -> dict[str, Any]:
    """``{"result": …}`` or ``{"nack": {"code", "detail"}}`` as kept with a client's number."""
    decoded: dict[str, Any] = msgspec.json.decode(outcome)
    return decoded


def plain_transaction(consumer: Any, content: Any) -> list[str | bytes]:
    """The same for a plain client, which has no numbers: returns the replies, after the commit."""
    with _collecting() as replies, writing(long=True):
        consumer.receive_in_transaction(content)
    return replies
