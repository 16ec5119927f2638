"""What a soak found: a table for people, a dict for machines, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .histogram import Histogram
from .ledger import UNKNOWN, Counts

PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class Report:
    """All clients together. Durations are seconds."""

    clients: int
    seconds: float = 0.0
    interrupted: bool = False
    counts: Counts = field(default_factory=Counts)
    never_connected: int = 0
    ended: Counter[int] = field(default_factory=Counter)  # clients closed for good, by code
    resumes: int = 0
    replayed: int = 0
    resent: int = 0
    refused_dials: int = 0
    close_codes: Counter[int] = field(default_factory=Counter)
    ack_trips: Histogram = field(default_factory=Histogram)
    echo_trips: Histogram = field(default_factory=Histogram)

    @property
    def outcome_unknown(self) -> int:
        return sum(count for code, count in self.counts.nacks.items() if code in UNKNOWN)

    @property
    def not_handled(self) -> int:
        return self.counts.nacks.total() - self.outcome_unknown

    def violations(self) -> dict[str, int]:
        """What must not be, and how often it was; nothing if all is well.

        An outcome that is unknown is none: the client was told, which is what is promised where a
        handler may have run. With ``EchoConsumer`` there is no such handler.
        """
        counts = self.counts
        found = {
            "lost": counts.lost,
            "duplicated": counts.duplicated,
            "out_of_order": counts.out_of_order,
            "unexpected": counts.unexpected,
            "gaps": counts.gaps.total(),
            "not_handled": self.not_handled,
            "unanswered": counts.unanswered,
            "never_connected": self.never_connected,
            "ended": self.ended.total(),
        }
        return {name: count for name, count in found.items() if count}

    def as_json(self) -> dict[str, Any]:
        """For machines; durations in seconds."""
        counts = self.counts
        return {
            "passed": not self.violations(),
            "violations": list(self.violations()),
            "clients": self.clients,
            "never_connected": self.never_connected,
            "ended": _by_name(self.ended),
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
            "sent": counts.sent,
            "acknowledged": counts.acknowledged,
            "received": counts.received,
            "lost": counts.lost,
            "duplicated": counts.duplicated,
            "out_of_order": counts.out_of_order,
            "unexpected": counts.unexpected,
            "gaps": _by_name(counts.gaps),
            "outcome_unknown": self.outcome_unknown,
            "not_handled": self.not_handled,
            "unanswered": counts.unanswered,
            "nacks": _by_name(counts.nacks),
            "resumes": self.resumes,
            "replayed": self.replayed,
            "resent": self.resent,
            "longest_gap": round(counts.longest_gap, 3),
            "close_codes": _by_name(self.close_codes),
            "refused_dials": self.refused_dials,
            "ack_trip": _trip(self.ack_trips),
            "echo_trip": _trip(self.echo_trips),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table: names and values."""
        counts = self.counts
        interrupted = ", interrupted" if self.interrupted else ""
        found = [
            ("clients", str(self.clients)),
            ("seconds", f"{self.seconds:.1f}{interrupted}"),
            ("sent", str(counts.sent)),
            ("acknowledged", str(counts.acknowledged)),
            ("received", str(counts.received)),
            ("lost", str(counts.lost)),
            ("duplicated", str(counts.duplicated)),
            ("out of order", str(counts.out_of_order)),
            ("gaps", _with_names(counts.gaps)),
            ("outcome unknown", str(self.outcome_unknown)),
        ]
        rare = [
            ("unexpected", str(counts.unexpected)),
            ("not handled", _with_names(counts.nacks) if self.not_handled else "0"),
            ("unanswered", str(counts.unanswered)),
            ("never connected", str(self.never_connected)),
            ("closed for good", _with_names(self.ended)),
            ("other messages", str(counts.others)),
        ]
        found += [row for row in rare if row[1] != "0"]
        return [
            *found,
            ("resumes", str(self.resumes)),
            ("replayed", str(self.replayed)),
            ("resent", str(self.resent)),
            ("longest gap", f"{duration(counts.longest_gap)} (an echo was due, and none came)"),
            ("close codes", _with_names(self.close_codes)),
            ("refused dials", str(self.refused_dials)),
            ("round trip, ack", _trip_text(self.ack_trips)),
            ("round trip, echo", _trip_text(self.echo_trips)),
        ]

    def table(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)

    def verdict(self) -> str:
        """The violations in words; "" when there are none."""
        said = []
        for name, count in self.violations().items():
            match name:
                case "gaps":
                    said.append("1 gap told" if count == 1 else f"{count} gaps told")
                case "ended":
                    said.append(f"{_clients(count)} closed for good")
                case "never_connected":
                    said.append(f"{_clients(count)} never connected")
                case _:
                    said.append(f"{count} {name.replace('_', ' ')}")
        return ", ".join(said)

    def hint(self) -> str:
        """What may be wrong with the question instead of the site; "" for nothing."""
        counts = self.counts
        if counts.sent > counts.unanswered and not counts.received:
            return "Nothing came back: is it a graceful_ws.echo.EchoConsumer that is mounted there?"
        if counts.unanswered or self.never_connected:
            return "A site that was down to the end proves nothing: allow it more --settle."
        return ""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _by_name(counter: Mapping[Any, int]) -> dict[str, int]:
    """Close codes as digits, whatever class they have."""
    keys = sorted(counter)
    return {str(int(key)) if isinstance(key, int) else key: counter[key] for key in keys}


def _with_names(counter: Counter[Any]) -> str:
    """Such as "3 (1006: 2, 1012: 1)"."""
    if not counter.total():
        return "0"
    named = ", ".join(f"{name}: {count}" for name, count in _by_name(counter).items())
    return f"{counter.total()} ({named})"


def _trip(trips: Histogram) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for percent in PERCENTILES:
        seconds = trips.percentile(percent)
        found[f"p{percent}"] = None if seconds is None else round(seconds, 4)
    return {**found, "longest": round(trips.longest, 4) if trips.count else None}


def _trip_text(trips: Histogram) -> str:
    if not trips.count:
        return "unknown"
    parts = [f"p{percent} {duration(trips.percentile(percent) or 0.0)}" for percent in PERCENTILES]
    return ", ".join([*parts, f"longest {duration(trips.longest)}"])
