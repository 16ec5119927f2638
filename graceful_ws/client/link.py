"""One connection of a session: what its frames mean, and what goes out on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from graceful_ws.core import frames
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import ProtocolError, message_frame
from graceful_ws.core.window import Position

from .events import (
    CloseNeeded,
    Draining,
    ErrorTold,
    Event,
    Exited,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    RoundTrip,
    StreamTold,
    Subscribed,
    Superseded,
    Track,
    Unsubscribed,
    VolatileReceived,
)

if TYPE_CHECKING:
    from .session import ClientSession

ACK_INTERVAL = 1.0  # seconds, messages, bytes: whichever comes first; and with every pong
ACK_MESSAGES = 50
ACK_BYTES = 64 * 1024
RETRY_FIRST = 0.05  # seconds; doubles with each nack of the same message
RETRY_MOST = 1.0
# What a server may ask for, in seconds.
MOST_RETRY_AFTER = 300.0
MOST_WINDOW = 60.0
MOST_NOTICE = 3600.0
MOST_SILENCE = 3600.0
BEFORE_WELCOME = frozenset({"welcome", "superseded", "error"})
FRAME_BYTES = 64  # at most so many around the data of a message


class Link:
    """Made by ``ClientSession.connect``, one for each socket, and never used for a second one."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self.welcomed = False
        self.said_hello = False
        self.had_token = False
        self.attempt = 0
        self.gap_told = False  # the loss of the session has been told already
        self.superseded_by_self = False
        self.silence: float | None = None  # seconds after which a silent server is gone
        self.away_until = 0.0  # the next try comes no sooner
        self.reconnect_window = 1.0  # seconds, until a welcome says
        self._head = 0
        self._seen: dict[str | None, int] = {}  # numbers that came on this link, copies too
        self._told: dict[str | None, int] = {}  # and those acknowledged on it
        self._frames: list[str] = []
        self._pings: list[int] = []  # of the server, to be answered
        self._ping_wanted = False
        self._pinged: tuple[int, float] | None = None  # the client's own: what it carried, when
        self._handed = 0
        self._handed_bytes = 0
        self._ack_due: float | None = None

    @property
    def is_current(self) -> bool:
        return self.session.link is self

    def hello(self) -> str:
        self.said_hello = True
        self.had_token = self.session.token is not None
        text = self.session.hello(self)
        self.attempt = self.session.attempt
        return text

    # --- in -----------------------------------------------------------------------------------

    def receive(self, text: str, now: float) -> list[Event]:
        """What one WebSocket message of the server means. After ``CloseNeeded`` nothing of the
        link counts."""
        events: list[Event] = []
        try:
            decoded = frames.decode_server(text)
            for kind, frame in decoded:
                if self.welcomed and not self.is_current:
                    return events
                if not self.welcomed and kind not in BEFORE_WELCOME:
                    continue
                if kind == "welcome":
                    events += self._welcome(frame)
                elif kind == "message":
                    events += self._message(frame, len(text) // len(decoded))
                elif kind == "nack":
                    events += self._nack(frame, now)
                elif kind == "pong":
                    events += self._pong(frame, now)
                elif kind == "error":
                    events += self._error(frame, now)
                elif kind in _HANDLERS:
                    events += _HANDLERS[kind](self, frame)
        except ProtocolError as error:
            events.append(CloseNeeded(CloseCode.SUSPENDED, error.reason))
        except (KeyError, TypeError, ValueError) as error:
            events.append(CloseNeeded(CloseCode.SUSPENDED, f"not a frame: {error!r}"))
        return events

    def _welcome(self, welcome: frames.Welcome) -> list[Event]:
        if self.welcomed:
            return []
        if self.session.last_welcomed > self.attempt:
            raise ProtocolError(CloseCode.SUSPENDED, "a later hello was welcomed before")
        beat = welcome.heartbeat
        silence = beat["interval"] + beat["timeout"] * beat["max_missed"]
        streams = [StreamTold.of(name, told) for name, told in welcome.streams.items()]
        # Nothing of it counts unless all of it can be read.
        self.welcomed = True
        self.silence = within(silence, MOST_SILENCE)
        self.reconnect_window = within(welcome.reconnect_window, MOST_WINDOW)
        self._head = welcome.head if welcome.resumed else 0
        return self.session.welcomed(self, welcome, streams)

    def _message(self, frame: dict[str, Any], size: int) -> list[Event]:
        session, data = self.session, frame["data"]
        seq, stream = frame["seq"], cast("str | None", frame.get("stream"))
        if type(seq) is not int:  # no text, no fraction, no truth
            raise ValueError(f"{seq!r} is no number of a message")
        track = session.own if stream is None else session.streams.get(stream)
        if stream is not None and track is None:
            # The subscription's own frame was lost with an earlier connection.
            track = session.open_stream(stream, None, seq - 1)
        self._seen[stream] = seq
        if stream is None and seq <= self._head:
            session.replayed += 1
        if track is None or not track.position.receive(seq):
            return []
        events: list[Event] = [MessageReceived(seq, stream, data, size, track)]
        if stream is not None and isinstance(data, dict) and data.get("type") == "client_exit":
            gone, cause = str(data.get("client_id")), str(data.get("cause"))
            events.append(Exited(stream, gone, cause, data.get("code"), data.get("user")))
        return events

    def _ack(self, frame: frames.Ack) -> list[Event]:
        events: list[Event] = []
        pending = self.session.pending
        for seq in pending.resolve_upto(min(frame.seq, pending.sent)):
            message = self.session.settle(seq)
            if message is not None:
                events.append(MessageAcknowledged(seq, frame.results.get(str(seq)), message))
        return events

    def _nack(self, frame: frames.Nack, now: float) -> list[Event]:
        session, seq = self.session, frame.seq
        message = session.message(seq)
        retry, retry_after = frame.retry, None
        if retry:
            session.nacked(seq, begun=frame.code == "interrupted")
            nacks = 0 if message is None else message.nacks - 1
            growing = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(nacks, 10))
            retry_after = max(growing, within((frame.retry_after or 0) / 1000, MOST_RETRY_AFTER))
            session.hold_until = now + retry_after
            if message is not None and message.is_spent and session.withdraw(message):
                retry, retry_after = False, None
        else:
            session.pending.resolve(seq)
            session.settle(seq)
        if message is None:
            return []
        return [MessageNacked(seq, frame.code, frame.detail, retry, retry_after, message)]

    def _gap(self, frame: frames.Gap) -> list[Event]:
        session, name = self.session, frame.stream
        if name is None and frame.reason == "expired" and self.gap_told:
            return []  # said with the welcome
        if name is None:
            session.own = Track(Position(seq=frame.head), frame.head)
        else:
            session.open_stream(name, frame.epoch, frame.head)
        self._seen[name] = self._told[name] = frame.head
        return [GapTold(frame.reason, name, frame.from_, frame.oldest, frame.head)]

    def _ping(self, frame: frames.Ping) -> list[Event]:
        self._pings.append(frame.sent_at)
        measured = frame.rtt is not None and 0 < frame.rtt < MOST_SILENCE
        return [RoundTrip(float(frame.rtt or 0), own=False)] if measured else []

    def _pong(self, frame: frames.ServerPong, now: float) -> list[Event]:
        if self._pinged is None or self._pinged[0] != frame.sent_at:
            return []
        pinged_at, self._pinged = self._pinged[1], None
        return [RoundTrip(now - pinged_at, own=True)]

    def _drain(self, frame: frames.Drain) -> list[Event]:
        close_in = within(frame.close_in / 1000, MOST_NOTICE)
        return [Draining(within(frame.reconnect_in / 1000, close_in), close_in, frame.reason)]

    def _superseded(self, frame: frames.Superseded) -> list[Event]:
        if frame.instance == self.session.instance:
            self.superseded_by_self = True  # by a hello of ours whose welcome did not come
            return []
        return [Superseded(frame.instance)]

    def _subscribed(self, frame: frames.Subscribed) -> list[Event]:
        self.session.open_stream(frame.stream, frame.epoch, frame.head)
        self._seen.pop(frame.stream, None)
        self._told.pop(frame.stream, None)
        return [Subscribed(frame.stream, frame.head)]

    def _unsubscribed(self, frame: frames.Unsubscribed) -> list[Event]:
        self.session.streams.pop(frame.stream, None)
        return [Unsubscribed(frame.stream)]

    def _error(self, frame: frames.Error, now: float) -> list[Event]:
        retry_after = None
        if frame.retry_after is not None:
            retry_after = within(frame.retry_after / 1000, MOST_RETRY_AFTER)
            self.away_until = now + retry_after
        return [ErrorTold(frame.code, frame.detail, frame.seq, retry_after)]

    def _volatile(self, frame: dict[str, Any]) -> list[Event]:
        return [VolatileReceived(frame["data"])]

    # --- out ----------------------------------------------------------------------------------

    def queue(self, frame: str) -> None:
        """Sends an encoded frame with the next ``data_to_send``."""
        self._frames.append(frame)

    def bye(self, reason: str = "") -> None:
        """Ends the session for good; the server answers with a close."""
        self.queue(frames.encode(frames.Bye(reason)))

    def ping(self) -> None:
        """Asks for a pong with the next ``data_to_send``; its round trip is told."""
        self._ping_wanted = True

    def handed(self, size: int, now: float) -> None:
        """The application took a message."""
        self._handed += 1
        self._handed_bytes += size
        if self._handed >= ACK_MESSAGES or self._handed_bytes >= ACK_BYTES:
            self._ack_due = now
        elif self._ack_due is None:
            self._ack_due = now + ACK_INTERVAL

    @property
    def deadline(self) -> float | None:
        """When ``data_to_send`` has something without anything else happening; None: never."""
        hold = self.session.hold_until if self.session.waiting else None
        times = [time for time in (self._ack_due, hold) if time is not None]
        return min(times, default=None)

    def data_to_send(self, now: float) -> list[str]:
        """The texts to send now, in order, one WebSocket message each. The server counts credit by
        WebSocket messages, so that numbered messages do not travel in arrays."""
        if not self.is_current:
            return []
        out = []
        for sent_at in self._pings:
            seq, streams = self._take_acks()
            out.append(frames.encode(frames.Pong(sent_at, seq, streams)))
        self._pings.clear()
        if self._ping_wanted:
            self._ping_wanted = False
            self._pinged = (int(now * 1000), now)
            out.append(frames.encode(frames.ClientPing(self._pinged[0])))
        if self._ack_due is not None and now >= self._ack_due:
            self._ack_due = now + ACK_INTERVAL  # if it may not be said now
            seq, streams = self._take_acks()
            if seq is not None or streams:
                out.append(frames.encode(frames.ClientAck(seq, streams)))
        out += self._messages(now)
        out += self._frames
        self._frames = []
        return out

    def _take_acks(self) -> tuple[int | None, dict[str, int]]:
        """What the application has and the server does not know yet. A server knows only what it
        sent on this link: what came on the one before is acknowledged when its copy comes. While
        another hello is on its way nothing is acknowledged: that one asks for what came since, and
        what is acknowledged may be deleted."""
        session = self.session
        if session.unanswered:
            return None, {}
        own: int | None = None
        streams: dict[str, int] = {}
        for name, seen in self._seen.items():
            track = session.own if name is None else session.streams.get(name)
            if track is None:
                continue
            seq = min(track.handed, seen)
            if seq > self._told.get(name, 0):
                self._told[name] = seq
                if name is None:
                    own = seq
                else:
                    streams[name] = seq
        self._handed = self._handed_bytes = 0
        self._ack_due = None
        return own, streams

    def _messages(self, now: float) -> list[str]:
        session = self.session
        if session.holding:
            return []
        if session.hold_until is not None:
            if now < session.hold_until:
                return []
            session.hold_until = None
        out = []
        for seq, data in session.pending.sendable():
            message = session.message(seq)
            if message is not None:
                message.sends += 1
                session.resent += message.sends > 1
            out.append(message_frame(seq, data))
        return out

    # --- the end ------------------------------------------------------------------------------

    def closed(self, code: int, now: float) -> list[Event]:
        """The socket is closed: with ``code`` as the server sent it, as this side did, or 1006."""
        return self.session.ended(self, code)


def within(value: float, most: float) -> float:
    """A server's word, as far as it is reasonable."""
    return min(max(float(value), 0.0), most)


_HANDLERS: dict[str, Callable[[Link, Any], list[Event]]] = {
    "ack": Link._ack,
    "gap": Link._gap,
    "ping": Link._ping,
    "drain": Link._drain,
    "superseded": Link._superseded,
    "subscribed": Link._subscribed,
    "unsubscribed": Link._unsubscribed,
    "volatile": Link._volatile,
}
