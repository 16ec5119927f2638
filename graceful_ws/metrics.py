"""Prometheus metrics: what nodes count, told to prometheus-client (extra ``metrics``).

The metrics are in prometheus-client's own registry, so that an endpoint that a site has already
shows them as well, and in its multi-process mode (``PROMETHEUS_MULTIPROC_DIR``) all processes of a
host answer together. What the database knows of all nodes is asked by our own endpoint alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode
from graceful_ws.core.transitions import State
from graceful_ws.node import sampler
from graceful_ws.node import stats as node_stats
from graceful_ws.node.node import Node, local_nodes
from graceful_ws.node.stats import SHORT, SIZES
from graceful_ws.probes import Probe
from graceful_ws.store import samples

if TYPE_CHECKING:
    from graceful_ws.node.stats import Stats

UPDATE_TIMEOUT = 1.0  # seconds that a scrape waits for a busy event loop
BREAKERS = {"open": 1.0, "half_open": 0.5}  # and 0 for every other state


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(f"graceful_ws_{name}", text, labels)


def _gauge(name: str, text: str, labels: tuple[str, ...] = (), mode: Any = "livesum") -> Gauge:
    return Gauge(f"graceful_ws_{name}", text, labels, multiprocess_mode=mode)


# Attributes of Stats: a number each, or counts by label.
NUMBERS = {
    "messages_in": _counter("messages_received", "Application messages from clients."),
    "messages_out": _counter("messages_sent", "Application messages to clients."),
    "replayed": _counter("messages_replayed", "Of those sent: read back from the journal."),
    "duplicates": _counter("messages_duplicated", "Numbered messages that clients sent again."),
    "fenced": _counter("writes_fenced", "Writes refused: the session has another owner."),
}
COUNTS = {
    "hellos": _counter("hellos", "Hellos by their result and what had ended.", ("result", "cause")),
    "gaps": _counter("gaps", "Gaps that clients were told of.", ("reason",)),
    "closes": _counter("closes", "WebSockets that ended, by close code.", ("code",)),
    "exits": _counter("exits", "Sessions that ended.", ("cause",)),
    "refused": _counter("handshakes_refused", "Handshakes refused.", ("reason",)),
}
HISTOGRAMS = {
    "rtt": ("graceful_ws_ping_rtt_seconds", "Round trips of pings.", SHORT),
    "lag": (
        "graceful_ws_wakeup_lag_seconds",
        "From the commit that numbered stream messages to the sockets of a node.",
        SHORT,
    ),
    "commit": ("graceful_ws_journal_commit_seconds", "Transactions of the writer.", SHORT),
    "batch": ("graceful_ws_journal_batch_entries", "Entries in one of them.", SIZES),
}
RECLAIMED = _counter("reclaimed", "Idle connections closed under memory pressure.")
CONNECTIONS = _gauge("connections", "WebSockets by the state of the connection.", ("state",))
UNACKED = _gauge("unacked_messages", "Sent over a WebSocket and not acknowledged yet.")
DRAINING = _gauge("drain_remaining", "WebSockets left on nodes that drain.")
WAITING = _gauge("journal_waiting", "Entries and hellos that wait for the writer.")
BREAKER = _gauge("breaker_open", "1 open, 0.5 half-open, else 0.", ("breaker",), "livemax")
MEMORY = _gauge("memory_share", "Share of the memory limit in use.", mode="livemax")


class _Sums(Collector):
    """What all nodes of the process have observed. prometheus-client's own histogram takes one
    observation at a time, which several processes need, and one process has no time for."""

    def __init__(self) -> None:
        self._sums = {name: node_stats.Histogram(one[2]) for name, one in HISTOGRAMS.items()}

    def add(self, name: str, counts: Sequence[int], total: float) -> None:
        known = self._sums[name]
        known.counts = [a + b for a, b in zip(known.counts, counts, strict=True)]
        known.total += total

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for name, (metric, text, bounds) in HISTOGRAMS.items():
            known = self._sums[name]
            names = [*map(floatToGoString, bounds), "+Inf"]
            buckets = list(zip(names, accumulate(known.counts), strict=True))
            yield HistogramMetricFamily(metric, text, buckets=buckets, sum_value=known.total)


SEVERAL = "PROMETHEUS_MULTIPROC_DIR" in os.environ
_sums = _Sums()
_observers = {}
if SEVERAL:
    _observers = {
        name: Histogram(metric, text, buckets=bounds).observe
        for name, (metric, text, bounds) in HISTOGRAMS.items()
    }
else:
    REGISTRY.register(_sums)


class _Told:
    """What the counters have been told of one node already."""

    def __init__(self, stats: Stats) -> None:
        self.numbers = dict.fromkeys(NUMBERS, 0)
        self.counts: dict[str, dict[Any, int]] = {name: {} for name in COUNTS}
        self.reclaimed = 0
        self.observed = {name: ([0] * (len(one[2]) + 1), 0.0) for name, one in HISTOGRAMS.items()}
        for name, observe in _observers.items():
            getattr(stats, name).mirror = observe


_told: weakref.WeakKeyDictionary[Node, _Told] = weakref.WeakKeyDictionary()


def export(node: Node) -> None:
    """Brings the counters up to what ``node`` has counted. In its event loop."""
    stats = node.stats
    told = _told.get(node)
    if told is None:
        told = _told[node] = _Told(stats)
    for name, counter in NUMBERS.items():
        value = getattr(stats, name)
        counter.inc(value - told.numbers[name])
        told.numbers[name] = value
    for name, counter in COUNTS.items():
        _count(counter, getattr(stats, name), told.counts[name])
    reclaimed = stats.closes[CloseCode.RECLAIMED]
    RECLAIMED.inc(reclaimed - told.reclaimed)
    told.reclaimed = reclaimed
    if SEVERAL:  # another process may be asked for them
        measure(node)
        return
    for name, (counts, total) in told.observed.items():
        now = getattr(stats, name)
        new = [a - b for a, b in zip(now.counts, counts, strict=True)]
        _sums.add(name, new, now.total - total)
        told.observed[name] = list(now.counts), now.total


def measure(node: Node) -> None:
    """Sets the gauges. Counting thousands of connections by their state takes a while."""
    figures = node.sampler.figures()
    for state in State:
        CONNECTIONS.labels(state.value).set(figures["states"].get(state, 0))
    UNACKED.set(figures["unacked"])
    DRAINING.set(figures["connections"] if node.drain is not None else 0)
    WAITING.set(len(node.journal))
    for name, state in figures["breakers"].items():
        BREAKER.labels(name).set(BREAKERS.get(state, 0.0))
    share = getattr(getattr(node, "reclaimer", None), "share", None)
    if share is not None:
        MEMORY.set(share)


def _count(counter: Counter, counts: Mapping[Any, int], told: dict[Any, int]) -> None:
    for key, count in counts.items():
        labels = key if isinstance(key, tuple) else (str(key),)
        counter.labels(*labels).inc(count - told.get(key, 0))
        told[key] = count


def install() -> None:
    """Every node of this process is exported from now on."""
    if export not in sampler.listeners:
        sampler.listeners.append(export)


# --- the endpoint ---------------------------------------------------------------------------------

totals = Probe("sessions", samples.totals, within=2.0, fresh=5.0)


class _Database(Collector):
    """What the database knows of all nodes: the same on each of them."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = samples.totals() if settings.store_in_django_thread else totals.value()
        up = GaugeMetricFamily("graceful_ws_database_up", "1 if the database answers.")
        up.add_metric((), found is not None)
        yield up
        if found is None:
            return
        sessions = GaugeMetricFamily(
            "graceful_ws_sessions", "Sessions of all nodes that live.", labels=("state",)
        )
        sessions.add_metric(("attached",), found.attached)
        sessions.add_metric(("detached",), found.detached)
        yield sessions
        yield GaugeMetricFamily(
            "graceful_ws_session_messages_unacked",
            "Messages to sessions, without streams, that are not acknowledged yet.",
            value=found.unacked,
        )
        yield GaugeMetricFamily(
            "graceful_ws_session_oldest_unacked_seconds",
            "Age of the oldest of them; 0 when there is none.",
            value=found.oldest_unacked or 0.0,
        )


