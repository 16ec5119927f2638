"""The end of a connection: why it comes, and what is left of it, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from graceful_ws.core.close_codes import CLOSE_CODES, CloseCode
from graceful_ws.core.transitions import TransportClosed
from graceful_ws.store.entries import Fenced
from graceful_ws.store.nodes import Ending

from .attaching import detach

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.connection")

CANCEL_TIMEOUT = 1.0  # seconds for a cancelled handler to end


async def end(live: LiveConnection, code: int) -> None:
    """The transport is gone. Runs once, as a task of the node."""
    live.over = True
    live.node.stats.closes[live.machine.close_code or _known(code)] += 1  # ours, or the peer's
    live.event(TransportClosed(code))
    live.node.timers.forget(live)
    live.outbox.close()
    if not live.plain:  # others send again what was not handled
        live.inbox.stop_taking()
    if live.attaching is not None and not live.attaching.done():
        await asyncio.wait([live.attaching])
    if not live.ready_future.done():
        live.ready_future.set_exception(Fenced("the connection ended before its hello"))
        live.ready_future.exception()  # nobody may be waiting
    if live.inbox.busy:
        await _handlers_finished(live)
    live.inbox.stop_taking()
    await live.application.ended(code)
    try:
        detached = detach(live, code)
        live.node.remove(live)
        if detached is None:
            return
        entry, done = detached
        ours = await done
    except Exception as error:
        # The row says attached, without a connection: the node's round, or another node, sees it.
        live.node.remove(live)
        logger.warning("not detached: %s", error, extra=live.extra())
        return
    if entry.end:
        live.node.stats.exits[entry.cause] += 1
        live.node.reaper.somebody_left()
    # An operator who ended the session has detached it too; its connection runs the hook.
    if entry.end and (ours or live.ended_elsewhere):
        await live.application.call_session_ended()


def _known(code: int) -> int:
    """What a peer may say has no bound: an unknown code counts as the first of its hundred."""
    return code if code in CLOSE_CODES else code // 100 * 100


async def _handlers_finished(live: LiveConnection) -> None:
    """What runs may finish, within its time limit; a hook that has none gets the same, and so does
    all that a plain client said before it left."""
    try:
        async with asyncio.timeout(live.limits.handler_timeout):
            await live.inbox.finished()
    except TimeoutError:
        logger.warning("a handler outlived its connection", extra=live.extra())
        live.inbox.cancel()
        with contextlib.suppress(TimeoutError):  # it may swallow the cancel
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await live.inbox.finished()


def out_of_step(live: LiveConnection) -> None:
    """The session's row knows less than was sent: the database is an older one."""
    logger.error("its numbers went back: was the database restored?", extra=live.extra())
    live.close(CloseCode.RESYNC, "out of step with the session")


def lost_session(live: LiveConnection, ending: Ending | None, *, fenced: bool) -> None:
    """Closes with what the database says became of the session, if it is no longer ours."""
    if ending is None:
        live.close(CloseCode.SESSION_EXPIRED, "the session is gone")
    elif ending.state == "ended":
        live.ended_elsewhere = ending.node == live.node.id  # by an operator, not a successor
        live.close(ending.close_code or CloseCode.SESSION_EXPIRED, ending.close_reason)
    elif ending.state == "attached" and ending.generation != live.generation:
        live.superseded(ending.instance)
    elif ending.state != "attached" or fenced:
        live.close(CloseCode.RESYNC, "out of step with the session")
