"""A client's session and what a server says to it, written out."""

from __future__ import annotations

import json
from typing import Any

from graceful_ws.client.events import Event, MessageReceived
from graceful_ws.client.link import Link
from graceful_ws.client.session import ClientSession
from graceful_ws.core import frames

T0 = 100.0


def welcome(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "session_id": "session",
        "session_token": "token",
        "resumed": False,
        "last_client_seq": 0,
        "head": 0,
        "heartbeat": {"interval": 5, "timeout": 3, "max_missed": 3},
        "resume_window": 3600.0,
        "reconnect_window": 5.0,
        "limits": {"message_bytes": 1000, "unacked": 64, "unacked_bytes": 256 * 1024},
        "streams": {},
        "node": "n",
    }
    return frames.encode(frames.Welcome(**{**fields, **changes}))


def message(seq: int, data: Any = None, stream: str | None = None) -> str:
    frame = {"type": "message", "seq": seq, "data": data}
    return json.dumps(frame if stream is None else {**frame, "stream": stream})


def joined(session: ClientSession, **changes: Any) -> Link:
    """A link of the session that has been welcomed."""
    link = session.connect()
    link.hello()
    link.receive(welcome(**changes), T0)
    return link


def sent(link: Link, now: float = T0) -> list[dict[str, Any]]:
    return [json.loads(text) for text in link.data_to_send(now)]


def take(session: ClientSession, events: list[Event], now: float = T0) -> list[Any]:
    """The application takes the messages; returns their data."""
    found = [event for event in events if isinstance(event, MessageReceived)]
    for event in found:
        session.handed(event, now)
    return [event.data for event in found]