def exposition(accept: str) -> tuple[bytes, str]:
    """The metrics as a scraper accepts them, and their content type."""
    for node in local_nodes():
        _export_now(node)
    encode, content_type = choose_encoder(accept)
    registry: Any = REGISTRY
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory:
        _forget_dead(Path(directory))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    ours = CollectorRegistry()
    ours.register(_Database())
    return encode(_Both(registry, ours)), content_type


class _Both:
    """Two registries as one."""

    def __init__(self, *registries: Any) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Any]:
        for registry in self._registries:
            yield from registry.collect()


def _export_now(node: Node) -> None:
    """What was counted since the sampler's last look; without it when the loop is too busy."""
    try:
        if asyncio.get_running_loop() is node.loop:
            export(node)
            measure(node)
            return
    except RuntimeError:
        pass
    done: Future[None] = Future()

    def run() -> None:
        try:
            export(node)
            measure(node)
        finally:
            done.set_result(None)

    with contextlib.suppress(RuntimeError, TimeoutError):
        node.loop.call_soon_threadsafe(run)
        done.result(UPDATE_TIMEOUT)


def _forget_dead(directory: Path) -> None:
    """Gauges of processes that were killed count no longer."""
    for path in directory.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not _is_alive(int(pid)):
            multiprocess.mark_process_dead(int(pid))  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
