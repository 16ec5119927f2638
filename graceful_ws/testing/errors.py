"""What the testing helpers raise, besides ``Nacked`` of the client.

NotReady                 the test is not set up; the message has the remedy
Refused                  the handshake was refused
ConnectionEnded          there is no connection, so nothing can be waited for on it
"""

from __future__ import annotations

from collections.abc import Sequence


class NotReady(RuntimeError):
    """The test is not set up for it; the message says what to change."""


class Refused(ConnectionError):
    """The application answered the handshake with an HTTP status: 403 also for a plain
    ``websocket.close``, as servers make it. ``body`` is the response's text."""

    def __init__(
        self, status: int, body: str = "", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(f"HTTP {status} {body}".rstrip())
        self.status = status
        self.body = body
        self.headers = tuple(headers)


class ConnectionEnded(ConnectionError):
    """The connection has ended; ``code`` is 1006 where nobody said why."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed {int(code)} {reason}".rstrip())
        self.code = int(code)
        self.reason = reason
