"""What a client raises.

GracefulError
    Nacked               the server did not handle a message, or does not know
    SessionLost          the client is closed, so the outcome of a message will not be known
        RetriesExhausted     when_exhausted="stop", and the tries are used up
"""

from __future__ import annotations


class GracefulError(Exception):
    """The root of what a client raises."""


class Nacked(GracefulError):
    """A message was not handled (``code``: error, timeout), it is not known whether it was
    (outcome_unknown, poison), or it was written under another identity (other_identity)."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class SessionLost(GracefulError):
    """The client is closed for good; ``code`` and ``reason`` are those of the last close."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{int(code)} {reason}".rstrip())
        self.code = int(code)
        self.reason = reason


class RetriesExhausted(SessionLost):
    """All tries to connect have failed, and the back-off says stop."""
