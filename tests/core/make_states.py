"""Writes docs/states.md from the transition tables: ``python -m tests.core.make_states``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias, get_args

from graceful_ws.core import breaker, connection
from graceful_ws.core.connection import Limits
from graceful_ws.core.transitions import (
    Kind,
    State,
    Trigger,
)

PATH = Path(__file__).resolve().parents[2] / "docs" / "states.md"

Transitions: TypeAlias = Mapping[Any, StrEnum]

EVENTS = get_args(connection.Event)
LIMITS = Limits()

STATES = {
    State.DISCONNECTED: "Not opened yet, or over.",
    State.CONNECTING: "The handshake is done; a valid hello and its session are awaited.",
    State.CONNECTED: "Messages go both ways.",
    State.IDLE: f"Connected, and for {LIMITS.idle:g} s no application message in either direction.",
    State.SUSPECT: "Connected, but nothing came back on the last ping.",
    State.DRAINING: "Told to reconnect elsewhere; messages still go both ways.",
    State.CLOSING: "Our close frame is out; the reply is awaited.",
}

TRIGGERS = {
    Trigger.CONNECTING_LIMIT_REACHED: f"No valid hello within {LIMITS.connecting:g} s: close 4400.",
    Trigger.IDLE_LIMIT_REACHED: f"No application message for {LIMITS.idle:g} s.",
    Trigger.IDLE_CLOSE_LIMIT_REACHED: "The same with `close_when_idle`: close 4105.",
    Trigger.PING_FELL_DUE: "Nothing received, or nothing sent, for "
    f"{LIMITS.heartbeat_interval:g} s, or no ping for {LIMITS.rtt_interval:g} s: ping. The first "
    "is due ½ to 1 interval after the welcome.",
    Trigger.PONG_MISSED: f"Nothing received within {LIMITS.heartbeat_timeout:g} s of a ping: ping "
    "again.",
    Trigger.MISSED_LIMIT_REACHED: f"{LIMITS.max_missed} misses in a row: close 4102.",
    Trigger.CLOSING_LIMIT_REACHED: f"No reply to our close frame within {LIMITS.closing:g} s: drop "
    "the transport.",
}

TEXT = """\
# States

*Drawn from the transition tables by `python -m tests.core.make_states`. Do not edit.*

## A connection

{diagram}

| state | meaning |
|---|---|
{states}

What happens to a connection comes from outside. What the clock does to it is judged from its state
and its times when its deadline is reached; the numbers are the defaults.

| happens | meaning |
|---|---|
{events}

The whole table: the new state, · for no change, - for what cannot happen and raises
`IllegalTransition`.

{table}

A frame received in `suspect` leads on to `idle` at once if the idle limit has passed meanwhile.

## A circuit breaker

{breaker_diagram}

{breaker_table}
"""


def name(kind: Kind | StrEnum) -> str:
    return kind.value if isinstance(kind, StrEnum) else kind.__name__


def diagram(transitions: Transitions, first: StrEnum) -> str:
    edges: dict[tuple[StrEnum, StrEnum], list[str]] = {}
    for (state, kind), target in transitions.items():
        if target is not state:
            edges.setdefault((state, target), []).append(name(kind))
    lines = [
        f"{state} --> {target}: {', '.join(kinds)}" for (state, target), kinds in edges.items()
    ]
    body = "\n".join(f"    {line}" for line in [f"[*] --> {first}", *lines])
    return f"```mermaid\nstateDiagram-v2\n{body}\n```"


def table(transitions: Transitions, states: type[StrEnum]) -> str:
    def cell(state: StrEnum, kind: Kind | StrEnum) -> str:
        target = transitions.get((state, kind))
        if target is None:
            return "-"
        return "·" if target is state else str(target)

    rows = [["", *states], ["---"] * (len(states) + 1)]
    for kind in sorted(dict.fromkeys(kind for _, kind in transitions), key=order):
        rows.append([name(kind), *(cell(state, kind) for state in states)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def order(kind: Kind | StrEnum) -> int:
    """Events in the order of their definition, then what the clock does to a connection."""
    if isinstance(kind, StrEnum):
        return len(EVENTS) + list(type(kind)).index(kind)
    return EVENTS.index(kind)


def meaning(event: type) -> str:
    return (event.__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def render() -> str:
    events = [(name(event), meaning(event)) for event in EVENTS]
    events += [(name(trigger), TRIGGERS[trigger]) for trigger in Trigger]
    return TEXT.format(
        diagram=diagram(connection.TRANSITIONS, State.DISCONNECTED),
        states="\n".join(f"| {state} | {STATES[state]} |" for state in State),
        events="\n".join(f"| {kind} | {text} |" for kind, text in events),
        table=table(connection.TRANSITIONS, State),
        breaker_diagram=diagram(breaker.TRANSITIONS, breaker.BreakerState.CLOSED),
        breaker_table=table(breaker.TRANSITIONS, breaker.BreakerState),
    )


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
