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


class Stranger:
    """One session over many connections; ``unit`` is the first delay before a try, in s."""

    def __init__(self, urls: list[str], heard: Callable[..., None], unit: float = 1.0) -> None:
        self.urls, self.at, self.heard, self.unit = urls, 0, heard, unit
        self.instance, self.attempt, self.token = secrets.token_hex(8), 0, None
        self.position, self.streams = 0, dict[str, list[Any]]()  # stream to [epoch, number]
        self.own: dict[int, tuple[Any, asyncio.Future[Any]]] = {}  # messages without an outcome
        self.got: dict[str | None, int] = {}  # came on this connection, not yet acknowledged
        self.next, self.sent, self.count, self.window, self.tries = 1, 0, 0, 1.0, 0
        self.asking = self.moving = self.holding = self.leaving = False
        self.ws: ClientConnection | None = None
        self.welcomed_by, self.codes, self.gaps, self.sendings = [], [], [], []  # for the curious
        self.tasks: set[asyncio.Task[Any]] = set()
        self.mover, self.running = self.start(asyncio.sleep(0)), self.start(self.run())

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
        self.own[self.next] = data, future
        self.next += 1
        self.pump()
        return future

    async def bye(self) -> None:
        await asyncio.gather(*(future for _, future in self.own.values()), return_exceptions=True)
        self.leaving = True
        self.say("bye")
        await self.running

    def pump(self) -> None:
        for seq in sorted(seq for seq in self.own if seq > self.sent):
            on_way = sum(other < seq for other in self.own)
            if self.ws is None or self.moving or self.holding or on_way >= self.credit:
                return
            self.sent = seq
            self.sendings.append(seq)
            self.say("message", seq=seq, data=self.own[seq][0])

    def go_on(self) -> None:
        self.moving = self.holding = False
        self.pump()

    def settle(self, seq: int, result: Any = None, nack: str | None = None) -> None:
        _, future = self.own.pop(seq, (None, None))  # an outcome may come twice
        if future and not future.done():
            future.set_exception(RuntimeError(nack)) if nack else future.set_result(result)

    def ack(self, type: str = "ack", **fields: Any) -> None:
        if not self.asking:
            fields |= {"seq": self.got.pop(None)} if None in self.got else {}
            fields |= {"streams": self.got} if self.got else {}
            self.got, self.count = {}, 0
        if fields:
            self.say(type, **fields)

    def message(self, stream: str | None, seq: int, data: Any) -> int | None:
        known = self.streams.setdefault(stream, [None, seq - 1]) if stream else [None, 0]
        position = known[1] if stream else self.position
        if seq > position + 1:
            return 4000  # a hole
        if seq == position + 1:
            known[1], self.position = seq, self.position if stream else seq
            self.heard(stream, seq, data)
        self.got[stream], self.count = seq, self.count + 1  # copies count
        if self.count >= 50:
            self.ack()
        elif self.count == 1:
            asyncio.get_running_loop().call_later(1, self.ack)
        return None

    def take(self, frame: dict[str, Any]) -> int | None:
        """Do what a frame asks; the code to close with, if any."""
        stream, seq = frame.get("stream"), frame.get("seq", 0)
        match frame["type"]:
            case "message":
                return self.message(stream, seq, frame["data"])
            case "ack":
                for number in [number for number in self.own if number <= seq]:
                    self.settle(number, frame.get("results", {}).get(str(number)))
                self.pump()
            case "nack" if frame.get("retry"):
                self.sent, self.holding = seq - 1, True
                pause = frame.get("retry_after") or 1000
                asyncio.get_running_loop().call_later(pause / 1000, self.go_on)
            case "nack":
                self.settle(seq, nack=frame["code"])
            case "gap" if not stream:
                self.gaps.append(frame)
                self.position = frame["head"]
            case "gap" | "subscribed":
                self.gaps += [frame] if frame["type"] == "gap" else []
                self.streams[stream] = [frame["epoch"], frame["head"]]
            case "unsubscribed":
                self.streams.pop(stream, None)
            case "ping":
                self.ack("pong", sent_at=frame["sent_at"])
            case "drain":
                self.mover = self.start(self.move(frame["reconnect_in"], frame["close_in"]))
            case "superseded" if frame["instance"] == self.instance:
                return 4000
        return None

    async def open(self) -> tuple[int, float]:
        """0 when welcomed, else the close code (1006 for none), and the least delay."""
        url = self.urls[self.at % len(self.urls)]
        try:
            ws = await connect(url, subprotocols=["graceful.v1"], **OPTIONS)
        except InvalidStatus as refusal:
            return 1006, float(refusal.response.headers.get("Retry-After", 0))
        except (OSError, WebSocketException):
            return 1006, 0
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
        except ConnectionClosed:
            return ws.close_code or 1006, 0
        except BaseException as error:
            ws.transport.abort()
            if isinstance(error, TimeoutError):
                return 4001, 0
            raise
        finally:
            self.asking = False
        if self.ws:
            self.start(self.ws.close(4000))
        self.ws = ws
        self.welcomed_by.append(url)
        self.welcomed(welcome)
        self.reader = self.start(self.read(ws, behind, welcome["heartbeat"]))
        return 0, 0

    def welcomed(self, welcome: dict[str, Any]) -> None:
        limits, self.window = welcome["limits"], welcome["reconnect_window"]
        self.credit = (
            min(limits["unacked"], limits["unacked_bytes"] // limits["message_bytes"]) or 1
        )
        known, self.streams = self.streams, {}
        for name, on in welcome["streams"].items():
            epoch, number = known.get(name, [None, 0])
            if on["state"] == "resumed" or (on["state"], epoch) == ("new", on["epoch"]):
                self.streams[name] = [on["epoch"], max(number, on["head"] * (on["state"] == "new"))]
            elif on["state"] != "denied":
                self.streams[name] = [on["epoch"], on["head"]]
        self.sent, self.got, self.count = welcome["last_client_seq"], {}, 0
        if not welcome["resumed"]:
            self.token, self.position = welcome["session_token"], 0
            self.own = dict(enumerate(self.own.values(), self.sent + 1))
            self.next = self.sent + len(self.own) + 1
        self.go_on()
        if self.leaving:
            self.say("bye")

    async def read(self, ws: ClientConnection, frames: list[Any], heart: dict[str, Any]) -> int:
        silence = heart["interval"] + heart["max_missed"] * heart["timeout"]
        code: int | None = None
        try:
            while code is None and ws is self.ws:  # once there is another, nothing of this counts
                code = next((code for frame in frames if (code := self.take(frame))), None)
                if code is None:
                    async with asyncio.timeout(silence):
                        frames = frames_of(await ws.recv())
        except TimeoutError:
            code = 4001
        except ConnectionClosed:
            code = ws.close_code or 1006
        self.start(ws.close(code if code in (4000, 4001) else 1000))
        return code or 4000

    async def move(self, reconnect_in: int, close_in: int) -> None:
        """Make the next connection before the one that drains breaks."""
        latest = time.monotonic() + close_in / 1000 - 4
        await asyncio.sleep(reconnect_in / 1000)
        for tries in range(1000):
            self.moving = True
            while any(seq <= self.sent for seq in self.own) and time.monotonic() < latest:
                await asyncio.sleep(0.01)
            self.at += 1
            code, at_least = await self.open()
            if not code:
                return
            self.go_on()
            await asyncio.sleep(max(at_least, self.delay(tries)))

    def delay(self, tries: int) -> float:
        if tries >= 5:
            return 30 * self.unit * random.uniform(0.5, 1.5)
        return self.unit * (2**tries + random.uniform(0, max(1, self.window)))

    async def run(self) -> None:
        tries = 0
        while True:
            code, at_least = await self.open()
            began, welcomed = time.monotonic(), not code
            while not code:
                reader = self.reader
                code = await reader
                code = code if reader is self.reader else 0  # moved: follow the next
            self.ws = None
            self.mover.cancel()
            self.codes.append(code)
            if code == 1000 and self.leaving:
                return
            if 3000 <= code < 4000 or 4500 <= code:
                raise RuntimeError(f"closed {code}: that was it")
            if 4300 <= code < 4400 or code == 4403:
                self.token = None
                self.own = {} if code == 4403 else self.own  # written in another's name
            if welcomed and time.monotonic() - began >= 5:
                tries = 0
            fast = code in (1000, 1001, 1005, 1006, 1012) or 4000 <= code < 4200
            if fast and welcomed and time.monotonic() - began >= 5:
                delay = self.unit * random.uniform(0, self.window)
            else:
                delay = self.delay(tries := max(tries, 2) if code == 1013 else tries)
            tries += not welcomed
            self.at += 1
            await asyncio.sleep(max(at_least, delay))


def frames_of(text: str | bytes) -> list[dict[str, Any]]:
    frames = json.loads(text)
    return frames if isinstance(frames, list) else [frames]
