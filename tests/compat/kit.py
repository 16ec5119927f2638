"""Scenarios: what a consumer does, written once and played with both base classes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

from graceful_ws.consumers import GracefulConsumer, GracefulWebsocketConsumer
from tests.compat.peer import Line, Peer

Play = Callable[[Peer, Any], Awaitable[None]]

PAIRS = {  # the base class in Channels, and here
    "json": (AsyncJsonWebsocketConsumer, GracefulConsumer),
    "text": (AsyncWebsocketConsumer, GracefulWebsocketConsumer),
}

# Of scenarios.
MODULES = (
    *("opening", "talking", "talking_json", "layers", "failing", "overriding", "bounds"),
    "surroundings",
)

# The differences that are meant: key → first cell of its row in docs/migrate.md.
DIFFERENCES: dict[str, str] = {
    "origin": "a foreign Origin",
    "full": "a full or draining node, or a database that is away",
    "user": "more than 100 connections of one user",
    "denied": "an exception before `accept()`",
    "exception": "an exception after `accept()`",
    "stop": "`StopConsumer` without `close()`",
    "disconnect": "`disconnect(code)`",
    "timeout": "a handler that takes over 30 s",
    "slow": "a slow handler",
    "left": "what waits when the client leaves",
    "closing": "what comes after `close()`",
    "rate": "over 1,000 messages a second of one connection",
    "size": "a message over 64 KiB",
    "reason": "a reason of `close()` over 123 bytes",
    "queued": "`await self.send(…)`",
    "past": "`self.base_send(…)` past `accept()` and `close()`",
    "not json": "JSON: text that is not JSON",
    "binary": "JSON: binary or empty text",
    "json": "JSON: the text of `send_json`",
    "strict": "JSON: `NaN`, infinities and lone surrogates in `send_json`",
    "answer": "JSON: `send_json` of over 1 MiB",
    "unknown type": "a group message of an unknown type",
    "layer": "the channel layer fails",
    "old connections": "`close_old_connections` in Django's thread, for async calls of the ORM",
    "names": "more names are taken",
    "tests": "tests with `WebsocketCommunicator`",
}

# Those that are no scenario here, and the tests that know them.
ELSEWHERE = {
    "full": "tests/system/test_admission.py::test_a_full_node_refuses_with_503_and_takes_the_next",
    "user": "tests/system/test_admission.py::test_a_user_has_a_limit_on_all_nodes_together",
    "slow": "tests/system/test_plain_client.py::test_plain_client_is_handled_in_order_however_slow",
    "rate": "tests/system/test_message_rate.py::test_messages_of_a_plain_client_wait_and_all_are",
    "queued": "tests/system/test_slow_readers.py::test_plain_client_that_does_not_read_makes_its",
    "layer": "tests/compat/test_differences.py::test_layer_that_fails_is_survived",
    "old connections": "tests/compat/test_async_queries.py::test_queries_go_on_when_a_handler",
    "names": "tests/compat/test_differences.py::test_names_that_are_taken",
    "tests": "tests/compat/test_channels_testing.py::test_communicator_works_in_fresh_event_loops",
}


@dataclass(frozen=True)
class Transcript:
    """What the server was sent, and which hooks ran, each in its order."""

    sent: Sequence[Line]
    hooks: Sequence[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Differs:
    """On purpose: why, and what both do."""

    key: str
    channels: Transcript
    here: Transcript


@dataclass(frozen=True)
class Scenario:
    name: str
    play: Play
    pair: str
    differs: Differs | None = None


SCENARIOS: list[Scenario] = []


def scenario(
    *pairs: str, differs: Differs | None = None, **of_pair: Differs
) -> Callable[[Play], Play]:
    """Registers ``async def name(peer, base)`` for the pairs, or for both. ``differs`` is for all
    of them; ``json=`` and ``text=`` for one."""

    def register(play: Play) -> Play:
        for pair in pairs or PAIRS:
            SCENARIOS.append(Scenario(play.__name__, play, pair, of_pair.get(pair, differs)))
        return play

    return register
