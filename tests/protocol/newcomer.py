"""A client of ``graceful.v1`` by somebody who has read docs/protocol.md and nothing else of this
project. It imports nothing of it; what it does not do, the page's last table allows it to leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import time
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

Frame = dict[str, Any]
BREAKS = (OSError, WebSocketException, TimeoutError)


class Newcomer:
    """``received`` is the application: what stands there, in order, it has. ``hurry`` scales the
    delays between tries: 1 is what the page says."""

    def __init__(self, urls: list[str], hurry: float = 1.0) -> None:
        self.urls, self.hurry = urls, hurry
        self.instance, self.attempt, self.token = secrets.token_hex(16), 0, None
        self.received: list[Any] = []
        self.results: dict[int, Any] = {}
        self.failed: dict[int, str] = {}  # own messages that will not be handled, or not again
        self.gaps: list[Frame] = []
        self.copies, self.resumes, self.moves = 0, 0, 0
        self.closes: list[int] = []
        self.ws: ClientConnection | None = None  # the current connection
        self.url = self.session_id = ""
        self.waiting: dict[int, str] = {}  # number to frame, until the outcome is known
        self.next_seq = 1
        self._sent = 0  # the last one on its way on this connection
        self._greeting = self._holding = self._bye = False
        self._renumber = self._outran_itself = False
        self._position = 0  # the last of the session's messages that the application has
        self._seen = self._told = 0  # on this connection: come, and acknowledged
        self._not_before = 0.0
        self._welcome: Frame = {"reconnect_window": 1}
        self._first: dict[ClientConnection, list[Frame]] = {}  # frames behind a welcome
        self._wake, self._settled = asyncio.Event(), asyncio.Event()

    def send(self, data: Any) -> int:
        seq = self.next_seq
        self.next_seq += 1
        self.waiting[seq] = json.dumps({"type": "message", "seq": seq, "data": data})
        self._wake.set()
        return seq

    async def settled(self) -> None:
        while self.waiting:
            self._settled.clear()
            await self._settled.wait()

    async def bye(self) -> None:
        await self.settled()
        self._bye = True
        if self.ws is not None:
            await self.ws.send('{"type": "bye"}')

    # --- connections --------------------------------------------------------------------------

    async def run(self) -> int:
        """Keeps the session connected until ``bye``, or a close that says stop; its code."""
        tries = turn = 0
        while True:
            code, lived = 1006, None
            try:
                ws: ClientConnection | None = await self._open(self.urls[turn % len(self.urls)])
                since = time.monotonic()
                while ws is not None:
                    code = await self._serve(ws)
                    ws = self.ws if self.ws is not ws else None  # moved, or gone
                self.ws, lived = None, time.monotonic() - since
                self.closes.append(code)
            except BREAKS:
                pass
            if code == 4501 and self._outran_itself:
                code = 1006
            if self._bye or 3000 <= code <= 3999 or 4500 <= code <= 4999:
                return code
            if 4300 <= code <= 4399 or code == 4403:
                self.token = None
            if code in (1007, 1009, 4403):
                self._fail_all(code)
            tries = tries + 1 if lived is None else 0 if lived >= 5 else tries
            turn += 1
            spread = random.random() * max(1.0, self._welcome["reconnect_window"])
            await asyncio.sleep(self.hurry * (min(30, 2**tries) + spread))

    async def _open(self, url: str) -> ClientConnection:
        """A welcomed connection, which is the current one from here on."""
        options: dict[str, Any] = {"max_size": 16 * 1024 * 1024, "ping_interval": None}
        async with asyncio.timeout(10):
            ws = await connect(url, subprotocols=[Subprotocol("graceful.v1")], **options)
        try:
            if ws.subprotocol != "graceful.v1":
                raise OSError("not a server of this protocol")
            self.attempt += 1
            hello = {"type": "hello", "version": 1, "instance": self.instance}
            hello |= {"attempt": self.attempt, "session_token": self.token}
            if self.token is not None:
                hello |= {"last_seq_id": self._position}
                hello |= {"pending_from": min(self.waiting, default=self.next_seq)}
            self._greeting = True
            async with asyncio.timeout(15):
                await ws.send(json.dumps(hello))
                welcome, *rest = frames(await ws.recv())
        except BaseException:
            ws.transport.abort()
            raise
        finally:
            self._greeting = False
        self.resumes += welcome["resumed"]
        if not welcome["resumed"]:
            self.token, self._position = welcome["session_token"], 0
        if self._renumber or not welcome["resumed"]:
            waiting = [json.loads(text)["data"] for text in self.waiting.values()]
            self.waiting.clear()
            self.next_seq = welcome["last_client_seq"] + 1
            for data in waiting:
                self.send(data)
        self._welcome, self._first[ws] = welcome, rest
        self._sent = welcome["last_client_seq"]
        self._seen = self._told = self._position
        self._holding, self._not_before = False, 0.0
        self._renumber = self._outran_itself = False
        self.ws, self.url, self.session_id = ws, url, welcome["session_id"]
        return ws

    async def _serve(self, ws: ClientConnection) -> int:
        """Reads to the end of a connection; returns its close code."""
        sender, mover = asyncio.create_task(self._send_all(ws)), None
        beat = self._welcome["heartbeat"]
        silence = beat["interval"] + beat["max_missed"] * beat["timeout"]
        self._wake.set()
        came = self._first.pop(ws)
        try:
            while True:
                for frame in came:
                    if frame["type"] == "drain" and mover is None:
                        mover = asyncio.create_task(self._move(ws, frame))
                    elif self.ws is ws:
                        await self._take(ws, frame)
                try:
                    async with asyncio.timeout(silence):
                        came = frames(await ws.recv())
                except TimeoutError:
                    await leave(ws, 4001)
        except ConnectionClosed:
            return ws.close_code or 1006
        finally:
            sender.cancel()
            if mover is not None:  # its hello may be under way
                await asyncio.wait([mover], timeout=15)
                mover.cancel()

    async def _move(self, ws: ClientConnection, drain: Frame) -> None:
        """Make before break."""
        await asyncio.sleep(drain["reconnect_in"] / 1000)
        self._holding = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout((drain["close_in"] - drain["reconnect_in"]) / 1000 - 4):
                while min(self.waiting, default=self.next_seq) <= self._sent:
                    self._settled.clear()
                    await self._settled.wait()
        for url in [url for url in self.urls if url != self.url]:
            with contextlib.suppress(*BREAKS):
                await self._open(url)
                self.moves += 1
                await leave(ws, 4000)
                return
        self._holding = False
        self._wake.set()

    # --- frames -------------------------------------------------------------------------------

    async def _take(self, ws: ClientConnection, frame: Frame) -> None:
        match frame["type"]:
            case "message" if "stream" not in frame:
                await self._message(ws, frame)
            case "ping":
                pong = {"type": "pong", "sent_at": frame["sent_at"]}
                await ws.send(json.dumps(pong | self._acknowledged()))
            case "ack":
                for seq, result in frame.get("results", {}).items():
                    self.results[int(seq)] = result
                for seq in [seq for seq in self.waiting if seq <= frame["seq"]]:
                    self._settle(seq)
            case "nack" if frame.get("retry"):
                self._sent = frame["seq"] - 1
                self._not_before = time.monotonic() + (frame.get("retry_after") or 50) / 1000
                self._wake.set()
            case "nack":
                self.failed[frame["seq"]] = frame["code"]
                self._settle(frame["seq"])
            case "superseded":
                self._outran_itself = frame["instance"] == self.instance
            case "gap":
                self.gaps.append(frame)
                if frame.get("stream") is None:
                    self._position = self._seen = self._told = frame["head"]

    async def _message(self, ws: ClientConnection, frame: Frame) -> None:
        seq = frame["seq"]
        self._seen = max(self._seen, seq)
        if seq <= self._position:
            self.copies += 1
        elif seq > self._position + 1:
            await leave(ws, 4000)
        else:
            self._position = seq
            self.received.append(frame["data"])
            if seq - self._told >= 50 and (ack := self._acknowledged()):
                await ws.send(json.dumps({"type": "ack"} | ack))

    def _acknowledged(self) -> Frame:
        if self._greeting or self._told == min(self._position, self._seen):
            return {}
        self._told = min(self._position, self._seen)
        return {"seq": self._told}

    def _fail_all(self, code: int) -> None:
        """Poison, or written by somebody else: what was on its way; of the latter all."""
        for seq in [seq for seq in self.waiting if seq <= self._sent or code == 4403]:
            self.failed[seq] = f"closed {code}"
            self._settle(seq)
        self._renumber = True

    def _settle(self, seq: int) -> None:
        self.waiting.pop(seq, None)
        self._settled.set()
        self._wake.set()

    async def _send_all(self, ws: ClientConnection) -> None:
        limits = self._welcome["limits"]
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
                size = 0
                for count, (seq, text) in enumerate(list(self.waiting.items())):
                    size += len(text.encode())
                    if count and (count >= limits["unacked"] or size > limits["unacked_bytes"]):
                        break
                    if seq == self._sent + 1 and not self._holding and self.ws is ws:
                        self._sent = seq
                        await ws.send(text)


def frames(text: str | bytes) -> list[Frame]:
    value = json.loads(text)
    return value if isinstance(value, list) else [value]


async def leave(ws: ClientConnection, code: int) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await ws.close(code)
    ws.transport.abort()
