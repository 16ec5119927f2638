"""The clients of a chaos run, and what each of them remembers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from graceful_ws.client import (
    Backoff,
    Event,
    GapTold,
    GracefulClient,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    RetryScheduled,
    SessionLost,
    StateChanged,
    Subscribed,
    Unsubscribed,
    Welcomed,
)
from tests.support.proxy import Direction, Proxy
from tests.system.chaos import halls
from tests.system.chaos.halls import Stay

WAITING = 40  # messages without an outcome; past it a visitor sends no others
QUIET = (MessageAcknowledged, StateChanged, RetryScheduled)
BACKOFF = Backoff(max_retries=6, base_delay=0.2, max_delay=1.0, parked_delay=1.5, min_uptime=2.0)


@dataclass
class Diary:
    """All that one client was told; ``rooms`` maps a room to its messages by number."""

    name: str
    atomic: bool  # its handlers are receive_in_transaction
    rooms: tuple[str, ...]
    session: str = ""
    own: list[tuple[int, Any]] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)  # heads when it subscribed
    streams: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    halls: dict[str, list[Stay]] = field(default_factory=dict)
    sent: int = 0  # numbers 1..sent were sent
    acked: dict[int, Any] = field(default_factory=dict)  # number: what its handler returned
    nacked: dict[int, str] = field(default_factory=dict)  # number: code, for good
    gaps: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)  # seconds before each new connection
    departure: str = ""  # empty: it stayed; bye, cut or swallow
    said_bye: bool = False  # and the server answered
    closes: Counter[int] = field(default_factory=Counter)
    events: list[str] = field(default_factory=list)  # for whoever looks for a reason
    resumes: int = 0
    replayed: int = 0
    resent: int = 0

    @property
    def stayed(self) -> bool:
        return not self.departure


class Visitor:
    """A client behind proxies of its own, one for each node. Use it as a context manager."""

    def __init__(
        self,
        name: str,
        rooms: Sequence[str],
        ports: Sequence[int],
        *,
        atomic: bool,
        halls: Sequence[str] = (),
        doorman_of: Sequence[str] = (),
    ) -> None:
        self.diary = Diary(name, atomic, tuple(rooms))
        self.subscribed = [*rooms, *doorman_of]  # from the beginning, and for good
        self.halls = list(halls)  # where it goes in and out
        self.proxies = [Proxy(port) for port in ports]
        self.enough = False
        self._stack = AsyncExitStack()
        self._heard = time.monotonic()
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for proxy in self.proxies:
            await self._stack.enter_async_context(proxy)
        diary = self.diary
        where = "/atomically/" if diary.atomic else "/plainly/"
        query = f"?name={diary.name}&rooms={','.join(self.subscribed)}"
        self.client = GracefulClient(
            [proxy.ws(where + query) for proxy in self.proxies],
            backoff=BACKOFF,
            open_timeout=4.0,
            welcome_timeout=6.0,
            on_event=self._hear,
            on_message=self._take,
            websockets={"compression": None},
        )
        self.client.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.gather(self._sending, return_exceptions=True)
            await self.client.suspend()
            for proxy in self.proxies:  # whoever was let in, and waits to be served, is gone
                await proxy.cut()
                proxy.resume()
            await asyncio.sleep(0.02)
        finally:
            await self._stack.aclose()

    # --- what it is told ----------------------------------------------------------------------

    def _take(self, message: MessageReceived) -> None:
        self._heard = time.monotonic()
        if message.stream is None:
            self.diary.own.append((message.seq, message.data))
        elif halls.is_hall(message.stream):
            halls.hear(self.diary, message.stream, message.seq, message.data)
        else:
            self.diary.streams.setdefault(message.stream, []).append((message.seq, message.data))

    def _hear(self, event: Event) -> None:
        diary, now = self.diary, time.monotonic()
        if not isinstance(event, QUIET):
            diary.events.append(f"{time.strftime('%H:%M:%S')} {event}")
        match event:
            case Welcomed(resumed=resumed, frame=frame):
                if resumed or diary.session:
                    diary.silences.append(now - self._heard)
                if diary.session and not resumed:
                    diary.troubles.append(f"lost its session {diary.session}")
                diary.session = frame.session_id
                diary.events.append(f"  by {frame.node}: {frame.streams}")
                self._follow(frame.streams)
            case Subscribed(stream=room, head=head):
                self._subscribed(room, head)
            case Unsubscribed(stream=room):
                self._unsubscribed(room)
            case GapTold(reason=reason, stream=stream):
                diary.gaps.append(f"{stream or 'its own sequence'}: {reason}")
            case MessageAcknowledged(result=result, message=message):
                diary.acked[json.loads(message.data)["n"]] = result
            case MessageNacked(retry=False, code=code, message=message):
                diary.nacked[json.loads(message.data)["n"]] = code
            case _:
                return
        self._heard = now

    def _follow(self, streams: dict[str, dict[str, Any]]) -> None:
        """What a welcome says of streams: those that it does not name are not followed."""
        for room, told in streams.items():
            if told.get("state") == "new" and halls.is_hall(room):
                halls.enter_again(self.diary, room, told["head"])
            elif told.get("state") == "new":
                self._subscribed(room, told["head"])
            elif told.get("state") != "resumed":
                self.diary.troubles.append(f"{room} is {told.get('state')} after a resume")
        for room in [*self.diary.starts, *self.diary.halls]:
            if room not in streams:
                self._unsubscribed(room)

    def _subscribed(self, room: str, head: int) -> None:
        if halls.is_hall(room):
            halls.enter(self.diary, room, head)
        else:
            self.diary.starts.setdefault(room, head)

    def _unsubscribed(self, room: str) -> None:
        if halls.is_hall(room):
            halls.leave(self.diary, room)
        else:
            self.diary.troubles.append(f"was unsubscribed from {room}")

    # --- what it does -------------------------------------------------------------------------

    def talk(self, rate: float) -> None:
        """Send numbered messages until ``enough``, a client's number of them a second."""
        self._sending = asyncio.create_task(self._talk(1 / rate))

    async def _talk(self, pause: float) -> None:
        while not self.enough:
            if self.client.session.waiting < WAITING:
                number = self.diary.sent + 1
                try:
                    message = {"n": number, **halls.order(number, self.halls)}
                    await self.client.send(message, wait=False)
                except SessionLost as error:
                    if self.diary.stayed:
                        self.diary.troubles.append(f"was closed for good: {error}")
                    return
                self.diary.sent = number
            await asyncio.sleep(pause)

    async def leave(self) -> None:
        """Says bye, if there is a connection to say it on."""
        self.enough = True
        self.diary.departure = "bye"
        heard = self.client.session.link is not None  # else there is nobody to say it to
        before = self.client.close_codes[1000]
        await self.client.close("leaving")
        self.diary.said_bye = heard and self.client.close_codes[1000] > before

    async def vanish(self, how: str) -> None:
        """Is never heard of again: ``cut`` resets the connection, ``swallow`` tells nobody."""
        self.enough = True
        self.diary.departure = how
        for proxy in self.proxies:
            if how == "cut":
                proxy.refuse()
                await proxy.cut()
            else:
                proxy.swallow()
        await self.client.suspend()

    async def cut(self, reset: bool) -> None:
        for proxy in self.proxies:
            await proxy.cut(reset=reset)

    def keep_away(self) -> None:
        """Until ``heal`` no connection is let in."""
        for proxy in self.proxies:
            proxy.refuse()

    def swallow(self, direction: Direction | None) -> None:
        for proxy in self.proxies:
            proxy.swallow(direction)

    def heal(self) -> None:
        if self.diary.stayed:
            for proxy in self.proxies:
                proxy.resume()

    def sum_up(self) -> Diary:
        """The diary, with what the client counted itself."""
        self.diary.closes = Counter(self.client.close_codes)
        self.diary.resumes = self.client.resumes
        self.diary.replayed = self.client.replayed
        self.diary.resent = self.client.resent
        return self.diary
