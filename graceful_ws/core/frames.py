"""The wire: subprotocol ``graceful.v1``, JSON text frames (docs/protocol.md).

One frame is an object with a ``type``; several frames that wait travel as one JSON array of at
most ``MAX_ARRAY`` objects. Unknown keys are ignored on both sides, unknown server types by clients.
Durations on the wire are milliseconds where the name says ``_in`` or ``_after`` or ``sent_at``,
seconds in ``heartbeat`` and the windows of ``welcome``; sizes are bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from .close_codes import CloseCode

SUBPROTOCOL = "graceful.v1"
VERSION = 1
MAX_ARRAY = 64
MAX_DEPTH = 64
MAX_SEQ = 2**53 - 1  # larger numbers are not exact in JavaScript


class ProtocolError(Exception):
    """The peer broke the protocol; ``code`` and ``reason`` are what it is closed with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{int(code)} {reason}")
        self.code = int(code)
        self.reason = reason


class Frame(msgspec.Struct, tag_field="type", omit_defaults=True):
    """A frame in either direction; the tag is its ``type``."""

    TYPE: ClassVar[str]


# --- client to server -------------------------------------------------------------------------


class Hello(Frame, tag="hello"):
    version: int
    instance: str
    attempt: int
    session_token: str | None = None
    last_seq_id: int | None = None
    positions: dict[str, tuple[str, int]] = {}
    pending_from: int | None = None


class ClientMessage(Frame, tag="message"):
    seq: int
    data: Any


class ClientAck(Frame, tag="ack"):
    seq: int | None = None
    streams: dict[str, int] = {}


class Pong(Frame, tag="pong"):
    sent_at: int
    seq: int | None = None
    streams: dict[str, int] = {}


class ClientPing(Frame, tag="ping"):
    """Answered at once. ``sent_at`` is the client's own clock; nobody else reads it."""

    sent_at: int


class ClientVolatile(Frame, tag="volatile"):
    data: Any


class Bye(Frame, tag="bye"):
    reason: str = ""


ClientFrame = Hello | ClientMessage | ClientAck | Pong | ClientPing | ClientVolatile | Bye

# --- server to client -------------------------------------------------------------------------


class Welcome(Frame, tag="welcome", omit_defaults=False):
    session_id: str
    session_token: str | None
    resumed: bool
    last_client_seq: int
    head: int
    heartbeat: dict[str, float]
    resume_window: float
    reconnect_window: float
    limits: dict[str, int]
    streams: dict[str, dict[str, Any]]
    node: str
    version: int = VERSION


class Ack(Frame, tag="ack"):
    seq: int
    results: dict[str, Any] = {}


class Nack(Frame, tag="nack"):
    seq: int
    code: str
    detail: str = ""
    retry: bool = False
    retry_after: int | None = None


class Gap(Frame, tag="gap"):
    reason: str
    head: int
    stream: str | None = None
    from_: int | None = msgspec.field(default=None, name="from")
    oldest: int | None = None
    epoch: str | None = None


class Ping(Frame, tag="ping"):
    sent_at: int
    rtt: float | None = None


class ServerPong(Frame, tag="pong"):
    sent_at: int


class Subscribed(Frame, tag="subscribed"):
    stream: str
    epoch: str
    head: int


class Unsubscribed(Frame, tag="unsubscribed"):
    stream: str


class Drain(Frame, tag="drain"):
    reconnect_in: int
    close_in: int
    reason: str = ""


class Superseded(Frame, tag="superseded"):
    instance: str


class Error(Frame, tag="error"):
    """What is wrong; a close mostly follows. ``retry_after`` (ms) is how long to stay away then."""

    code: str
    detail: str = ""
    seq: int | None = None
    retry_after: int | None = None


ServerFrame = (
    Welcome
    | Ack
    | Nack
    | Gap
    | Ping
    | ServerPong
    | Subscribed
    | Unsubscribed
    | Drain
    | Superseded
    | Error
)

# --- coding -----------------------------------------------------------------------------------

_decoder: msgspec.json.Decoder[ClientFrame | list[ClientFrame]] = msgspec.json.Decoder(
    ClientFrame | list[ClientFrame]
)
_encoder = msgspec.json.Encoder()
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_SERVER_TYPES: dict[str, type[Any]] = {
    "welcome": Welcome,
    "ack": Ack,
    "nack": Nack,
    "gap": Gap,
    "ping": Ping,
    "pong": ServerPong,
    "subscribed": Subscribed,
    "unsubscribed": Unsubscribed,
    "drain": Drain,
    "superseded": Superseded,
    "error": Error,
}


