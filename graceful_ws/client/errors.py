"""What a client raises.

GracefulError
    CircuitOpen          a request, and no endpoint works: nothing was sent
    RequestTimeout       a request had no outcome in time
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


class CircuitOpen(GracefulError):
    """Every endpoint has failed too often to be tried; one may be in ``retry_after`` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"no endpoint works; the next try is in {retry_after:.1f} s")
        self.retry_after = retry_after


class RequestTimeout(GracefulError, TimeoutError):
    """No outcome in time. ``sent`` False: it was taken back and will never be handled; True: it may
    have been, or may be still."""

    def __init__(self, timeout: float, sent: bool) -> None:
        outcome = "its outcome is unknown" if sent else "it was not sent"
        super().__init__(f"no answer within {timeout:g} s; {outcome}")
        self.sent = sent


class SessionLost(GracefulError):
    """The client is closed for good; ``code`` and ``reason`` are those of the last close."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{int(code)} {reason}".rstrip())
        self.code = int(code)
        self.reason = reason


class RetriesExhausted(SessionLost):
    """All tries to connect have failed, and the back-off says stop."""
