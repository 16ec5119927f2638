"""The clients of a soak, and when what happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graceful_ws.client import (
    ClientState,
    Disconnected,
    Event,
    GapTold,
    GracefulClient,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    SessionLost,
    Welcomed,
)
from graceful_ws.core.close_codes import CloseCode

from .histogram import Histogram
from .ledger import Ledger, Messages
from .report import Report
from .screen import Progress

LOOK_EVERY = 0.05  # seconds between two looks whether all has arrived
SHOW_EVERY = 0.25  # seconds between two looks for the screen
CLOSE_WITHIN = 12.0  # seconds for all clients to say bye
TAKES_BACK = (ClientState.CONNECTED, ClientState.DRAINING)


class CannotConnect(Exception):
    """Nobody lets the first client in: one line that says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. ``rate``: messages a second of each client; ``ramp``: seconds over which
    clients are started, before the ``seconds``; ``settle``: seconds at most for what is on its way
    at the end; ``size``: bytes of a message's data."""

    urls: tuple[str, ...]
    clients: int
    seconds: float
    rate: float
    ramp: float
    settle: float
    size: int = 0
    headers: Mapping[str, str] | None = None
    origin: str | None = None


class Caller:
    """One client and its ledger."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.ledger = ledger
        self.welcomes = 0
        self.failures: list[Disconnected] = []  # before the first welcome
        self.ended: SessionLost | None = None
        self._period = 1 / plan.rate
        self._talking: asyncio.Task[None] | None = None
        self.client = GracefulClient(
            plan.urls,
            headers=plan.headers,
            origin=plan.origin,
            on_event=self._hear,
            on_message=self._receive,
            websockets={"compression": None},  # a compressor for each of a thousand is dear
        )

    def start(self) -> None:
        with contextlib.suppress(SessionLost):  # which the talk is told too
            self.client.start()
        self._talking = asyncio.create_task(self._talk())

    def stop_talking(self) -> None:
        if self._talking is not None:
            self._talking.cancel()

    @property
    def is_settled(self) -> bool:
        return self.ended is not None or self.ledger.is_settled

    async def _talk(self) -> None:
        """What an outage kept from being sent is not made up for afterwards."""
        loop, client, ledger = asyncio.get_running_loop(), self.client, self.ledger
        try:
            await client.connected()
            due = loop.time()
            while True:
                if not ledger.is_full:
                    await client.send(ledger.next_message(), wait=False)
                    ledger.sent(loop.time())
                due = max(due + self._period, loop.time())
                await asyncio.sleep(due - loop.time())
        except SessionLost as error:
            self.ended = error

    def _receive(self, message: MessageReceived) -> None:
        if message.stream is None:
            self.ledger.received(message.data, asyncio.get_running_loop().time())

    def _hear(self, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        match event:
            case MessageAcknowledged(result=result, message=message):
                self.ledger.acknowledged(json.loads(message.data)["number"], result, now)
            case MessageNacked(retry=False, code=code, message=message):
                self.ledger.nacked(json.loads(message.data)["number"], code, now)
            case GapTold(reason=reason):
                self.ledger.gap(reason)
            case Welcomed():
                self.welcomes += 1
            case Disconnected() if not self.welcomes and len(self.failures) < 100:
                self.failures.append(event)
            case Disconnected(final=True, code=code, reason=reason) if self.ended is None:
                self.ended = SessionLost(code, reason)


class Soak:
    """One run. ``show`` gets a look at it, several times a second."""

    def __init__(self, plan: Plan, show: Callable[[Progress], None]) -> None:
        self.plan = plan
        self._show = show
        self._stop = asyncio.Event()
        self._phase, self._phase_began, self._phase_seconds = "connecting", time.monotonic(), 0.0
        self.report = Report(plan.clients)
        run = secrets.token_hex(4)
        trips = self.report.ack_trips, self.report.echo_trips
        self._callers = [self._caller(run, number, *trips) for number in range(plan.clients)]

    def _caller(self, run: str, number: int, acks: Histogram, echoes: Histogram) -> Caller:
        return Caller(self.plan, Ledger(Messages(run, number, self.plan.size), acks, echoes))

    def stop(self) -> None:
        """Sends nothing more; what is on its way may arrive."""
        self.report.interrupted = True
        self._stop.set()

    async def run(self) -> Report:
        """Returns what was found. Raises CannotConnect when not even one client gets in."""
        screen = asyncio.create_task(self._show_all_the_time())
        try:
            await self._connect_one()
            began = time.monotonic()
            await self._soak()
            self.report.seconds = time.monotonic() - began
            await self._settle()
            self._sum_up()
            await self._close()
        except CannotConnect:
            await self._close()
            raise
        finally:  # cancelled: nobody waits for byes
            screen.cancel()
            for caller in self._callers:
                caller.stop_talking()
        return self.report

    # --- phases -------------------------------------------------------------------------------

    async def _connect_one(self) -> None:
        """Each dial has a timeout, and each URL gets one."""
        first, plan = self._callers[0], self.plan
        self._begin("connecting", 0.0)
        first.client.start()
        while not first.welcomes and not self._stop.is_set():
            failures = first.failures
            if len(failures) >= len(plan.urls) or any(each.final for each in failures):
                raise CannotConnect(explain(plan, failures[-1]))
            await asyncio.sleep(LOOK_EVERY)
        try:
            first.client.session.encode(first.ledger.messages.make(10**9))
        except ValueError as error:
            raise CannotConnect(f"--size is more than the server takes: {error}.") from None

    async def _soak(self) -> None:
        plan = self.plan
        loop = asyncio.get_running_loop()
        self._begin("soaking", plan.ramp + plan.seconds)
        began = loop.time()
        for number, caller in enumerate(self._callers):
            if await self._stopped_by(began + plan.ramp * number / plan.clients):
                break
            caller.start()
        await self._stopped_by(began + plan.ramp + plan.seconds)

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        self._begin("settling", self.plan.settle)
        for caller in self._callers:
            caller.stop_talking()
        until = loop.time() + self.plan.settle
        while not all(caller.is_settled for caller in self._callers):
            if loop.time() >= until:
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _close(self) -> None:
        self._begin("closing", CLOSE_WITHIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN):
                await asyncio.gather(*(caller.client.close() for caller in self._callers))

    async def _stopped_by(self, when: float) -> bool:
        """Waits until ``when``, or until somebody has had enough, which is True."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(when):
                await self._stop.wait()
        return self._stop.is_set()

    def _begin(self, phase: str, seconds: float) -> None:
        self._phase, self._phase_began = phase, time.monotonic()
        self._phase_seconds = seconds

    # --- looks --------------------------------------------------------------------------------

    async def _show_all_the_time(self) -> None:
        while True:
            self._show(self._progress())
            await asyncio.sleep(SHOW_EVERY)

    def _progress(self) -> Progress:
        now = time.monotonic()
        states = [caller.client.state for caller in self._callers]
        ledgers = [caller.ledger for caller in self._callers]
        counts = [ledger.counts for ledger in ledgers]
        connected = sum(state in TAKES_BACK for state in states)
        parked, closed = states.count(ClientState.PARKED), states.count(ClientState.CLOSED)
        idle = states.count(ClientState.DISCONNECTED)
        return Progress(
            phase=self._phase,
            elapsed=now - self._phase_began,
            seconds=self._phase_seconds,
            connected=connected,
            away=len(states) - connected - parked - closed - idle,
            parked=parked,
            closed=closed,
            sent=sum(each.sent for each in counts),
            acknowledged=sum(each.acknowledged for each in counts),
            received=sum(each.received for each in counts),
            resumes=sum(caller.client.resumes for caller in self._callers),
            lost=sum(ledger.missing for ledger in ledgers),
            wrong=sum(
                each.duplicated
                + each.out_of_order
                + each.unexpected
                + each.gaps.total()
                + each.nacks.total()
                for each in counts
            ),
        )

    def _sum_up(self) -> None:
        report, now = self.report, asyncio.get_running_loop().time()
        for caller in self._callers:
            caller.ledger.close(now)
            report.counts.add(caller.ledger.counts)
            client = caller.client
            report.never_connected += not caller.welcomes and not self._stop.is_set()
            if caller.ended is not None:
                report.ended[caller.ended.code] += 1
            report.resumes += client.resumes
            report.replayed += client.replayed
            report.resent += client.resent
            report.refused_dials += client.refused
            report.close_codes.update(client.close_codes)


def explain(plan: Plan, failure: Disconnected) -> str:
    """Why nobody gets in, and the remedy, in one line."""
    where = plan.urls[0] if len(plan.urls) == 1 else f"{plan.urls[0]} and {len(plan.urls) - 1} more"
    reason = " ".join(failure.reason.split())
    said = reason if failure.code == CloseCode.ABNORMAL else f"closed {failure.code} {reason}"
    match failure.code, reason:
        case _, "refused with HTTP 503":
            remedy = "The site drains, or its database is away: try again when it is up."
        case _, "refused with HTTP 401" | "refused with HTTP 403":
            remedy = "Say who you are (--header 'Cookie: sessionid=…'), or where from (--origin)."
        case _, text if text.startswith("refused with HTTP"):
            remedy = "Is a consumer mounted there? path('ws/soak/', EchoConsumer.as_asgi())"
        case _, text if text.startswith("no connection"):
            remedy = "Is a server running there, and is the URL right?"
        case CloseCode.SUSPENDED, text if text.startswith("this is no"):
            remedy = "Mount a graceful_ws.echo.EchoConsumer there: this consumer is another kind."
        case _:
            remedy = "docs/close-codes.md says what that means."
    return f"Cannot connect to {where}: {said.strip()}. {remedy}"