def decode(text: str) -> list[ClientFrame]:
    """The frames of one WebSocket message from a client, in order.

    Raises ProtocolError 1007 for what is not JSON or nested past 64, 1002 for JSON that is not
    one to 64 frames of this protocol.
    """
    _check_depth(text)
    try:
        frames = _decoder.decode(text)
    except msgspec.ValidationError as error:
        decode_plain(text)  # a wrong type may stand before what is not JSON at all
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"not a frame: {error}") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ProtocolError(CloseCode.INVALID_DATA, f"not JSON: {error}") from None
    if not isinstance(frames, list):
        return [frames]
    if not 1 <= len(frames) <= MAX_ARRAY:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"an array holds 1 to {MAX_ARRAY} frames")
    return frames


def decode_plain(text: str) -> Any:
    """The JSON value of a plain client's message; raises ProtocolError 1007."""
    _check_depth(text)
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ProtocolError(CloseCode.INVALID_DATA, f"not JSON: {error}") from None


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return  # cannot be deeper than it has brackets
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    if deepest > MAX_DEPTH:
        raise ProtocolError(CloseCode.INVALID_DATA, f"nested deeper than {MAX_DEPTH}")


def encode(frame: Frame) -> str:
    """A control frame as text."""
    return _encoder.encode(frame).decode()


def encode_data(data: Any) -> str:
    """``data`` as strict JSON text, as it is journaled, sent and replayed.

    Raises ValueError for NaN, infinities and lone surrogates (a browser could not read them, at
    every replay) and TypeError for what JSON has no form for.
    """
    try:
        text = _strict(data)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not well-formed Unicode: {error}") from None
    except RecursionError:
        raise ValueError("nested too deep or circular") from None
    return text


def check_data(text: str) -> str:
    """``text`` if it is strict JSON; raises ValueError otherwise. For text from elsewhere."""
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"not strict JSON: {error}") from None
    return text


def check_text(text: str) -> str:
    """``text`` if it is one, which UTF-8 can carry; raises ValueError for lone surrogates."""
    if not text.isascii():
        text.encode()
    return text


def message_frame(seq: int, data: str) -> str:
    """The frame of a session's own message: replay and live are built here, and look the same."""
    return f'{{"type":"message","seq":{seq},"data":{data}}}'


def stream_frame(stream: str, seq: int, data: str) -> str:
    """The frame of a stream's message; ``stream`` is the name as encoded JSON text."""
    return f'{{"type":"message","stream":{stream},"seq":{seq},"data":{data}}}'


def volatile_frame(data: str) -> str:
    return f'{{"type":"volatile","data":{data}}}'


def join(frames: Sequence[Any]) -> Any:
    """Several encoded frames as the text of one WebSocket message; one alone, which may be a plain
    client's bytes, as it is."""
    return frames[0] if len(frames) == 1 else "[" + ",".join(frames) + "]"


def wire(data: str | bytes) -> bytes:
    """A whole unmasked WebSocket message in one frame, text or binary (RFC 6455, 5.2)."""
    first, payload = (b"\x81", data.encode()) if isinstance(data, str) else (b"\x82", data)
    size = len(payload)
    if size < 126:
        return first + size.to_bytes(1) + payload
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2) + payload
    return first + b"\x7f" + size.to_bytes(8) + payload


def decode_server(text: str) -> list[tuple[str, Any]]:
    """What a client reads: ``(type, frame)`` pairs, unknown types left out.

    ``message`` and ``volatile`` come as dicts. Raises ProtocolError 1007.
    """
    try:
        value = msgspec.json.decode(text)
        frames = value if isinstance(value, list) else [value]
        found = []
        for frame in frames:
            kind = frame["type"]
            if kind in ("message", "volatile"):
                found.append((kind, frame))
            elif kind in _SERVER_TYPES:
                found.append((kind, msgspec.convert(frame, _SERVER_TYPES[kind])))
        return found
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError, KeyError, TypeError) as error:
        raise ProtocolError(CloseCode.INVALID_DATA, f"unreadable: {error!r}") from None
