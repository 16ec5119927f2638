"""The TCP sockets behind granian's WebSockets, which its runtime keeps to itself.

granian closes the socket together with its close frame. What the client still sends is then
answered with a reset, and a client that writes when it comes never reads the close frame: it sees
1006. RFC 6455, 7.1.1, wants what is done here: a second descriptor of the same socket keeps it open
for reading until the client has closed its side. It is found among those of the process by the
addresses of the connection; where that fails, granian's own close is all there is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

DIRECTORY = "/dev/fd"
AT_MOST = 0.05  # of the time is spent on looks at all descriptors
AT_ONCE = 64 * 1024  # bytes
SEVERAL = -1  # in place of a descriptor: more than one socket has these addresses

Addresses = tuple[str, int, int]  # the client's address and port, the server's port


def addresses(scope: Mapping[str, Any]) -> Addresses | None:
    """None for what has no such addresses: a Unix socket."""
    try:
        (host, port), (_, own) = scope["client"], scope["server"]
        return str(host), int(port), int(own)
    except (KeyError, TypeError, ValueError):
        return None


class Sockets:
    """Knows which connections there are, and looks for their descriptors when one is needed."""

    def __init__(self) -> None:
        self._descriptors: dict[Addresses, int | None] = {}  # of open connections, where known
        self._next_look = float("-inf")

    def __len__(self) -> int:
        return len(self._descriptors)

    def began(self, connection: Addresses) -> None:
        """Of a server that listens on several addresses, granian does not say on which: two
        connections may look alike, and neither may be taken for the other."""
        self._descriptors[connection] = SEVERAL if connection in self._descriptors else None

    def ended(self, connection: Addresses) -> None:
        self._descriptors.pop(connection, None)

    def second(self, connection: Addresses) -> socket.socket | None:
        """A second descriptor of the connection's socket, to be closed by the caller. It is not
        asked for again: granian closes the first one, whose number another socket may get."""
        if self._descriptors.get(connection) is None:
            self._look()
        descriptor = self._descriptors.get(connection)
        if descriptor is None or descriptor == SEVERAL or _addresses_of(descriptor) != connection:
            return None
        del self._descriptors[connection]
        # Other threads open and close descriptors meanwhile: what counts is what we have now.
        try:
            second = os.dup(descriptor)
        except OSError:
            return None
        if _addresses_of(second) == connection:
            return socket.socket(fileno=second)
        if stat.S_ISSOCK(os.fstat(second).st_mode):
            os.close(second)
        # A file is left open: closing it would take away the locks that SQLite has on it.
        return None

    def _look(self) -> None:
        begun = time.monotonic()
        if begun < self._next_look:
            return
        try:
            present = {int(name) for name in os.listdir(DIRECTORY)}
        except OSError:
            return
        for descriptor in present.difference(self._descriptors.values()):
            connection = _addresses_of(descriptor)
            if connection in self._descriptors:
                known = self._descriptors[connection]
                alone = known is None or _are_one(known, descriptor)
                self._descriptors[connection] = descriptor if alone else SEVERAL
        now = time.monotonic()
        self._next_look = now + (now - begun) / AT_MOST


def _addresses_of(descriptor: int) -> Addresses | None:
    """None for what is no socket, has no such addresses, or is not there any more.

    Nothing is opened or closed: a process that closes any descriptor of a file loses all locks that
    it has on that file (fcntl(2)), and SQLite depends on those."""
    try:
        # With setdefaulttimeout() the constructor changes what is somebody else's.
        blocking = socket.getdefaulttimeout() is not None and os.get_blocking(descriptor)
        seen = socket.socket(fileno=descriptor)
    except OSError:
        return None
    if blocking:
        os.set_blocking(descriptor, True)
    try:
        (host, port), own = seen.getpeername()[:2], seen.getsockname()[1]
        return str(host), int(port), int(own)
    except (OSError, ValueError, IndexError):
        return None
    finally:
        seen.detach()


def _are_one(known: int, descriptor: int) -> bool:
    """Whether both are the same socket, or the known one is none any more."""
    try:
        before = os.fstat(known)
    except OSError:  # it is closed, or SEVERAL
        return known != SEVERAL
    if not stat.S_ISSOCK(before.st_mode):
        return True
    with suppress(OSError):
        return before.st_ino == os.fstat(descriptor).st_ino
    return False


async def until_peer_closes(held: socket.socket, within: float) -> None:
    """Say that nothing more comes, and drop what the peer still sends; ``within`` seconds."""
    loop = asyncio.get_running_loop()
    with held, suppress(OSError, TimeoutError):
        held.setblocking(False)
        held.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(within):
            while await loop.sock_recv(held, AT_ONCE):
                pass
