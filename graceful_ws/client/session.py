"""The client's half of the protocol: a session and the connections that carry it.

Everything that decides what is sent, sent again, delivered or dropped is here. Nothing reads a
clock or does I/O: ``now``, float seconds of one monotonic clock, goes in, and ``deadline`` says
when ``data_to_send`` has to be asked again.

    session = ClientSession()
    link = session.connect()                # one for each socket
    send(link.hello())
    for event in link.receive(text, now): ...
    for text in link.data_to_send(now): send(text)
    for event in link.closed(code, now): ...

A session has one current link, the one that was welcomed last. A link that is not current is
ignored unless it still waits for its welcome: so a second socket can be opened while the first one
works (make before break), and late events of an old socket change nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from graceful_ws.core import frames
from graceful_ws.core.close_codes import Advice, CloseCode, advice
from graceful_ws.core.frames import MAX_SEQ, ProtocolError, Welcome, message_frame
from graceful_ws.core.window import Pending, Position

from .events import (
    Event,
    GapTold,
    MessageNacked,
    MessageReceived,
    Outgoing,
    StreamTold,
    Track,
    Welcomed,
)
from .link import FRAME_BYTES, Link

MESSAGE_BYTES = 64 * 1024  # until a welcome says otherwise

REFUSED = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.POLICY_VIOLATION})
REFUSALS = 3  # so many of these in a row, and the hello itself must be what is wrong
POISON = frozenset({CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG})


class ClientSession:
    """One client object's session. ``token`` and ``last_seq`` go on with a session that an earlier
    client object had; its messages without an outcome are not known here and stay unknown."""

    def __init__(self, *, token: str | None = None, last_seq: int = 0) -> None:
        self.instance = secrets.token_urlsafe(12)
        self.attempt = 0
        self.last_welcomed = 0  # the attempt that was welcomed last
        self.token = token
        self.session_id: str | None = None
        self.node: str | None = None
        self.link: Link | None = None  # the current one
        self.unanswered: set[Link] = set()  # said hello, and are neither welcomed nor closed
        self.message_bytes = MESSAGE_BYTES
        self.pending = Pending()
        self.holding = False  # nothing new is sent: a successor is about to be dialled
        self.hold_until: float | None = None  # after a nack with retry
        self.replayed = 0
        self.resent = 0
        self.own = Track(Position(seq=last_seq), last_seq)
        self.streams: dict[str, Track] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._joined = False  # this instance has been welcomed to the session
        self._renumber = False  # numbers were given to messages that are not sent again
        self._refusals = 0
        self._expired: int | None = None  # a session was lost: what it would have sent next

    # --- the application's side ---------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """The number of the last message received in the session's own sequence."""
        return self.own.position.seq

    @property
    def waiting(self) -> int:
        """Messages whose outcome is not known."""
        return len(self._outgoing)

    @property
    def waiting_bytes(self) -> int:
        return sum(len(message.data) for message in self._outgoing.values())

    @property
    def quiet(self) -> bool:
        """True when nothing that was sent is unacknowledged."""
        first = next(iter(self.pending.items), None)
        return first is None or first > self.pending.sent

    def send(self, data: Any, tries: int | None = None) -> Outgoing:
        """Takes a message in; it travels when there is a connection and credit. After ``tries``
        nacks with retry it is given up; None: never.

        Raises ValueError for what the server would close the connection for: NaN, ill-formed
        Unicode, nested too deep, over ``message_bytes``; TypeError for what is not JSON.
        """
        return self.queue(self.encode(data), tries)

    def queue(self, text: str, tries: int | None = None) -> Outgoing:
        """Takes in what ``encode`` made; otherwise as ``send``."""
        seq = self.pending.add(text)
        message = self._outgoing[seq] = Outgoing(seq, text, tries)
        return message

    def withdraw(self, message: Outgoing) -> bool:
        """Takes a message back, so that it is never handled; its number goes to the next one.
        False when the server may have begun with it: its outcome is still to come."""
        waits = self._outgoing.get(message.seq) is message and message.seq > self.pending.sent
        if message.in_doubt or not waits:
            return False
        del self._outgoing[message.seq]
        self._move(self.pending.withdraw(message.seq))
        return True

    def _move(self, moved: dict[int, int]) -> None:
        """Messages have other numbers: old to new."""
        self._outgoing = {moved.get(seq, seq): each for seq, each in self._outgoing.items()}
        for seq, each in self._outgoing.items():
            each.seq = seq

    def volatile(self, data: Any) -> bool:
        """Sends a message that is not numbered and not kept; False when it was dropped for want
        of a connection. Raises as ``send`` does."""
        text = self.encode(data)
        if self.link is None:
            return False
        self.link.queue(frames.volatile_frame(text))
        return True

    def encode(self, data: Any) -> str:
        """``data`` as JSON text that the server takes; see ``send`` for what is raised."""
        text = frames.encode_data(data)
        self.check_size(text)
        try:
            frames.decode(message_frame(MAX_SEQ, text))
        except ProtocolError as error:
            raise ValueError(error.reason) from None
        return text

    def check_size(self, text: str) -> None:
        """Raises ValueError for encoded data over ``message_bytes``."""
        size = len(message_frame(MAX_SEQ, text).encode())
        if size > self.message_bytes:
            raise ValueError(f"{size} bytes with its frame, over message_bytes")

    def handed(self, message: MessageReceived, now: float) -> None:
        """The application has ``message``: only now may the server hear of it."""
        track = message.track
        if track is None or self._track(message.stream) is not track:
            return  # of a session that is lost, or from before a gap
        track.handed = max(track.handed, message.seq)
        if self.link is not None:
            self.link.handed(message.size, now)

    def forget(self, messages: Iterable[MessageReceived]) -> list[MessageReceived]:
        """Gives up messages that the application has not got: the server will send them again.
        Returns those that have to be kept. Only while there is no connection at all: a hello on its
        way has said that they were received."""
        assert self.link is None
        kept = [m for m in messages if m.track is None or self._track(m.stream) is not m.track]
        for track in (self.own, *self.streams.values()):
            track.position.seq = track.handed
        return kept

    def _track(self, stream: str | None) -> Track | None:
        return self.own if stream is None else self.streams.get(stream)

    # --- connections --------------------------------------------------------------------------

    def connect(self) -> Link:
        """A link for a new socket."""
        return Link(self)

    def hello(self, link: Link) -> str:
        """The first frame of ``link``. Each one outdates those before it."""
        self.unanswered.add(link)
        self.attempt += 1
        hello = frames.Hello(frames.VERSION, self.instance, self.attempt)
        if self.token is not None:
            hello.session_token = self.token
            hello.last_seq_id = self.own.position.seq
            hello.positions = {
                name: (track.position.epoch, track.position.seq)
                for name, track in self.streams.items()
                if track.position.epoch
            }
            if self._joined:
                # With nothing waiting too: the old connection may still work.
                hello.pending_from = next(iter(self.pending.items), self.pending.next_seq)
        return frames.encode(hello)

    def welcomed(self, link: Link, welcome: Welcome, streams: list[StreamTold]) -> list[Event]:
        """``link`` is the current one from here on; any other is ignored."""
        had_session = self._joined or link.had_token
        self.link = link
        self.unanswered.discard(link)
        self.last_welcomed = link.attempt
        self.holding = False
        self.hold_until = None
        self.session_id = welcome.session_id
        self.node = welcome.node
        self.token = welcome.session_token or (self.token if welcome.resumed else None)
        self._take_limits(welcome.limits)
        events: list[Event] = [Welcomed(welcome.resumed, welcome)]
        first = next(iter(self.pending.items), self.pending.next_seq)
        # A server that knows less than it has acknowledged was restored: go on from there.
        restored = first > welcome.last_client_seq + 1
        if welcome.resumed and self._joined and not self._renumber and not restored:
            # What is done stays until its result comes, in an ack right behind this welcome.
            self.pending.reconnected(welcome.last_client_seq)
        else:
            events += self._start_numbering(welcome.last_client_seq)
        if not welcome.resumed:
            first = self._expired or self.own.position.seq + 1
            self._reset()
            if had_session or self._expired is not None:
                events.append(GapTold("expired", None, first, None, 0))
                link.gap_told = True
        self._expired = None
        self._joined = True
        self._take_streams(streams)
        return events

    def _take_limits(self, limits: dict[str, int]) -> None:
        self.message_bytes = limits.get("message_bytes", self.message_bytes)
        pending = self.pending
        pending.max_messages = limits.get("unacked", pending.max_messages)
        if "unacked_bytes" in limits:
            # The server counts whole frames, and what Pending counts is the data in them.
            frames_bytes = FRAME_BYTES * pending.max_messages
            pending.max_bytes = max(1, limits["unacked_bytes"] - frames_bytes)

    def _take_streams(self, streams: list[StreamTold]) -> None:
        for name in self.streams.keys() - {told.name for told in streams}:
            del self.streams[name]
        for told in streams:
            if told.state == "gap" or (told.state == "new" and not self._is_ahead(told)):
                self.open_stream(told.name, told.epoch, told.head)
            elif told.state == "denied":
                self.streams.pop(told.name, None)

    def _is_ahead(self, told: StreamTold) -> bool:
        """The old connection brought the subscription, and messages, after the hello had left."""
        track = self.streams.get(told.name)
        if track is None or track.position.epoch != told.epoch:
            return False
        return track.position.seq >= told.head

    def _start_numbering(self, last_client_seq: int) -> list[Event]:
        """In a new session, as its new instance, or without messages that had numbers before."""
        events: list[Event] = []
        for seq in list(self.pending.items):
            try:
                self.check_size(self.pending.items[seq])
            except ValueError as error:
                events.append(self._fail(seq, "too_big", str(error)))
        self._move(self.pending.renumber(last_client_seq))
        self._renumber = False
        return events

    def _reset(self) -> None:
        self.own = Track(Position())
        self.streams = {}

    def open_stream(self, name: str, epoch: str | None, seq: int) -> Track:
        """A stream starts, or goes on, behind ``seq``; what was received before is history."""
        if epoch is None and name in self.streams:
            epoch = self.streams[name].position.epoch
        track = self.streams[name] = Track(Position(seq=seq, epoch=epoch or ""), seq)
        return track

    # --- outcomes -----------------------------------------------------------------------------

    def nacked(self, seq: int, *, begun: bool) -> None:
        """With retry: the server did nothing with what stood behind ``seq`` on this connection, and
        nothing with it either unless it had ``begun``. It all travels again."""
        for each in self._outgoing.values():
            if seq <= each.seq <= self.pending.sent:
                each.answered += each.seq != seq or not begun
                each.nacks += each.seq == seq
        self.pending.send_again(seq)

    def settle(self, seq: int) -> Outgoing | None:
        """``seq`` has its outcome; None when it was not waiting."""
        return self._outgoing.pop(seq, None)

    def message(self, seq: int) -> Outgoing | None:
        return self._outgoing.get(seq)

    def _fail(self, seq: int, code: str, detail: str) -> MessageNacked:
        self.pending.resolve(seq)
        message = self._outgoing.pop(seq)
        self._renumber = True
        return MessageNacked(seq, code, detail, False, None, message)

    def ended(self, link: Link, code: int) -> list[Event]:
        """``link`` is closed. Returns what became of messages by it."""
        current = link is self.link
        self.unanswered.discard(link)
        if current:
            self.link = None
        if not current and link.welcomed:
            return []  # an old socket
        events: list[Event] = []
        if code in REFUSED and link.said_hello:
            self._refusals += 1
        elif link.welcomed:
            self._refusals = 0
        if current and code in POISON:
            events += [
                self._fail(seq, "poison", f"in flight when the server closed {code}")
                for seq in list(self.pending.items)
                if seq <= self.pending.sent
            ]
        if advice(code) is Advice.NEW_SESSION or self._refusals >= REFUSALS:
            # Nothing else says that a token is worth nothing: it may be a deploy.
            self._lose_session()
            if code == CloseCode.OTHER_IDENTITY:
                # They were written by somebody else, and must not be sent in this one's name.
                events += [
                    self._fail(seq, "other_identity", "the session is somebody else's")
                    for seq in list(self.pending.items)
                ]
        return events

    def _lose_session(self) -> None:
        self._refusals = 0
        if self.token is not None or self._joined:
            self._expired = self.own.position.seq + 1
        self.token = None
        self._joined = False
        self.link = None  # also one that still works: what goes on there is another's
