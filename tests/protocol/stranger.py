"""A small client by somebody who has read docs/protocol.md and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

OPTIONS: dict[str, Any] = {"ping_interval": None, "close_timeout": 1, "max_size": 2**24}


class Leave(Exception):
    """Close the connection with this code, and resume."""


class Stranger:
    """One session over many connections; ``unit`` is the first delay before a try, in s."""

    def __init__(self, urls: list[str], heard: Callable[..., None], unit: float = 1.0) -> None:
        self.urls, self.heard, self.unit, self.instance = urls, heard, unit, secrets.token_hex(8)
        self.at = self.attempt = self.position = self.sent = self.unacked = 0
        self.token: str | None = None
        self.streams: dict[str, list[Any]] = {}  # stream to [epoch, position]
        self.own: dict[int, tuple[Any, asyncio.Future[Any]]] = {}  # messages without an outcome
        self.got: dict[str | None, int] = {}  # came on this connection, not yet acknowledged
        self.next, self.window, self.least, self.latest = 1, 1.0, 0.0, 0.0
        self.asking = self.waiting = self.leaving = False
        self.ws: ClientConnection | None = None
        self.welcomes, self.codes, self.gaps, self.sendings = [], [], [], []  # for the curious
        self.wake, self.tasks = asyncio.Event(), set[asyncio.Task[Any]]()
        self.running = self.start(self.run())

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def __aenter__(self) -> Stranger:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def say(self, type: str, **fields: Any) -> None:
        if self.ws:  # the library writes in the order of the calls
            self.start(self.ws.send(json.dumps({"type": type, **fields})))

    def send(self, data: Any) -> asyncio.Future[Any]:
        """Number and keep it; the future has what its handler returned, or raises its nack."""
        future = asyncio.get_running_loop().create_future()
        self.own[self.next], self.next = (data, future), self.next + 1
        self.pump()
        return future

    async def bye(self) -> None:
        await asyncio.gather(*(future for _, future in self.own.values()), return_exceptions=True)
        self.leaving = True
        self.say("bye")
        await self.running

    def pump(self, go_on: bool = False) -> None:
        self.waiting = self.waiting and not go_on
        for seq in sorted(seq for seq in self.own if seq > self.sent):
            if self.ws is None or self.waiting or sum(s < seq for s in self.own) >= self.credit:
                return
            self.sent = seq
            self.sendings.append(seq)
            self.say("message", seq=seq, data=self.own[seq][0])

    def settle(self, seq: int, result: Any = None, nack: str | None = None) -> None:
        _, future = self.own.pop(seq, (None, None))  # an outcome may come twice
        if future and not future.done():
            future.set_exception(RuntimeError(nack)) if nack else future.set_result(result)

    def ack(self, type: str = "ack", **fields: Any) -> None:
        if self.got and not self.asking:
            fields |= {"seq": self.got.pop(None, None), "streams": self.got}
            self.got, self.unacked = {}, 0
        if fields:
            self.say(type, **fields)

    def take(self, frame: dict[str, Any]) -> None:
        """Do what a frame asks; ``Leave`` with the code to close with."""
        stream, seq, later = frame.get("stream"), frame.get("seq", 0), asyncio.get_running_loop()
        match frame["type"]:
            case "message":
                known = self.streams.setdefault(stream, [None, seq - 1]) if stream else [None, 0]
                position = known[1] if stream else self.position
                if seq > position + 1:
                    raise Leave(4000)
                if seq == position + 1:
                    known[1], self.position = seq, self.position if stream else seq
                    self.heard(stream, seq, frame["data"])
                self.got[stream], self.unacked = seq, self.unacked + 1  # copies count
                if self.unacked >= 50:
                    self.ack()
                elif self.unacked == 1:
                    later.call_later(1, self.ack)
            case "ack":
                for number in [number for number in self.own if number <= seq]:
                    self.settle(number, frame.get("results", {}).get(str(number)))
                self.pump()
            case "nack" if frame.get("retry"):
                self.sent, self.waiting = seq - 1, True
                later.call_later((frame.get("retry_after") or 1000) / 1000, self.pump, True)
            case "nack":
                self.settle(seq, nack=frame["code"])
            case "gap" | "subscribed":
                self.gaps += [frame] if frame["type"] == "gap" else []
                if stream:
                    self.streams[stream] = [frame["epoch"], frame["head"]]
                else:
                    self.position = frame["head"]
            case "unsubscribed":
                self.streams.pop(stream, None)
            case "ping":
                self.ack("pong", sent_at=frame["sent_at"])
            case "drain":
                self.latest = time.monotonic() + frame["close_in"] / 1000 - 4
                slot = frame["reconnect_in"] / 1000
                later.call_later(slot, lambda ws=self.ws: ws is self.ws and self.wake.set())
            case "superseded" if frame["instance"] == self.instance:
                raise Leave(4000)

    async def open(self) -> int:
        """0 when welcomed, else the close code, 1006 for none."""
        self.least = 0.0
        try:
            url = self.urls[self.at % len(self.urls)]
            ws = await connect(url, subprotocols=["graceful.v1"], **OPTIONS)
        except InvalidStatus as refusal:
            self.least = float(refusal.response.headers.get("Retry-After", 0))
            return 1006
        except (OSError, WebSocketException):
            return 1006
        if ws.subprotocol != "graceful.v1":
            self.start(ws.close())
            return 1013
        self.attempt, self.asking = self.attempt + 1, True
        hello = {"version": 1, "instance": self.instance, "attempt": self.attempt}
        if self.token:
            hello |= {"session_token": self.token, "last_seq_id": self.position}
            hello |= {"pending_from": min(self.own, default=self.next)}
            hello |= {"positions": {s: at for s, at in self.streams.items() if at[0]}}
        try:
            async with asyncio.timeout(15):
                await ws.send(json.dumps({"type": "hello", **hello}))
                welcome, *behind = frames_of(await ws.recv())
        except (ConnectionClosed, TimeoutError):
            self.start(ws.close(4001))
            return ws.close_code or 4001
        finally:
            self.asking = False
        if self.ws:
            self.start(self.ws.close(4000))
        self.ws, self.sent, self.got, self.unacked = ws, welcome["last_client_seq"], {}, 0
        limits, self.window = welcome["limits"], welcome["reconnect_window"]
        self.credit = max(
            1, min(limits["unacked"], limits["unacked_bytes"] // limits["message_bytes"])
        )
        known, self.streams = self.streams, {}
        for name, on in welcome["streams"].items():
            epoch, number = known.get(name, [None, 0])
            more = max(on.get("head", 0), number if epoch == on.get("epoch") else 0)
            position = {"resumed": number, "new": more, "gap": on.get("head")}.get(on["state"])
            if position is not None:
                self.streams[name] = [on["epoch"], position]
        if not welcome["resumed"]:
            self.token, self.position = welcome["session_token"], 0
            self.own = dict(enumerate(self.own.values(), self.sent + 1))
            self.next = self.sent + len(self.own) + 1
        self.welcomes.append(url)
        self.wake.clear()
        self.start(self.read(ws, behind, welcome["heartbeat"]))
        self.pump(True)
        if self.leaving:
            self.say("bye")
        return 0

    async def read(self, ws: ClientConnection, frames: list[Any], heart: dict[str, Any]) -> None:
        try:
            while ws is self.ws:  # from the next welcome on nothing that comes here counts
                for frame in frames:
                    self.take(frame)
                async with asyncio.timeout(
                    heart["interval"] + heart["max_missed"] * heart["timeout"]
                ):
                    frames = frames_of(await ws.recv())
        except ConnectionClosed:
            code = ws.close_code or 1006
        except (TimeoutError, Leave) as error:
            code = error.args[0] if error.args else 4001
            self.start(ws.close(code))
        if ws is self.ws:
            self.ws, self.code = None, code
            self.wake.set()

    async def run(self) -> None:
        tries = 0
        while True:
            if self.ws:  # it drains: handlers that run would be started twice
                self.waiting = True
                if on_way := [future for seq, (_, future) in self.own.items() if seq <= self.sent]:
                    await asyncio.wait(on_way, timeout=max(0, self.latest - time.monotonic()))
            if not (code := await self.open()):
                began = time.monotonic()
                await self.wake.wait()
                if self.ws:
                    self.at += 1
                    continue
                code, tries = self.code, tries if time.monotonic() - began < 5 else 0
            self.codes.append(code)
            if code == 1000 and self.leaving:
                return
            if 3000 <= code < 4000 or code >= 4500:
                raise ConnectionError(f"closed {code}: that was it")
            if 4300 <= code < 4400 or code == 4403:
                self.token = None
            self.at, tries = self.at + 1, tries + 1
            self.pump(True)  # a move that was refused: the connection that drains goes on
            delay = min(30, 2 ** (tries - 1)) + random.uniform(0, max(1, self.window))
            await asyncio.sleep(max(self.least, self.unit * delay))


def frames_of(text: str | bytes) -> list[dict[str, Any]]:
    frames = json.loads(text)
    return frames if isinstance(frames, list) else [frames]
