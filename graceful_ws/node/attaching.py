"""How a connection and its session's row meet and part: attach, notes now and then, detach."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from graceful_ws.core import frames
from graceful_ws.core.close_codes import CloseCode, cut_reason
from graceful_ws.store.attach import Attach, Attached, OtherIdentity, StaleAttempt, TooMany
from graceful_ws.store.base import JournalUnavailable
from graceful_ws.store.entries import Detach, Note

from .own import OwnSequence
from .subscriptions import Resumed
from .waiting import Overloaded

if TYPE_CHECKING:
    from .live import LiveConnection

logger = logging.getLogger("graceful_ws.connection")

CAUSES: dict[int, str] = {
    CloseCode.HEARTBEAT_LOST: "timeout",
    CloseCode.SERVICE_RESTART: "drain",
    CloseCode.IDLE: "idle",
    CloseCode.RECLAIMED: "reclaimed",
}
REFUSALS: dict[type[BaseException], str] = {  # results of a hello, for the figures
    OtherIdentity: "other_identity",
    StaleAttempt: "stale",
    TooMany: "too_many",
    Overloaded: "overloaded",
    JournalUnavailable: "unavailable",
}
LET_FINISH = 3.0  # seconds that a resume waits for a handler of the connection before
NOTE_INTERVAL = 10.0  # seconds: acknowledgements are written at most this often
IDLE_NOTE_INTERVAL = 60.0  # seconds: and liveness alone this often


def attach(live: LiveConnection, hello: frames.Hello | None) -> None:
    """Makes the session of a hello (None: a new one of a plain client) the connection's own, and
    welcomes the client; a refusal closes with its code. ``live.attaching`` is done when that is.

    A storm comes here: there is a task only for those who have something to wait for.
    """
    entry = Attach(
        node=live.node.id,
        consumer=live.application.label,
        identity=live.application.identity(),
        instance=hello.instance if hello else "",
        attempt=hello.attempt if hello else 0,
        token=hello.session_token if hello else None,
        last_seq_id=hello.last_seq_id if hello else None,
        positions=hello.positions if hello else {},
        pending_from=hello.pending_from if hello else None,
        resumable=live.consumer.resumable and not live.plain,
        resume_window=live.limits.resume_window,
        remote_address=live.application.remote_address(),
        user_agent=live.application.user_agent(),
    )
    live.attaching = asyncio.get_running_loop().create_future()  # nothing above failed
    before = live.node.predecessor(entry)
    if before is not None:
        _in_task(live, _attach_after(live, hello, entry, before))
        return
    try:
        waiting = live.node.journal.hello(entry, lambda: live.is_open)
    except Exception as error:
        _refused(live, error)
        live.attaching.set_result(None)
    else:
        waiting.add_done_callback(functools.partial(_answered, live, hello, entry))


def _in_task(live: LiveConnection, work: Coroutine[Any, Any, None]) -> None:
    """The rest of the attach has to wait for something."""
    live.node.spawn(work, live.context).add_done_callback(lambda _: _settled(live))


def _settled(live: LiveConnection) -> None:
    if live.attaching is not None and not live.attaching.done():
        live.attaching.set_result(None)


def _answered(
    live: LiveConnection,
    hello: frames.Hello | None,
    entry: Attach,
    answer: asyncio.Future[Attached],
) -> None:
    """The writer has tried the hello; it has not when the socket was gone before."""
    try:
        if answer.cancelled():
            pass
        elif (error := answer.exception()) is not None:
            _refused(live, error)
        else:
            attached = answer.result()
            _own(live, entry, attached)
            if attached.subscriptions and live.application.overrides("may_subscribe"):
                _in_task(live, _go_on(live, hello, attached))
                return
            _welcome(live, hello, attached, live.subscriptions.all_allowed(attached, hello))
    except Exception as error:
        _refused(live, error)
    _settled(live)


async def _attach_after(
    live: LiveConnection, hello: frames.Hello | None, entry: Attach, before: LiveConnection
) -> None:
    """The same when the session has a connection here."""
    await _let_finish(before)
    try:
        attached = await live.node.journal.attach(entry, lambda: live.is_open)
        attached.pending = True  # what was left since it looked was told to the one before
        _own(live, entry, attached)
        await _go_on(live, hello, attached)
    except Exception as error:
        _refused(live, error)
    finally:
        if live.node.sessions.get(before.session_pk) is before:
            # It was not taken after all, and has stopped taking messages: its client comes again.
            before.close(CloseCode.RESYNC, "a resume of it came to nothing")


def _own(live: LiveConnection, entry: Attach, attached: Attached) -> None:
    live.owner = entry.consumer, entry.identity, entry.attempt
    live.attached = attached
    live.consumer.session_id = str(attached.uuid)
    live.node.own(live)
    if attached.told:
        live.node.sequencer.ask(attached.told)


def _refused(live: LiveConnection, error: BaseException) -> None:
    result = next((what for kind, what in REFUSALS.items() if isinstance(error, kind)), "error")
    live.node.stats.hellos[result, ""] += 1
    if isinstance(error, OtherIdentity):
        live.close(CloseCode.OTHER_IDENTITY, "the session is somebody else's")
    elif isinstance(error, StaleAttempt):
        live.close(CloseCode.RESYNC, "a later hello has attached")
    elif isinstance(error, TooMany):
        live.node.stats.refused["user"] += 1
        live.close(CloseCode.CONNECTION_LIMIT, "too many connections of this user")
    elif isinstance(error, Overloaded | JournalUnavailable):
        live.close(CloseCode.TRY_AGAIN_LATER, str(error) or "too many hellos")
    else:
        logger.error("attach failed", exc_info=error, extra=live.extra())
        live.close(CloseCode.INTERNAL_ERROR, "attach failed")


async def _let_finish(before: LiveConnection) -> None:
    """The connection before this one may still run a handler, after a short disconnect for
    example. Once its outcome is committed the handler need not be started a second time."""
    before.inbox.stop_taking()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LET_FINISH):
            await before.inbox.finished()


async def _go_on(live: LiveConnection, hello: frames.Hello | None, attached: Attached) -> None:
    """The session is ours; which streams it may still follow is for the application to say."""
    positions = hello.positions if hello else {}
    try:
        followed = await live.subscriptions.allowed(attached.subscriptions, positions)
    except TimeoutError:
        live.close(CloseCode.TRY_AGAIN_LATER, "may_subscribe takes too long")
    except Exception:
        logger.exception("may_subscribe failed", extra=live.extra())
        live.close(CloseCode.INTERNAL_ERROR, "may_subscribe failed")
    else:
        _welcome(live, hello, attached, followed)


def _welcome(
    live: LiveConnection,
    hello: frames.Hello | None,
    attached: Attached,
    followed: list[Resumed],
) -> None:
    """Nothing here waits: from the welcome on the feeds are complete."""
    if not live.is_open:
        return  # gone meanwhile; the end detaches it
    resumed = attached.resumed
    live.node.stats.hellos[_result(hello, attached), attached.cause] += 1
    live.inbox.resume(attached.last_client_seq, resumed=resumed and not attached.taken_over)
    if hello is not None:
        live.outbox.control(frames.encode(_welcome_frame(live, attached, followed)))
        if hello.session_token and not resumed:
            live.outbox.control(frames.encode(frames.Gap(reason="expired", head=0)))
            live.node.stats.gaps["expired"] += 1
        for seq, outcome in attached.outcomes.items():
            live.tell_outcome(seq, outcome)
        if resumed:
            live.outbox.acknowledge(attached.last_client_seq)
    source = OwnSequence(attached.session, attached.last_seq, live.node.readers)
    feed = live.outbox.add(source, attached.position)
    live.subscriptions.resume(followed)
    live.became_ready(attached, feed)
    attached.is_told()
    live.taker.begin(pending=attached.pending)
    application, consumer = live.application, live.consumer
    if not application.follows_all(live.outbox.feeds):
        live.inbox.call(application.follow_streams)
    if application.overrides("resumed" if resumed else "session_started"):
        run = live.inbox.call if resumed else live.inbox.hook
        run(consumer.resumed if resumed else consumer.session_started)
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", "resumed" if resumed else "opened", extra=live.extra())


def _result(hello: frames.Hello | None, attached: Attached) -> str:
    """What became of a hello, for the figures."""
    if attached.resumed:
        return "taken_over" if attached.taken_over else "resumed"
    return "expired" if hello is not None and hello.session_token else "new"


def _welcome_frame(
    live: LiveConnection, attached: Attached, followed: list[Resumed]
) -> frames.Welcome:
    limits = live.limits
    return frames.Welcome(
        session_id=str(attached.uuid),
        session_token=attached.token if live.consumer.resumable else None,
        resumed=attached.resumed,
        last_client_seq=attached.last_client_seq,
        head=attached.last_seq,
        heartbeat={
            "interval": limits.heartbeat_interval,
            "timeout": limits.heartbeat_timeout,
            "max_missed": limits.max_missed,
        },
        resume_window=limits.resume_window,
        reconnect_window=live.node.reconnect_window,
        limits={
            "message_bytes": limits.message_bytes,
            "unacked": limits.unacked,
            "unacked_bytes": limits.unacked_bytes,
        },
        streams={one.stream: one.told() for one in followed},
        node=live.node.name,
    )


def detach(live: LiveConnection, code: int) -> tuple[Detach, asyncio.Future[bool]] | None:
    attached = live.attached
    if attached is None:
        return None
    ours = live.machine.close_code
    cause = live.end_cause or CAUSES.get(ours or code, "lost")
    if live.plain and cause == "lost" and ours in (CloseCode.NORMAL, CloseCode.GOING_AWAY):
        cause = "bye"  # the only one that such a client can say
    over = live.end_cause is not None or live.ended_elsewhere
    entry = Detach(
        attached.session,
        attached.generation,
        acked_seq=live.acked_seq,
        streams=live.subscriptions.acked(),
        end=over or live.plain or not live.consumer.resumable,
        instance=live.instance,
        close_code=ours or code,
        close_reason=cut_reason(live.machine.close_reason),
        cause=cause,
    )
    if logger.isEnabledFor(logging.INFO):
        what = "ended" if entry.end else "detached"
        extra = {**live.extra(), "code": ours or code, "cause": cause}
        logger.info("%s %s (%s)", what, ours or code, cause, extra=extra)
    return entry, live.node.journal.submit(entry)


def note(live: LiveConnection, now: float) -> None:
    """Writes acknowledgements and liveness now and then; called by the node's round."""
    if live.attached is None or not live.is_open:
        return
    if now - live.noted_at < NOTE_INTERVAL:
        return
    rtt = live.machine.rtt
    streams = live.subscriptions.acked()
    news = (live.acked_seq, live.machine.state, live.attached.generation, streams)
    if news == live.noted and now - live.noted_at < IDLE_NOTE_INTERVAL:
        return
    told: dict[str, tuple[str, int]] = live.noted[-1] if live.noted else {}
    live.noted, live.noted_at = news, now
    future = live.node.journal.submit(
        Note(
            live.attached.session,
            live.attached.generation,
            acked_seq=live.acked_seq,
            streams={name: at for name, at in streams.items() if told.get(name) != at},
            connection_state=live.machine.state,
            rtt_ms=None if rtt is None else round(rtt * 1000),
        )
    )
    future.add_done_callback(forget)


def forget(future: asyncio.Future[Any]) -> None:
    """For writes that nobody waits for: a note that failed is not missed."""
    if not future.cancelled():
        future.exception()
