"""What makes a setting, a limit of a consumer class or an option of a command wrong.

Each problem is one line that says what is wrong, and a hint that says the remedy; the system checks
and the commands show the same words.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit

from graceful_ws.conf import Defaults
from graceful_ws.node.drain import RESERVE

TYPES: dict[str, Any] = get_type_hints(Defaults)
MAY_BE_ZERO = frozenset(
    {
        "anonymous_unused",
        "audit_age",
        "connections_per_address",
        "connections_per_user",
        "drain_observe",
        "drain_retry_after",
        "drain_window",
        "ended_age",
        "exit_grace",
        "memory_limit",
        "message_rate",
        "proxy_timeout",
        "reclaim_above",
        "reconnect_window",
        "resume_window",
        "subscriptions",
        "termination_grace",
    }
)
BEATS_UNTIL_DEAD = 2  # beats a node must be able to miss before others call it dead


class Problem(NamedTuple):
    """One line of what is wrong, what to do about it, and the id of the system check."""

    id: str
    text: str
    hint: str


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` may have been meant to be; None when nothing is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def number_problem(value: object, *, whole: bool = False, zero: bool = False) -> str | None:
    """What keeps ``value`` from being a finite number above 0, or from 0 on; None when nothing."""
    kinds = int if whole else (int, float)
    wanted = f"a {'whole ' if whole else ''}number {'from 0 on' if zero else 'above 0'}"
    if isinstance(value, bool) or not isinstance(value, kinds):
        return f"has to be {wanted}, not {value!r}"
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        return f"has to be {wanted}, not {value!r}"
    return None


def value_problem(name: str, value: object) -> str | None:
    """What is wrong with a value of the setting ``name``, to follow its name; None when nothing."""
    kind = TYPES[name]
    if kind is bool:
        return None if isinstance(value, bool) else f"has to be True or False, not {value!r}"
    if kind is str:
        return None if isinstance(value, str) else f"has to be a string, not {value!r}"
    if kind in (int, float):
        return number_problem(value, whole=kind is int, zero=name in MAY_BE_ZERO)
    if not isinstance(value, list | tuple):
        return f"has to be a list or a tuple, not {value!r}"
    wrong = [origin for origin in value if not _is_origin(origin)]
    return f"has origins as scheme://host[:port], unlike {wrong[0]!r}" if wrong else None


def _is_origin(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        complete = bool(parts.scheme and parts.hostname)
        return complete and value == f"{parts.scheme}://{parts.netloc}" and parts.port != 0
    except ValueError:
        return False


def settings_problems(given: object) -> list[Problem]:
    """Everything that is wrong with a GRACEFUL_WS setting, each key by itself and together."""
    if not isinstance(given, Mapping):
        hint = 'Write GRACEFUL_WS = {"resume_window": 600}, or leave it out.'
        return [Problem("E003", f"GRACEFUL_WS has to be a dict, not {given!r}.", hint)]
    problems = []
    values = {name: getattr(Defaults(), name) for name in TYPES}
    for key, value in given.items():
        if key not in TYPES:
            near = nearest(str(key), TYPES)
            hint = f"Did you mean {near!r}?" if near else "docs/settings.md lists them all."
            problems.append(Problem("E001", f"GRACEFUL_WS has no setting {key!r}.", hint))
        elif wrong := value_problem(key, value):
            hint = f"The default is {values[key]!r}; docs/settings.md has the units."
            problems.append(Problem("E002", f"GRACEFUL_WS[{key!r}] {wrong}.", hint))
            del values[key]
        else:
            values[key] = value
    return problems + relation_problems(values)


def relation_problems(values: Mapping[str, Any]) -> list[Problem]:
    """What is wrong between values that are right by themselves; a missing name proves nothing."""
    checks = (_heartbeat_problem, _drain_problem, _dead_problem, _reclaim_problem)
    problems = []
    for check in checks:
        try:
            problem = check(values)
        except KeyError:
            continue
        if problem is not None:
            problems.append(problem)
    return problems


def _heartbeat_problem(values: Mapping[str, Any]) -> Problem | None:
    timeout, interval = values["heartbeat_timeout"], values["heartbeat_interval"]
    if timeout <= interval:
        return None
    return Problem(
        "E004",
        f"heartbeat_timeout ({timeout:g} s) is longer than heartbeat_interval ({interval:g} s).",
        "A miss has to be noticed before the next ping is due: lower the one or raise the other.",
    )


def _drain_problem(values: Mapping[str, Any]) -> Problem | None:
    observe, window = values["drain_observe"], values["drain_window"]
    deadline = values["drain_deadline"]
    needed = observe + window + RESERVE
    if needed <= deadline:
        return None
    return Problem(
        "E005",
        f"drain_observe ({observe:g} s) and drain_window ({window:g} s), and {RESERVE:g} s for"
        f" closing, are longer than drain_deadline ({deadline:g} s).",
        f"Raise drain_deadline to {needed:g} or more (and the platform's stop timeout above it),"
        " or lower the others.",
    )


def _dead_problem(values: Mapping[str, Any]) -> Problem | None:
    beat, dead = values["beat_interval"], values["dead_after"]
    if dead >= BEATS_UNTIL_DEAD * beat:
        return None
    return Problem(
        "E006",
        f"dead_after ({dead:g} s) is less than {BEATS_UNTIL_DEAD} x beat_interval ({beat:g} s).",
        "A node that is one beat late would be called dead: raise dead_after or lower"
        " beat_interval.",
    )


def _reclaim_problem(values: Mapping[str, Any]) -> Problem | None:
    above = values["reclaim_above"]
    if above <= 1:
        return None
    return Problem(
        "E012",
        f"reclaim_above ({above:g}) is a share of the memory limit, from 0 to 1.",
        "Write 0.85 for 85 %; 0 reclaims nothing.",
    )
