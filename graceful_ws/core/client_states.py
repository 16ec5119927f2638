"""The states of a client, Python or browser, and what may follow what.

A client outlives its connections: ``State`` in transitions.py is one connection as the server sees
it, ``ClientState`` is a session's wish to be connected as its client sees it.
"""

from __future__ import annotations

from enum import StrEnum


class ClientState(StrEnum):
    DISCONNECTED = "disconnected"  # not started yet, or suspended
    CONNECTING = "connecting"  # dials, or waits for a welcome
    CONNECTED = "connected"
    DRAINING = "draining"  # connected, and told to move to another connection
    WAITING = "waiting"  # to try again: the fast lane, with growing delays
    PARKED = "parked"  # the same in the slow lane: far apart, and without end
    CLOSED = "closed"  # for good: the session has ended, or the tries are used up


_DISCONNECTED, _CONNECTING, _CONNECTED, _DRAINING, _WAITING, _PARKED, _CLOSED = ClientState

_LOST = frozenset({_WAITING, _PARKED, _CLOSED, _DISCONNECTED})

TRANSITIONS: dict[ClientState, frozenset[ClientState]] = {
    _DISCONNECTED: frozenset({_CONNECTING, _PARKED, _CLOSED}),
    _CONNECTING: _LOST | {_CONNECTED},
    # To CONNECTING: the connection is gone while its successor is being dialled.
    _CONNECTED: _LOST | {_DRAINING, _CONNECTING},
    _DRAINING: _LOST | {_CONNECTED, _CONNECTING},
    _WAITING: frozenset({_CONNECTING, _PARKED, _CLOSED, _DISCONNECTED}),
    _PARKED: frozenset({_CONNECTING, _CLOSED, _DISCONNECTED}),
    # A browser's object may be opened again, with a new session.
    _CLOSED: frozenset({_CONNECTING, _PARKED}),
}
