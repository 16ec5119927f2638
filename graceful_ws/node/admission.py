"""How many WebSockets a node has, and from where: counted from before anything of the application
runs until all of it has ended, so that what a flood can hold is bounded whatever it does."""

from __future__ import annotations

from collections import Counter

from graceful_ws.conf import settings

from .stats import Stats


class Full(Exception):
    """The node takes no more now: the handshake is refused, or closed 1013. ``why`` is a key of
    ``Stats.refused``."""

    def __init__(self, why: str) -> None:
        super().__init__(f"too many {why}")
        self.why = why


class Place:
    """Of one WebSocket. It has to be left, once or more often, however the WebSocket ends."""

    __slots__ = ("_address", "_admission", "_connecting", "crowded")

    def __init__(self, admission: Admission, address: str, crowded: bool) -> None:
        self._admission: Admission | None = admission
        self._address = address
        self._connecting = True
        self.crowded = crowded  # its address has more than it may: it is to be closed

    def welcomed(self) -> None:
        if self._connecting and self._admission is not None:
            self._connecting = False
            self._admission.connecting -= 1

    def leave(self) -> None:
        admission = self._admission
        if admission is None:
            return
        self.welcomed()
        self._admission = None
        admission.open -= 1
        if self._address:
            admission.addresses[self._address] -= 1
            if not admission.addresses[self._address]:
                del admission.addresses[self._address]


class Admission:
    """The places of one node."""

    def __init__(self, stats: Stats) -> None:
        self.open = 0
        self.connecting = 0  # of them, those without a welcome yet
        self.addresses: Counter[str] = Counter()  # only while their number is limited
        self._stats = stats

    def enter(self, address: str) -> Place:
        """A place for a WebSocket from ``address`` ("": unknown, and not limited). Raises Full."""
        for why, count in (("connections", self.open), ("connecting", self.connecting)):
            if count >= getattr(settings, why):
                self._stats.refused[why] += 1
                raise Full(why)
        limit = settings.connections_per_address
        if not limit:
            address = ""
        crowded = bool(address) and self.addresses[address] >= limit
        if crowded:
            self._stats.refused["address"] += 1
            address = ""  # those that are turned away do not keep the others out
        elif address:
            self.addresses[address] += 1
        self.open += 1
        self.connecting += 1
        return Place(self, address, crowded)
