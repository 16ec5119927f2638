"""What a terminal says of the events of a client: short lines for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from graceful_ws.core.close_codes import CLOSE_CODES, advice, is_application_code

from .connection import GracefulClient
from .events import (
    Disconnected,
    Draining,
    ErrorTold,
    Event,
    Exited,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    RetryScheduled,
    StateChanged,
    Subscribed,
    Superseded,
    Unsubscribed,
    Welcomed,
)


def as_json(event: Event) -> dict[str, Any]:
    """An event for machines: ``type`` is its name, as in message_received."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    shown = [field.name for field in dataclasses.fields(event) if field.repr]
    return {"type": kind, **{name: getattr(event, name) for name in shown}}


def meaning(code: int, reason: str) -> str:
    """A close code, and what it means: "1012, the node drains: resume, here or elsewhere"."""
    known = CLOSE_CODES.get(code)  # type: ignore[call-overload]
    if known is not None:
        text = known.text
    elif is_application_code(code):
        text = "a code of the application's own"
    else:
        text = f"a code that this client does not know; it goes by its range: {advice(code)}"
    said = f" ({reason})" if reason and reason not in text and text not in reason else ""
    return f"{int(code)}, {text}{said}"


def as_text(data: Any) -> str:
    """Data in one line, without what a terminal would obey."""
    if isinstance(data, str) and data.isprintable():
        return data
    text = json.dumps(data, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(data)


def describe(event: Event, client: GracefulClient, was_connected: bool) -> str:
    """A short line; "" for what needs none."""
    match event:
        case StateChanged(new="connecting"):
            return "connecting"
        case Welcomed(resumed=resumed):
            how = "resumed" if resumed else "connected, new session"
            return f"{how} {client.session_id} at {client.endpoint} (node {client.node})"
        case Disconnected(code=code, reason=reason, final=final):
            if final:
                return f"closed for good: {meaning(code, reason)}"
            if not was_connected:
                return f"not connected: {reason or meaning(code, '')}"
            return f"connection ended: {meaning(code, reason)}"
        case RetryScheduled(attempt=attempt, delay=delay):
            return f"{client.state}: try {attempt + 1} in {delay:.1f} s"
        case Draining(reconnect_in=reconnect, close_in=close, reason=reason):
            said = f" ({reason})" if reason else ""
            return (
                f"the server drains{said}: moves in {reconnect:.1f} s, it closes in {close:.0f} s"
            )
        case GapTold(reason=reason, stream=stream):
            return f"GAP: messages of {stream or 'the session'} are missing ({reason})"
        case MessageAcknowledged(result=result) if result is not None:
            return f"= {as_text(result)}"
        case MessageNacked(seq=seq, code=code_, detail=detail, retry=retry):
            again = ", it is sent again" if retry else ""
            return f"message {seq} was not handled: {code_} {detail}{again}"
        case Subscribed(stream=stream):
            return f"subscribed to {stream}"
        case Unsubscribed(stream=stream):
            return f"no longer subscribed to {stream}"
        case Exited(stream=stream, client_id=gone, cause=cause):
            return f"{gone} has left {stream} ({cause})"
        case ErrorTold(code=code_, detail=detail):
            return f"error: {code_} {detail}"
        case Superseded():
            return "another client has taken the session over"
        case _:
            return ""
