"""Close codes: one table of who sends a code and what a client does next (RFC 6455, 7.4).

Private codes go by range, so that an old client obeys a code that it has never seen:

* 41xx resume now (4106 alone: resume later)
* 42xx resume after back-off
* 43xx start a new session and reload state
* 44xx put the cause right (say hello in time, refresh credentials), then resume
* 45xx stop
* 3000-3999 and 46xx-49xx belong to the application: the session ends

1005, 1006 and 1015 are never sent; they only describe how a connection ended.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class CloseCode(IntEnum):
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    SUSPENDED = 4000
    SERVER_SILENT = 4001
    HEARTBEAT_LOST = 4102
    SLOW_CONSUMER = 4103
    RESYNC = 4104
    IDLE = 4105
    RECLAIMED = 4106
    LIMIT_EXCEEDED = 4201
    SESSION_EXPIRED = 4300
    STATE_INVALIDATED = 4301
    HELLO_TIMEOUT = 4400
    CREDENTIALS_EXPIRED = 4401
    OTHER_IDENTITY = 4403
    SUPERSEDED = 4501
    CONNECTION_LIMIT = 4503
    VERSION = 4505
    CLOSED_BY_OPERATOR = 4506
    ENDED_BY_APPLICATION = 4507


class Sender(StrEnum):
    SERVER = "server"
    CLIENT = "client"
    BOTH = "both"
    NOBODY = "nobody"


class Advice(StrEnum):
    """What a client does after a connection that ended with a code."""

    RESUME = "resume"  # at once, spread over the reconnect window
    PARK = "park"  # resume in the slow lane, or as soon as there is something to say
    BACK_OFF = "back_off"  # resume after the back-off of a failure
    NEW_SESSION = "new_session"  # drop the token, reload state
    REFRESH = "refresh"  # put the cause right, then resume
    STOP = "stop"  # report it and do not reconnect


class Meaning(NamedTuple):
    sender: Sender
    advice: Advice
    text: str


CLOSE_CODES: dict[CloseCode, Meaning] = {
    CloseCode.NORMAL: Meaning(
        Sender.BOTH,
        Advice.RESUME,
        "the answer to bye ends the session; without a bye the session can be resumed",
    ),
    CloseCode.GOING_AWAY: Meaning(
        Sender.BOTH, Advice.RESUME, "a page reload, or a server that stops without draining"
    ),
    CloseCode.PROTOCOL_ERROR: Meaning(
        Sender.BOTH, Advice.BACK_OFF, "a frame this protocol does not know, or out of order"
    ),
    CloseCode.UNSUPPORTED_DATA: Meaning(
        Sender.SERVER, Advice.BACK_OFF, "binary data to a consumer that speaks JSON"
    ),
    CloseCode.NO_STATUS: Meaning(
        Sender.NOBODY, Advice.BACK_OFF, "a close frame without a code was received"
    ),
    CloseCode.ABNORMAL: Meaning(
        Sender.NOBODY, Advice.BACK_OFF, "the connection was lost without a close frame"
    ),
    CloseCode.INVALID_DATA: Meaning(
        Sender.SERVER, Advice.BACK_OFF, "not JSON, not UTF-8, or nested too deep"
    ),
    CloseCode.POLICY_VIOLATION: Meaning(Sender.SERVER, Advice.BACK_OFF, "refused by a policy"),
    CloseCode.MESSAGE_TOO_BIG: Meaning(
        Sender.BOTH, Advice.BACK_OFF, "a message over message_bytes"
    ),
    CloseCode.INTERNAL_ERROR: Meaning(
        Sender.SERVER, Advice.BACK_OFF, "an error in the server or, with close_on_error, a handler"
    ),
    CloseCode.SERVICE_RESTART: Meaning(
        Sender.SERVER, Advice.RESUME, "the node drains: resume, here or elsewhere"
    ),
    CloseCode.TRY_AGAIN_LATER: Meaning(
        Sender.SERVER, Advice.BACK_OFF, "the node is overloaded or at a limit"
    ),
    CloseCode.SUSPENDED: Meaning(
        Sender.CLIENT, Advice.RESUME, "the client keeps its session: page hidden away, hole seen"
    ),
    CloseCode.SERVER_SILENT: Meaning(
        Sender.CLIENT, Advice.RESUME, "the client heard nothing from the server for too long"
    ),
    CloseCode.HEARTBEAT_LOST: Meaning(
        Sender.SERVER, Advice.RESUME, "nothing came back on max_missed pings in a row"
    ),
    CloseCode.SLOW_CONSUMER: Meaning(
        Sender.SERVER, Advice.RESUME, "the client took nothing for progress_timeout"
    ),
    CloseCode.RESYNC: Meaning(
        Sender.SERVER,
        Advice.RESUME,
        "a later hello has attached, or a resume came to nothing",
    ),
    CloseCode.IDLE: Meaning(
        Sender.SERVER, Advice.RESUME, "no application messages for idle_timeout"
    ),
    CloseCode.RECLAIMED: Meaning(
        Sender.SERVER, Advice.PARK, "an idle connection closed under memory pressure"
    ),
    CloseCode.LIMIT_EXCEEDED: Meaning(
        Sender.SERVER, Advice.BACK_OFF, "more messages unacknowledged, or faster, than allowed"
    ),
    CloseCode.SESSION_EXPIRED: Meaning(
        Sender.SERVER, Advice.NEW_SESSION, "the session is unknown or expired"
    ),
    CloseCode.STATE_INVALIDATED: Meaning(
        Sender.SERVER, Advice.NEW_SESSION, "the application asks its clients to start anew"
    ),
    CloseCode.HELLO_TIMEOUT: Meaning(
        Sender.SERVER, Advice.REFRESH, "no valid hello within connecting_timeout"
    ),
    CloseCode.CREDENTIALS_EXPIRED: Meaning(
        Sender.SERVER, Advice.REFRESH, "logged out, or the credentials ran out"
    ),
    CloseCode.OTHER_IDENTITY: Meaning(
        Sender.SERVER, Advice.NEW_SESSION, "the session belongs to another identity"
    ),
    CloseCode.SUPERSEDED: Meaning(
        Sender.SERVER, Advice.STOP, "another instance has taken the session over"
    ),
    CloseCode.CONNECTION_LIMIT: Meaning(
        Sender.SERVER, Advice.STOP, "too many connections of this user or address"
    ),
    CloseCode.VERSION: Meaning(
        Sender.SERVER, Advice.STOP, "the server does not speak the client's protocol version"
    ),
    CloseCode.CLOSED_BY_OPERATOR: Meaning(
        Sender.SERVER, Advice.STOP, "closed in the admin or by a command"
    ),
    CloseCode.ENDED_BY_APPLICATION: Meaning(
        Sender.SERVER, Advice.STOP, "the consumer called close()"
    ),
}

NEVER_SENT = frozenset({1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL, 1015})
MAX_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame carries at most 125 bytes


def advice(code: int) -> Advice:
    """What a client does after ``code``; codes it has never seen go by their range."""
    known = CLOSE_CODES.get(code)  # type: ignore[call-overload]
    if known is not None:
        return known.advice  # type: ignore[no-any-return]
    if 4100 <= code <= 4199:
        return Advice.RESUME
    if 4300 <= code <= 4399:
        return Advice.NEW_SESSION
    if 4400 <= code <= 4499:
        return Advice.REFRESH
    if 4500 <= code <= 4999 or 3000 <= code <= 3999:
        return Advice.STOP
    return Advice.BACK_OFF


def is_sendable(code: int) -> bool:
    """Registered codes that may appear in a close frame, and those of applications."""
    return (1000 <= code <= 1014 and code not in NEVER_SENT) or 3000 <= code <= 4999


def is_application_code(code: int) -> bool:
    """True for the codes a consumer may close with on its own account."""
    return 3000 <= code <= 3999 or 4600 <= code <= 4999


def plain_code(code: int) -> int:
    """The standard code that a plain client gets in place of a private one."""
    if code < 4000 or is_application_code(code):
        return code
    if code == CloseCode.ENDED_BY_APPLICATION:
        return CloseCode.NORMAL
    if 4100 <= code <= 4199:
        return CloseCode.TRY_AGAIN_LATER
    return CloseCode.POLICY_VIOLATION


def cut_reason(reason: str) -> str:
    """``reason`` without control characters, cut to 123 bytes of UTF-8 (RFC 6455, 5.5)."""
    if len(reason) <= MAX_REASON_BYTES and reason.isascii() and reason.isprintable():
        return reason  # as nearly always, and as for thousands at a drain
    clean = "".join(char if char.isprintable() else " " for char in reason)
    raw = clean.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return raw.decode("utf-8", "ignore")
