"""What can be read from a client."""

from __future__ import annotations

from collections import Counter

from graceful_ws.core.client_states import ClientState
from graceful_ws.core.endpoints import EndpointStatus

from .connector import Connector
from .dialer import now
from .session import ClientSession


class Known:
    """What a client knows of its session, its connections and its endpoints."""

    session: ClientSession
    _connector: Connector

    @property
    def state(self) -> ClientState:
        """``disconnected``, ``connecting``, ``connected``, ``draining`` (told to move), ``waiting``
        (to try again), ``parked`` (the same, with long delays) or ``closed``."""
        return self._connector.state

    @property
    def session_id(self) -> str | None:
        """The public id of the session; None before the first welcome."""
        return self.session.session_id

    @property
    def node(self) -> str | None:
        """The name of the node that answered last."""
        return self.session.node

    @property
    def endpoint(self) -> str | None:
        """The URL of the current connection; None without one."""
        return self._connector.current

    @property
    def endpoints(self) -> list[EndpointStatus]:
        """What is known of each URL: its round trip, its circuit breaker."""
        return self._connector.endpoints.status(now(), self.endpoint)

    @property
    def last_seq(self) -> int:
        """The number of the last message received in the session's own sequence."""
        return self.session.last_seq

    @property
    def rtt(self) -> float | None:
        """Round trip to the current endpoint, or the last one, in seconds: a moving average. None
        until one was measured."""
        url = self.endpoint or self._connector.dialer.last_url
        return self._connector.endpoints.rtt(url)

    @property
    def resumes(self) -> int:
        """How many times the session went on over another connection."""
        return self._connector.resumes

    @property
    def refused(self) -> int:
        """Tries that ended before a WebSocket was open."""
        return self._connector.refused

    @property
    def close_codes(self) -> Counter[int]:
        """The codes with which connections ended, 1006 without a close frame. Connections that
        were left for another one do not count."""
        return self._connector.close_codes

    @property
    def replayed(self) -> int:
        """Messages received that were older than the welcome before them."""
        return self.session.replayed

    @property
    def resent(self) -> int:
        """Messages that were sent again."""
        return self.session.resent
