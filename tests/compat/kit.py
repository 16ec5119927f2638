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

MODULES = ("opening", "talking", "layers", "failing", "overriding")  # of scenarios

# Scenarios that the code does not play yet, and why.
_CODES = "close(code) of the application is not passed on as it is to plain clients"
_CLOSES = ("4000", "code_4003_reason_not allowed here", "4104", "4401", "4507")
PENDING: dict[str, str] = {
    **{f"close_{codes}": _CODES for codes in _CLOSES},
    "accepted_then_closed_at_once": _CODES,
    "handler_that_closes": _CODES,
    "mixin_of_everything": _CODES,
    "exception_in_receive": "what waits is handled although the consumer has failed",
    "user_of_ones_own_kind": "identity() expects is_authenticated",
    "encoder_that_is_no_class_method": "encode_json has no __func__",
}

# The differences that are meant: key → first cell of its row in docs/migrate.md.
DIFFERENCES: dict[str, str] = {}


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
