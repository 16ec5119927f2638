"""What came from one client, handled one after another, in order, beside the reader.

A number is done when its outcome is committed. The next handler starts while that commit is on its
way, so that what it sends is kept by the same one; the handler after it waits. So only the
``1 + AHEAD`` numbers after ``last_client_seq`` can have been started before a crash, and a start of
theirs that may be the second is counted in the database first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from channels.exceptions import StopConsumer
from django.db import OperationalError

from graceful_ws.core.bucket import Bucket
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.frames import Nack, ProtocolError, encode, encode_data
from graceful_ws.core.window import Arrival, Intake
from graceful_ws.store.base import JournalUnavailable, is_locked
from graceful_ws.store.entries import Complete, CountTry, Fenced, Later

from .bell import Bell
from .calls import called, in_thread
from .threads import OUTAGES, Busy
from .transaction import CommitUnknown, receive_in_transaction

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.connection")

RETRY_AFTER = 500  # milliseconds a client waits after a nack that asks for it
LOOK_AGAIN = 0.5  # seconds until the database is asked again what became of a commit
AHEAD = 1  # handlers that start before the outcome of the one before is committed
LOOK_UP = 1.0  # seconds that a plain client's message waits before the connection is looked at
LAYER_MESSAGES = 100  # messages from the channel layer that wait; then its pump waits
HOOK = 0  # in place of a number

Call = Callable[[], Awaitable[Any]]


class Inbox:
    """The receiving half of one connection."""

    __slots__ = (
        *("_completing", "_copies", "_items", "_live", "_open", "_room", "_suspicious", "_task"),
        *("bucket", "intake"),
    )

    def __init__(self, live: LiveConnection) -> None:
        limits = live.limits
        self.intake = Intake(limits.unacked, limits.unacked_bytes)
        self.bucket: Bucket | None = None
        if limits.message_rate > 0:
            self.bucket = Bucket(limits.message_rate, limits.message_burst, monotonic())
        self._copies = limits.unacked  # that may come without being asked for
        self._live = live
        self._items: list[tuple[int | None, Any]] = []  # (number, data), or (None or HOOK, call)
        self._task: asyncio.Task[None] | None = None
        self._suspicious = 0  # up to this number, handlers may have been started before
        self._completing: asyncio.Future[Any] | None = None  # the last outcome on its way
        self._room = Bell()
        self._open = True

    def resume(self, last_client_seq: int, *, resumed: bool) -> None:
        """Where the session stands; the next numbers may have been started by a lost connection."""
        self.intake.done = self.intake.received = last_client_seq
        self._suspicious = last_client_seq + 1 + AHEAD if resumed else 0

    # --- in -----------------------------------------------------------------------------------

    def receive(self, seq: int, data: Any, size: int) -> None:
        """A numbered message. Raises ProtocolError for a hole, or past the credit. Copies have no
        credit, but for those that a resume or a nack may bring."""
        arrival = self.intake.receive(seq, size)
        if arrival is Arrival.NEW:
            if self._open:
                self._items.append((seq, data))
                self._wake()
            return
        self._live.node.stats.duplicates += 1
        if self._copies:
            self._copies -= 1
        else:
            self.charge()
        if arrival is Arrival.DONE:
            self._live.outbox.acknowledge(self.intake.done)

    def call(self, call: Call) -> None:
        """Runs a coroutine in its turn: volatiles, messages of the layer, what comes with each
        connection."""
        if self._open:
            self._items.append((None, call))
            self._wake()

    def hook(self, call: Call) -> None:
        """The same for what comes once, and so has to be run even if the client has left."""
        self._items.append((HOOK, call))
        self._wake()

    def charge(self) -> None:
        """What has no credit, and so cannot wait, takes a token. Raises ProtocolError 4201."""
        if self.bucket is not None and self.bucket.take(monotonic()):
            raise ProtocolError(CloseCode.LIMIT_EXCEEDED, "more messages than message_rate")

    async def wait_token(self) -> None:
        """Returns with a token, or when the connection closes."""
        while self._open and self._live.is_open and self.bucket is not None:
            wait = self.bucket.take(monotonic())
            if not wait:
                return
            await self._pause(min(wait, LOOK_UP))

    @property
    def crowded(self) -> bool:
        return len(self._items) >= LAYER_MESSAGES

    async def wait_uncrowded(self) -> None:
        while self._open and self.crowded:
            await self._room.wait()

    # --- out ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """True while a handler runs or waits to, or its outcome is not committed."""
        return self._task is not None or self._completing is not None

    @property
    def taking(self) -> bool:
        return self._open

    def stop_taking(self) -> None:
        """Nothing more is handled but what runs, and hooks; clients send the rest again."""
        self._open = False
        self._items = [item for item in self._items if item[0] == HOOK]
        self._room.ring()

    async def finished(self) -> None:
        """Returns when no handler runs, and all outcomes are committed or will never be."""
        while self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait([self._task])
        await self._settled()

    async def _settled(self) -> None:
        while self._completing is not None:
            await asyncio.wait([self._completing])

    def cancel(self) -> None:
        """Ends what runs, and begins nothing."""
        self._open = False
        self._items.clear()
        if self._task is not None:
            self._task.cancel()

    def _wake(self) -> None:
        if self._task is None:
            self._task = self._live.node.spawn(self._run(), self._live.context)
            self._task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        # Not in a finally of the task: one that is cancelled before it began has none.
        self._task = None
        if self._items:
            self._wake()

    async def _run(self) -> None:
        try:
            while self._items:
                if self._items[0][0] and self.bucket is not None:
                    wait = self.bucket.take(monotonic())
                    if wait:
                        await self._pause(wait)
                        continue  # they may be gone
                seq, item = self._items.pop(0)
                self._room.ring()
                if not seq:
                    await self._call(item)
                else:
                    await self._message(seq, item)
        except StopConsumer:
            self.stop_taking()
            self._live.close(CloseCode.NORMAL)
        except Exception as error:
            self._failed(error)

    async def _pause(self, seconds: float) -> None:
        """For a token. Whoever stops the taking ends it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._room.wait()

    def _failed(self, error: BaseException) -> None:
        self.stop_taking()
        if isinstance(error, Fenced):
            self._live.fenced()
            return
        # An outcome could not be kept, so the number cannot be done here: let it be resumed.
        logger.error("the inbox failed", exc_info=error, extra=self._live.extra())
        self._live.close(CloseCode.INTERNAL_ERROR, "cannot go on")

    async def _call(self, call: Call) -> None:
        try:
            async with asyncio.timeout(self._live.limits.handler_timeout):
                await called(call())
        except (Fenced, StopConsumer):
            raise
        except Exception as error:
            self._live.handler_failed(error)

    async def _message(self, seq: int, data: Any) -> None:
        live = self._live
        journal = live.node.journal
        await journal.wait_healthy()
        transaction = live.application.has_transaction
        if seq <= self._suspicious and not transaction:
            tries = await journal.submit(CountTry(live.session_pk, live.generation, seq))
            if tries > 1:
                await self._nack(seq, "outcome_unknown", "started twice, outcome unknown")
                return
        limit = asyncio.timeout(live.limits.handler_timeout)
        try:
            async with limit:
                if transaction:
                    await self._in_transaction(seq, data, limit)
                    return
                result = await called(live.application.received(data))
                outcome = None if result is None else encode_data({"result": result})
        except (Fenced, StopConsumer):
            raise
        except (JournalUnavailable, Busy) as error:
            await self._settled()
            if self.intake.done == seq - 1:  # else the connection ends with the outcome before
                self._ask_again(seq, str(error), begun=not transaction)
        except CommitUnknown:
            await self._settle_unknown(seq)
        except Exception as error:
            live.node.django_thread.failed(error)
            if limit.expired():
                logger.warning("handler of message %d timed out", seq, extra=live.extra())
                await self._nack(seq, "timeout", f"not done in {live.limits.handler_timeout:g} s")
                return
            logger.exception("handler of message %d failed", seq, extra=live.extra())
            await self._nack(seq, "error", "the handler failed")
            if live.limits.close_on_error:
                live.close(CloseCode.INTERNAL_ERROR, "handler failed")
        else:
            await self._complete(seq, outcome)

    async def _complete(self, seq: int, outcome: str | None) -> None:
        if not self._live.consumer.resumable:
            self._done(seq, outcome)
            return
        live = self._live
        keep = self.intake.max_messages
        entry = Complete(live.session_pk, live.generation, seq, outcome, keep)
        before = self._completing
        self._completing = live.node.journal.submit(
            entry, lambda _: self._done(seq, outcome), patient=not self._items
        )
        self._completing.add_done_callback(self._completed)
        if before is not None:
            await asyncio.wait([before])

    def _completed(self, future: asyncio.Future[Any]) -> None:
        if future is self._completing:
            self._completing = None
        if future.cancelled():
            self.stop_taking()  # nobody writes any more, so nothing may run ahead
        elif (error := future.exception()) is not None:
            self._failed(error)

    async def _nack(self, seq: int, code: str, detail: str) -> None:
        """Consumes the number. When it is consumed already the handler has won: ack it."""
        outcome = encode_data({"nack": {"code": code, "detail": detail}})
        live = self._live
        if not live.consumer.resumable:
            self._done(seq, outcome)
            return
        entry = Complete(live.session_pk, live.generation, seq, outcome, self.intake.max_messages)
        won = await live.node.journal.submit(entry)
        if won:
            self._done(seq, outcome)
        else:
            await self._settle_unknown(seq)

    def _done(self, seq: int, outcome: str | None) -> None:
        if self.intake.done >= seq:
            return  # the transaction's own commit said so already
        self.intake.complete(seq)
        self._live.tell_outcome(seq, outcome)

    def _ask_again(self, seq: int, detail: str, *, begun: bool = False) -> None:
        """Nothing is consumed; the client sends from ``seq`` again. What has ``begun`` may have had
        an effect, so that the number must stay with its message: a second start is the last."""
        self.intake.ask_again(seq)
        self._copies = self.intake.max_messages
        self._items = [item for item in self._items if not item[0]]
        if begun:
            self._suspicious = max(self._suspicious, seq)
        code = "interrupted" if begun else "try_again"
        frame = Nack(seq=seq, code=code, detail=detail, retry=True, retry_after=RETRY_AFTER)
        self._live.control(encode(frame))

    # --- receive_in_transaction ---------------------------------------------------------------

    async def _in_transaction(self, seq: int, data: Any, limit: asyncio.Timeout) -> None:
        live = self._live
        owner = live.session_pk, live.generation, seq, self.intake.max_messages
        content = live.application.content_of(data)
        threads = live.node.handler_threads
        try:
            first, replies, outcome = await in_thread(
                threads, limit, receive_in_transaction, live.consumer, owner, content
            )
        except OperationalError as error:
            if not is_locked(error):
                raise
            logger.info("message %d waits for the database: %s", seq, error, extra=live.extra())
            self._ask_again(seq, "the database is locked")
            return
        live.committed(first, replies)
        self._done(seq, outcome)

    async def _settle_unknown(self, seq: int) -> None:
        """The connection broke during the commit: whether it happened is in the numbers."""
        live = self._live
        while True:
            await live.node.journal.wait_healthy()
            try:
                found = await live.node.standing(live.session_pk, seq)
                break
            except (*OUTAGES, Later):
                await asyncio.sleep(LOOK_AGAIN)
        if found is None or found[0].generation != live.generation:
            raise Fenced
        numbers, outcome = found
        if numbers.last_client_seq >= seq:
            live.head_moved(numbers.last_seq)
            self._done(seq, outcome)
        else:
            self._ask_again(seq, "the database was away")
