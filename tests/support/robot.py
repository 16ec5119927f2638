"""A client that keeps one session through everything, and remembers all that it was told."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.support.raw import WITHIN, Frame, dial, parse
from tests.support.waiting import eventually

TELL_EVERY = 16  # messages between two acks


class Robot:
    """Resumes at once after every disconnect, at the next of its URLs, and resends what was not
    acknowledged. With ``moves`` it obeys ``drain`` as a good client does: the new connection first.

    ``run`` must be running; ``robots`` runs several.
    """

    def __init__(self, urls: Sequence[str], *, moves: bool = False) -> None:
        self.urls = list(urls)
        self.moves = moves
        self.instance = uuid.uuid4().hex
        self.session_id = ""
        self.token: str | None = None
        self.received: list[Any] = []  # handed to the application, in order
        self.copies = 0  # messages dropped by number
        self.replayed = 0  # messages that were there before the welcome
        self.deaf = False  # what comes now never arrived; until the next connection
        self.resent = 0  # messages sent a second time
        self.resumed = 0
        self.refused = 0  # handshakes and hellos that came to nothing
        self.complaints: list[str] = []  # what must not happen: holes, gaps, lost sessions
        self.url = ""  # of the connection it has, or had last
        self.closes: Counter[int] = Counter()
        self.reasons: set[str] = set()
        self.results: dict[int, Any] = {}
        self.nacks: dict[int, str] = {}
        self.drains: list[Frame] = []
        self.last_seq = 0
        self.next_seq = 1
        self.pending: dict[int, Any] = {}
        self.stopped = False
        self.enough = False  # for whoever gives it messages
        self._attempt = 0
        self._head = 0
        self._told = 0
        self._sent = 0
        self._highest = 0
        self._credit = 64
        self._ws: ClientConnection | None = None
        self._moved: tuple[ClientConnection, list[Frame]] | None = None
        self._holding = False
        self._something = asyncio.Event()

    # --- what a test asks ---------------------------------------------------------------------

    def send(self, data: Any) -> int:
        """Give a message to the client; returns its number, by which its outcome is known."""
        seq = self.next_seq
        self.next_seq += 1
        self.pending[seq] = data
        self._something.set()
        return seq

    @property
    def connected(self) -> bool:
        return self._ws is not None

    async def settled(self, within: float = 30.0) -> None:
        """Until everything sent is acknowledged."""
        await eventually(
            lambda: not self.pending,
            within,
            f"acknowledged: {len(self.pending)} wait from {min(self.pending, default=None)},"
            f" closes {dict(self.closes)}",
        )

    def hang_up(self) -> None:
        """Lose the connection, and come again over another."""
        if self._ws is not None:
            self._ws.transport.abort()

    async def bye(self) -> None:
        """End the session for good."""
        self.stopped = True
        if self._ws is not None:
            with suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(WITHIN):
                    await self._ws.send('{"type":"bye"}')
                    await self._ws.wait_closed()

    # --- connections --------------------------------------------------------------------------

    async def run(self) -> None:
        turn = 0
        while not self.stopped:
            try:
                if self._moved is None:
                    self._moved = await self._open(self.urls[turn % len(self.urls)])
                ws, rest = self._moved
                self._moved = None
                await self._serve(ws, rest)
                if self._moved is None and not self.stopped:
                    self.closes[1006 if ws.close_code is None else ws.close_code] += 1
                    self.reasons.add(ws.close_reason or "")
            except (OSError, WebSocketException, TimeoutError):
                self.refused += 1
            turn += 1
            if self._moved is None:
                await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _open(self, url: str) -> tuple[ClientConnection, list[Frame]]:
        """A welcomed connection, and what came with the welcome."""
        ws = await dial(url)
        try:
            async with asyncio.timeout(WITHIN):
                self._attempt += 1
                hello = {"type": "hello", "version": 1, "instance": self.instance}
                hello |= {"attempt": self._attempt}
                if self.token is not None:
                    hello |= {"session_token": self.token, "last_seq_id": self.last_seq}
                    hello |= {"pending_from": min(self.pending, default=self.next_seq)}
                await ws.send(json.dumps(hello))
                welcome, *rest = parse(await ws.recv())
        except BaseException:
            ws.transport.abort()
            raise
        assert welcome["type"] == "welcome", welcome
        if self.token is None:
            self.token, self.session_id = welcome["session_token"], welcome["session_id"]
        elif welcome["resumed"]:
            self.resumed += 1
        else:
            self.complaints.append(f"the session was lost at {self.last_seq}")
            self.stopped = True
        self._credit = welcome["limits"]["unacked"]
        self._head = welcome["head"]
        self.url = url
        self._sent = welcome["last_client_seq"]
        return ws, rest

    async def _serve(self, ws: ClientConnection, rest: list[Frame]) -> None:
        self._ws, self._holding, self.deaf = ws, False, False
        sender = asyncio.create_task(self._send_all(ws))
        mover: asyncio.Task[None] | None = None
        self._something.set()
        try:
            while True:
                for frame in rest:
                    if frame["type"] == "drain":
                        self.drains.append(frame)
                        if self.moves and mover is None:
                            mover = asyncio.create_task(self._move(ws, frame))
                    elif self._ws is ws and not self.deaf:
                        await self._take(ws, frame)
                rest = parse(await ws.recv())
        except ConnectionClosed:
            pass
        finally:
            if self._ws is ws:
                self._ws = None
            sender.cancel()
            if mover is not None:
                await asyncio.wait([mover], timeout=WITHIN)
            ws.transport.abort()

    async def _move(self, ws: ClientConnection, drain: Frame) -> None:
        """Make before break: stop sending, let what is on its way be acknowledged, then go."""
        await asyncio.sleep(drain["reconnect_in"] / 1000)
        self._holding = True
        patience = max(0.0, (drain["close_in"] - drain["reconnect_in"]) / 1000 - 1)
        with suppress(AssertionError):
            await eventually(lambda: self._sent < min(self.pending, default=10**9), patience)
        for url in random.sample(self.urls, len(self.urls)):
            try:
                moved = await self._open(url)
            except (OSError, WebSocketException, TimeoutError):
                continue
            self._moved, self._ws = moved, None
            with suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(WITHIN):
                    await ws.close(1000)
            return
        self._holding = False
        self._something.set()

    # --- frames -------------------------------------------------------------------------------

    async def _take(self, ws: ClientConnection, frame: Frame) -> None:
        kind = frame["type"]
        if kind == "message":
            await self._message(ws, frame)
        elif kind == "ack":
            self.results |= {int(seq): result for seq, result in frame.get("results", {}).items()}
            self._settle(frame["seq"])
        elif kind == "nack" and frame.get("retry"):
            await asyncio.sleep(frame.get("retry_after", 0) / 1000)
            self._sent = frame["seq"] - 1
            self._something.set()
        elif kind == "nack":
            self.nacks[frame["seq"]] = frame["code"]
        elif kind == "ping":
            pong = {"type": "pong", "sent_at": frame["sent_at"], "seq": self.last_seq}
            self._told = self.last_seq
            await ws.send(json.dumps(pong))
        elif kind == "gap":
            self.complaints.append(f"gap {frame} at {self.last_seq}")
            self.last_seq = frame["head"]

    async def _message(self, ws: ClientConnection, frame: Frame) -> None:
        seq = frame["seq"]
        if seq <= self.last_seq:
            self.copies += 1
            return
        if seq != self.last_seq + 1:
            self.complaints.append(f"{seq} after {self.last_seq}")
        self.last_seq = seq
        self.replayed += seq <= self._head
        self.received.append(frame["data"])
        if seq - self._told >= TELL_EVERY:
            self._told = seq
            await ws.send(json.dumps({"type": "ack", "seq": seq}))

    def _settle(self, seq: int) -> None:
        for settled in [number for number in self.pending if number <= seq]:
            del self.pending[settled]
        self._something.set()

    async def _send_all(self, ws: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await self._something.wait()
                self._something.clear()
                for seq, data in list(self.pending.items()):
                    done = min(self.pending, default=self.next_seq) - 1
                    if self._holding or seq > done + self._credit:
                        break
                    if seq == self._sent + 1:
                        self._sent = seq
                        self.resent += seq <= self._highest
                        self._highest = max(self._highest, seq)
                        await ws.send(json.dumps({"type": "message", "seq": seq, "data": data}))


@asynccontextmanager
async def robots(
    count: int, urls: Sequence[str], *, moves: bool = False
) -> AsyncIterator[list[Robot]]:
    """So many robots, connected, each to the next URL at first; what one of them raises is raised
    here at the end."""
    starts = [n % len(urls) for n in range(count)]
    found = [Robot([*urls[start:], *urls[:start]], moves=moves) for start in starts]
    tasks = [asyncio.create_task(robot.run()) for robot in found]
    try:
        await eventually(lambda: all(robot.session_id for robot in found), 30, "all are welcomed")
        yield found
    finally:
        for robot in found:
            robot.stopped = True
        for task in tasks:
            if not task.done():
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
