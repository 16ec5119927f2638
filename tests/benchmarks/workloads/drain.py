"""The end of a node with thousands of idle sessions: how long until each is closed cleanly."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from picows import WSFrame, WSMsgType, WSTransport

from tests.benchmarks.clients import Client, Crowd, Frame, GracefulClient, WrongDelivery
from tests.benchmarks.statements import counted
from tests.benchmarks.workload import OURS, RAW, Measure, Side, Turn, Workload

from .idle import CONNECTIONS, QUICK_CONNECTIONS

WITHIN = 60.0  # seconds for all closes
RESTART = 1012
# Daphne itself refuses to send any other code than these (django/daphne#374).
RESTART_IN_DAPHNE = 4012

# No window: what is measured is the work, not the spreading.
NO_WINDOW = {"drain_window": 0, "drain_deadline": WITHIN, "closing_timeout": WITHIN}


class Closings:
    """Counts clean closes; the first other one is an error of the round."""

    def __init__(self, crowd: Crowd, code: int, count: int) -> None:
        self.code = code
        self.left = count
        self.done: asyncio.Future[float] = crowd.loop.create_future()

    def closed(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set_result(time.perf_counter())


class Closable(Client):
    """Answers the server's close, and leaves it to the server to end the connection."""

    closings: Closings | None = None
    answered = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        closings = self.closings
        if frame.msg_type != WSMsgType.CLOSE or closings is None:
            super().on_ws_frame(transport, frame)
            return
        code: Any = frame.get_close_code()
        if self.answered or code != closings.code:
            self.crowd.fail(WrongDelivery(f"closed {code}, in place of {closings.code} once"))
        self.answered = True
        transport.send_close(code)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.answered and self.closings is not None:
            self.leaving = True
            self.closings.closed()
        super().on_ws_disconnected(transport)  # an error, without a close frame


class ClosableSession(Closable, GracefulClient):
    """Does not come back: others are to pay for that."""

    def frame(self, frame: Frame) -> None:
        if frame.type != "drain":
            super().frame(frame)


class Drain(Workload):
    name = "drain"
    about = "SIGTERM to a node with 5,000 idle sessions, until the last is closed; beside raw ASGI"
    sides = (
        Side("ours", OURS, "/echo/", graceful=True, settings=NO_WINDOW, counted=True),
        Side("rival", RAW, "/drain/", bare=True),
    )
    measures = {"": Measure("s", False)}
    fresh = True
    deadline = 180.0

    async def turn(self, turn: Turn) -> dict[str, float]:
        count = QUICK_CONNECTIONS if turn.quick else CONNECTIONS
        kind: Any = ClosableSession if turn.side.graceful else Closable
        async with Crowd() as crowd:
            clients = [kind(crowd, lambda client, n: None) for _ in range(count)]
            await crowd.connect(turn.url, clients)
            await asyncio.sleep(1)  # what the last of them left to do
            daphne = not turn.side.graceful and turn.server.kind == "daphne"
            closings = Closings(crowd, RESTART_IN_DAPHNE if daphne else RESTART, count)
            for client in clients:
                client.closings = closings
            statements = counted(turn.bench.directory) if turn.side.counted else 0
            with turn.meter.measuring():
                start = time.perf_counter()
                if turn.side.graceful:
                    turn.server.terminate()
                else:
                    clients[0].send(msgspec.json.encode({"close": closings.code}))
                async with asyncio.timeout(WITHIN):
                    await crowd.until(closings.done)
            elapsed = closings.done.result() - start
        if turn.side.graceful:
            await self._exited(turn, start, count, statements)
        return {"": elapsed}

    async def _exited(self, turn: Turn, start: float, count: int, statements: int) -> None:
        await turn.server.await_exit(WITHIN)
        facts = {
            "seconds until the process has exited": time.perf_counter() - start,
            "SQL statements for each drained connection": (
                (counted(turn.bench.directory) - statements) / count
            ),
        }
        for name, value in facts.items():
            turn.facts.setdefault(name, []).append(value)
        assert "drained in" in turn.server.log(), turn.server.log_tail()
        assert ", 0 connections dropped" in turn.server.log(), turn.server.log_tail()
