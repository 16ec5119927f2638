"""What nodes tell each other over the channel layer: groups, envelopes, nudges from outside.

An envelope only makes something happen sooner that the database says anyway, so it may be lost.
Versions mix during a rolling deploy: a receiver ignores versions and kinds that it does not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer, get_channel_layer

from graceful_ws.conf import settings
from graceful_ws.store import wakers
from graceful_ws.store.streams import Numbered

logger = logging.getLogger("graceful_ws.layer")

TYPE = "graceful.wake"  # the one type of all of them: a plain consumer would see "graceful_wake"
VERSION = 1
NODES = "graceful.nodes"  # the group of all nodes
CARRIED = 32 * 1024  # characters of messages that travel with their numbers; more is read
NUDGE_TIMEOUT = 1.0  # seconds

_scheduled: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks only weakly


def stream_group(name: str) -> str:
    """The group of the nodes that have subscribers of a stream. Names of streams are longer and
    richer than those of groups may be."""
    return "graceful.s." + hashlib.sha256(name.encode()).hexdigest()[:32]


def node_group(node: uuid.UUID) -> str:
    """The group of one node. Not its channel: ``send`` to a channel loses messages when the layer
    has several hosts (django/channels#1492)."""
    return "graceful.n." + node.hex


def stream_envelope(
    stream: str,
    epoch: str,
    first: int,
    head: int,
    data: list[str] | None = None,
    at: float | None = None,
) -> dict[str, Any]:
    """Messages ``first`` to ``head`` of a stream are committed; ``data``: their texts, if short;
    ``at``: when, in seconds of UNIX time."""
    fields: dict[str, Any] = {"stream": stream, "epoch": epoch, "from": first, "head": head}
    if data is not None:
        fields["data"] = data
    if at is not None:
        fields["at"] = at
    return _envelope("stream", fields)


def said(numbered: Numbered, at: float | None = None) -> dict[str, Any]:
    """The envelope of what one transaction has numbered."""
    short = sum(map(len, numbered.data)) <= CARRIED
    return stream_envelope(
        numbered.stream,
        numbered.epoch,
        numbered.first,
        numbered.head,
        numbered.data if short else None,
        at,
    )


def pending_envelope(sessions: list[int]) -> dict[str, Any]:
    """Something was left for these sessions (primary keys)."""
    return _envelope("pending", {"sessions": sessions})


def node_envelope() -> dict[str, Any]:
    """Look at your row now: somebody asked something of you."""
    return _envelope("node", {})


def echo_envelope(token: str) -> dict[str, Any]:
    """What a node says to itself, to know whether it would hear others."""
    return _envelope("echo", {"token": token})


def _envelope(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": TYPE, "version": VERSION, "kind": kind, **fields}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_stream(envelope: Mapping[str, Any]) -> bool:
    data = envelope.get("data")
    return (
        isinstance(envelope.get("stream"), str)
        and isinstance(envelope.get("epoch"), str)
        and _is_number(envelope.get("from"))
        and _is_number(envelope.get("head"))
        and (data is None or _is_list_of(data, str))
        and isinstance(envelope.get("at", 0), int | float)
    )


def _is_pending(envelope: Mapping[str, Any]) -> bool:
    sessions = envelope.get("sessions")
    return isinstance(sessions, list) and all(map(_is_number, sessions))


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_node(envelope: Mapping[str, Any]) -> bool:
    return True


def _is_echo(envelope: Mapping[str, Any]) -> bool:
    return isinstance(envelope.get("token"), str)


SHAPES = {
    "stream": _is_stream,
    "pending": _is_pending,
    "node": _is_node,
    "echo": _is_echo,
}


def is_known(message: Any) -> bool:
    """Whether a message from the layer is an envelope that this version understands. One that is
    not is logged, and to be ignored."""
    if not isinstance(message, dict) or message.get("type") != TYPE:
        logger.warning("ignored a message that is no envelope: %.200r", message)
        return False
    version, kind = message.get("version"), message.get("kind")
    if version != VERSION or not isinstance(kind, str) or kind not in SHAPES:
        logger.debug("ignored an envelope of another version: %.200r", message)
        return False
    if not SHAPES[kind](message):
        logger.warning("ignored a malformed envelope: %.200r", message)
        return False
    return True


def ask(nodes: Collection[uuid.UUID]) -> None:
    """These nodes look at the database now, as far as they can be told: something was asked of
    them, or of sessions of theirs. Never raises; others see it with their next round."""
    if not nodes or wakers.asked(nodes):
        return
    [group] = [node_group(node) for node in nodes] if len(nodes) == 1 else [NODES]
    nudge(group, node_envelope())


# --- from processes without a node --------------------------------------------------------------


def nudge(group: str, envelope: dict[str, Any]) -> None:
    """Says an envelope to a group from a command, a task or a view: best effort, within 1 s.

    Never raises. Nothing is said without a layer, or with one in memory, whose groups end with the
    process. In a thread that runs an event loop it does not wait: the loop says it later.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        try:
            async_to_sync(anudge)(group, envelope)
        except Exception as error:
            logger.info("could not nudge %s: %r", group, error)
        return
    task = loop.create_task(anudge(group, envelope))
    _scheduled.add(task)
    task.add_done_callback(_scheduled.discard)


async def anudge(group: str, envelope: dict[str, Any]) -> None:
    """The same for asynchronous code: returns when it is said or given up, after 1 s at most."""
    try:
        layer = get_channel_layer(settings.channel_layer)
        if layer is None or isinstance(layer, InMemoryChannelLayer):
            return
        async with asyncio.timeout(NUDGE_TIMEOUT):
            await layer.group_send(group, envelope)
    except Exception as error:
        logger.info("could not nudge %s: %r", group, error)
