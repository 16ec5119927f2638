"""What one client sent, what it was told of it, and what came back.

Pure: ``now``, float seconds of one monotonic clock, goes in. Nothing is kept of a message whose
outcome is known and whose echo has come, so that a soak of a week needs no more memory than one of
a minute.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .histogram import Histogram

MAX_OPEN = 1000  # messages of one client that wait for an outcome or an echo; then it sends no more
# The client was told that nobody knows; any other code says that the message was not handled.
UNKNOWN = frozenset({"outcome_unknown", "poison"})


@dataclass(slots=True)
class Open:
    """A message on its way. ``outcome``: None until it is known, "acknowledged", or why not."""

    sent_at: float
    outcome: str | None = None
    echoed: bool = False

    @property
    def is_missing(self) -> bool:
        return self.outcome == ACKNOWLEDGED and not self.echoed


ACKNOWLEDGED = "acknowledged"


@dataclass(slots=True)
class Counts:
    """Of one client, or of all. ``longest_gap``: seconds in which an echo was due and none came."""

    sent: int = 0
    acknowledged: int = 0
    received: int = 0
    lost: int = 0  # acknowledged, and no echo came
    duplicated: int = 0
    out_of_order: int = 0
    unexpected: int = 0  # echoes and results of what this client did not send like that
    unanswered: int = 0  # sent, and no outcome came
    gaps: Counter[str] = field(default_factory=Counter)  # that the server told, by reason
    nacks: Counter[str] = field(default_factory=Counter)  # final ones, by code
    others: int = 0  # messages that are no echoes of a soak
    longest_gap: float = 0.0

    def add(self, other: Counts) -> None:
        """Takes another client's counts in."""
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name == "longest_gap" else mine + theirs)


@dataclass(frozen=True, slots=True)
class Messages:
    """Makes the messages of one client: ``size`` is that of their data as JSON, in bytes."""

    run: str
    client: int
    size: int = 0

    def make(self, number: int) -> dict[str, Any]:
        data = {"soak": self.run, "client": self.client, "number": number, "pad": ""}
        missing = self.size - len(json.dumps(data, separators=(",", ":")))
        return {**data, "pad": "x" * missing}

    def is_of_this_run(self, data: Any) -> bool:
        return isinstance(data, dict) and data.get("soak") == self.run

    def number(self, data: Any) -> int | None:
        """The number of an echo; None when it is not, to the letter, what this client sends."""
        number = data.get("number")
        if type(number) is not int or number < 1 or data != self.make(number):
            return None
        return number


class Ledger:
    """The books of one client. Durations from sending to the outcome and to the echo go into
    ``ack_trips`` and ``echo_trips``, which clients share."""

    def __init__(self, messages: Messages, ack_trips: Histogram, echo_trips: Histogram) -> None:
        self.messages = messages
        self.counts = Counts()
        self._ack_trips = ack_trips
        self._echo_trips = echo_trips
        self._open: dict[int, Open] = {}  # ascending
        self._highest = 0  # of the echoes
        self._owed = 0  # messages above the highest whose echo is due
        self._owed_since = 0.0

    @property
    def is_full(self) -> bool:
        """So much is on its way that nothing more should be sent."""
        return len(self._open) >= MAX_OPEN

    @property
    def is_settled(self) -> bool:
        """Nothing is on its way any more. What later echoes have overtaken is not waited for: in
        order it cannot come."""
        return self._owed == 0 and all(each.outcome is not None for each in self._open.values())

    @property
    def missing(self) -> int:
        """Acknowledged, and overtaken by a later echo, up to now."""
        overtaken = (each for number, each in self._open.items() if number < self._highest)
        return self.counts.lost + sum(each.is_missing for each in overtaken)

    def next_message(self) -> dict[str, Any]:
        """The message to send now; ``sent`` says that it was."""
        return self.messages.make(self.counts.sent + 1)

    def sent(self, now: float) -> None:
        self.counts.sent += 1
        self._open[self.counts.sent] = Open(now)
        self._owe(1, now)
        self._give_up()

    def acknowledged(self, number: int, result: Any, now: float) -> None:
        """``result``: None, or the data of the message once more."""
        if result is not None and result != self.messages.make(number):
            self.counts.unexpected += 1
        self.counts.acknowledged += 1
        each = self._open.get(number)
        if each is not None:
            self._ack_trips.add(now - each.sent_at)
            self._settle(number, each, ACKNOWLEDGED)

    def nacked(self, number: int, code: str, now: float) -> None:
        """For good."""
        self.counts.nacks[code] += 1
        each = self._open.get(number)
        if each is not None:
            if number > self._highest:
                self._owe(-1, now)
            self._settle(number, each, code)

    def _settle(self, number: int, each: Open, outcome: str) -> None:
        each.outcome = outcome
        if each.echoed:
            del self._open[number]
        self._give_up()

    def received(self, data: Any, now: float) -> None:
        """A message of the server, most likely an echo."""
        counts = self.counts
        if not self.messages.is_of_this_run(data):
            counts.others += 1
            return
        number = self.messages.number(data)
        if number is None or number > counts.sent:
            counts.unexpected += 1
            return
        counts.received += 1
        each = self._open.get(number)
        if each is None or each.echoed:
            counts.duplicated += 1
            return
        self._echo_trips.add(now - each.sent_at)
        if number < self._highest:
            counts.out_of_order += 1
        else:
            self._reach(number, now)
        each.echoed = True
        if each.outcome is not None:
            del self._open[number]
        self._give_up()

    def _reach(self, number: int, now: float) -> None:
        """The first echo above the highest: the server delivers."""
        counts = self.counts
        if self._owed:
            counts.longest_gap = max(counts.longest_gap, now - self._owed_since)
        passed = (self._open.get(each) for each in range(self._highest + 1, number + 1))
        done = sum(each is not None and each.outcome in (None, ACKNOWLEDGED) for each in passed)
        self._highest = number
        self._owed_since = now
        self._owe(-done, now)

    def _owe(self, more: int, now: float) -> None:
        if self._owed == 0:
            self._owed_since = now
        self._owed += more

    def _give_up(self) -> None:
        """On what has been overtaken, before it fills the books for ever."""
        if not self.is_full:
            return
        for number in [n for n, each in self._open.items() if n < self._highest]:
            if not self._open[number].echoed and self._open[number].outcome is not None:
                self.counts.lost += self._open.pop(number).is_missing

    def gap(self, reason: str) -> None:
        """The server said that messages are missing."""
        self.counts.gaps[reason] += 1

    def close(self, now: float) -> None:
        """What has not come will not come any more."""
        counts = self.counts
        if self._owed:
            counts.longest_gap = max(counts.longest_gap, now - self._owed_since)
        counts.lost += sum(each.is_missing for each in self._open.values())
        counts.unanswered += sum(each.outcome is None for each in self._open.values())
        self._open.clear()
        self._owed = 0
