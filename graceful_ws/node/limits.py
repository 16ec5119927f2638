"""The limits of one consumer class: its attributes where it has them, the settings otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from django.core.signals import setting_changed

from graceful_ws.conf import settings
from graceful_ws.core.connection import Limits


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds and bytes, as in ``graceful_ws.conf``; a class attribute of the same name wins."""

    connecting_timeout: float
    idle_timeout: float
    close_when_idle: bool
    closing_timeout: float
    heartbeat_interval: float
    heartbeat_timeout: float
    max_missed: int
    handler_timeout: float
    close_on_error: bool
    progress_timeout: float
    message_rate: float
    message_burst: int
    message_bytes: int
    hello_bytes: int
    send_bytes: int
    unacked: int
    unacked_bytes: int
    resume_window: float
    check_origin: bool
    _plain: Limits = field(init=False, repr=False, compare=False)
    _graceful: Limits = field(init=False, repr=False, compare=False)

    @cache  # noqa: B019 - there are as many as consumer classes
    def machine(self, *, plain: bool) -> Limits:
        """A plain client says no hello and answers no pings."""
        return self._plain if plain else self._graceful

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plain", self._machine(plain=True))
        object.__setattr__(self, "_graceful", self._machine(plain=False))

    def _machine(self, *, plain: bool) -> Limits:
        return Limits(
            connecting=math.inf if plain else self.connecting_timeout,
            idle=self.idle_timeout,
            closing=self.closing_timeout,
            heartbeat_interval=self.heartbeat_interval,
            heartbeat_timeout=self.heartbeat_timeout,
            max_missed=self.max_missed,
            close_when_idle=self.close_when_idle,
            heartbeat=not plain,
        )


LIMITS = tuple(one.name for one in fields(ConnectionLimits) if one.init)


@cache
def limits_of(consumer_class: type) -> ConnectionLimits:
    values: dict[str, Any] = {}
    for name in LIMITS:
        value = getattr(consumer_class, name, None)
        values[name] = getattr(settings, name) if value is None else value
    return ConnectionLimits(**values)


def _on_setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "GRACEFUL_WS":
        limits_of.cache_clear()


setting_changed.connect(_on_setting_changed, dispatch_uid="graceful_ws.limits")
