"""Settings: typed defaults with their units, read lazily from ``settings.GRACEFUL_WS``.

    GRACEFUL_WS = {"resume_window": 600, "message_bytes": 16 * 1024}

Durations are seconds, sizes are bytes. A consumer class overrides a limit for itself with a class
attribute of the same name. An unknown key is a system check error that names the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed


@dataclass(frozen=True, slots=True)
class Defaults:
    """Every setting with its default; docs/settings.md says what happens at each bound."""

    # Where the tables are, and how the process runs
    database: str = "default"  # alias of the database that holds the tables
    channel_layer: str = "default"  # alias of the channel layer used for wake-ups
    node_name: str = ""  # empty: the host's name and a number
    adapt_servers: bool = True  # patch Daphne and uvicorn so that they can drain
    store_in_django_thread: bool = False  # tests: run the store on Django's thread-sensitive thread
    tune_gc: bool = True  # let the garbage collector leave alone what is there for good
    sqlite_wal: bool = True  # put a SQLite file into WAL mode when the first node starts

    # One connection
    connecting_timeout: float = 5.0  # from accept to a valid hello, then 4400
    idle_timeout: float = 60.0  # without application messages the state is IDLE
    close_when_idle: bool = False  # True: idle connections are closed 4105
    closing_timeout: float = 10.0  # from our close frame to a dropped transport
    heartbeat_interval: float = 5.0  # a ping after this long without traffic
    heartbeat_timeout: float = 3.0  # nothing within it is a miss
    max_missed: int = 3  # misses in a row, then 4102
    handler_timeout: float = 30.0  # a handler past it is cancelled and its message nacked
    close_on_error: bool = False  # True: an exception in a handler closes 1011
    progress_timeout: float = 30.0  # a client that takes nothing for this long is closed 4103
    attach_timeout: float = 4.0  # a hello that waited longer than this is dropped

    # Sizes and windows
    message_rate: float = 1000.0  # messages a second of one connection, see message_burst; 0: any
    message_burst: int = 2000  # that may come at once
    message_bytes: int = 64 * 1024  # one WebSocket message from a client, then 1009
    hello_bytes: int = 128 * 1024  # the hello, then 1009
    send_bytes: int = 1024 * 1024  # one message to a client, then ValueError
    unacked: int = 64  # messages a client may have unacknowledged, then 4201
    unacked_bytes: int = 256 * 1024  # likewise in bytes
    send_window: int = 256  # messages sent and not yet acknowledged by the client, then spill
    send_window_bytes: int = 1024 * 1024  # likewise in bytes; one message may always go
    replay_rows: int = 5000  # messages a reader may be behind, then gap too_far
    subscriptions: int = 200  # streams of one session
    control_frames: int = 256  # control frames and volatiles waiting in one connection

    # Sessions
    resume_window: float = 3600.0  # a detached session can be resumed for this long
    reconnect_window: float = 5.0  # clients spread their first reconnect over it
    exit_grace: float = 15.0  # an absence shorter than this is announced to nobody
    anonymous_unused: float = 60.0  # life of a detached session that never sent nor subscribed

    # The process
    beat_interval: float = 3.0  # a node counts its beat up this often
    dead_after: float = 12.0  # the same beat seen for this long, by the watcher's own clock
    round_interval: float = 5.0  # a node compares itself with the database this often
    poll_interval: float = 0.5  # stream heads, while no layer carries wake-ups between nodes
    attach_queue: int = 10_000  # hellos waiting for the writer, then 1013; see attach_timeout
    journal_queue: int = 10_000  # entries waiting for the writer, then the sender waits
    round_entries: int = 1000  # entries the writer takes into one transaction
    handler_threads: int = 8  # threads for receive_in_transaction
    handler_queue: int = 1000  # receive_in_transaction calls waiting for a thread, then nack retry

    # Limits of a node and of who connects
    connections: int = 50_000  # WebSockets of one node, then a handshake is refused 503
    connecting: int = 10_000  # WebSockets of one node without a welcome yet, likewise
    connections_per_user: int = 100  # of one user, on all nodes, then 4503; 0: no limit
    connections_per_address: int = 0  # of one address, on one node, then 4503; 0: no limit

    # Reclaiming
    reclaim_above: float = 0.85  # share of the memory limit; 0: nothing is reclaimed
    reclaim_idle: float = 300.0  # without application messages a connection may be reclaimed
    memory_limit: int = 0  # bytes; 0: that of the cgroup or the machine

    # Metrics
    metrics_token: str = ""  # bearer token for metrics/; empty: staff only
    sample_interval: float = 15.0  # a node keeps its figures this often
    sample_age: float = 3600.0  # and for this long
    live_url: str = "/ws/graceful/live/"  # where the live dashboard's consumer is routed

    # What surrounds the process, for the system checks
    termination_grace: float = 0.0  # the platform waits so long after SIGTERM; 0: not said
    proxy_timeout: float = 0.0  # a proxy cuts a silent connection after it; 0: not said

    # Drain
    drain_observe: float = 0.0  # keep accepting this long after readiness turned 503
    drain_window: float = 10.0  # notices are spread over it
    drain_rate: float = 500.0  # reconnects per second asked of all draining nodes together
    drain_deadline: float = 25.0  # everything is over by then
    drain_retry_after: float = 5.0  # Retry-After of a refused handshake

    # Retention
    journal_age: float = 3600.0  # rows older than this go, acknowledged or not
    journal_rows: int = 10_000  # rows kept for one session or stream
    journal_bytes: int = 16 * 1024 * 1024  # bytes kept for one session or stream
    ended_age: float = 86_400.0  # ended sessions and gone nodes stay listed this long
    audit_age: float = 90 * 86_400.0  # audit entries
    purge_interval: float = 30.0  # how often a node looks for rows to purge

    # HTTP
    check_origin: bool = True  # refuse a foreign Origin before accepting
    allowed_origins: tuple[str, ...] = ()  # further origins, as scheme://host[:port]


NAMES = frozenset(field.name for field in fields(Defaults))


class Settings:
    """Reads like ``Defaults``; the values of ``settings.GRACEFUL_WS`` win. Unknown keys are left
    to the system check, so that a typing error does not take a running site down."""

    _values: Defaults | None = None

    def __getattr__(self, name: str) -> Any:
        values = self._values
        if values is None:
            given = getattr(django_settings, "GRACEFUL_WS", {})
            if not isinstance(given, Mapping):
                given = {}  # a system check says so
            values = Defaults(**{key: value for key, value in given.items() if key in NAMES})
            self._values = values
        return getattr(values, name)

    def reload(self) -> None:
        self._values = None


settings = Settings()


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "GRACEFUL_WS":
        settings.reload()


setting_changed.connect(_on_setting_changed, dispatch_uid="graceful_ws.conf")
