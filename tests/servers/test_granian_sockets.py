"""How the socket of a connection is found among the descriptors of a process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graceful_ws.servers.granian_sockets import Addresses, Sockets, addresses, until_peer_closes

TRY_LOCK = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(7)
"""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a TCP connection, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def key(server: socket.socket) -> Addresses:
    (host, port), (own_host, own_port) = server.getpeername(), server.getsockname()
    scope = {"client": (host, str(port)), "server": (own_host, str(own_port))}
    found = addresses(scope)
    assert found is not None
    return found


def test_looking_for_a_socket_takes_no_lock_from_any_file(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """A process that closes any descriptor of a file loses its locks on it; SQLite has some."""
    path = tmp_path / "database"
    path.touch()
    sockets = Sockets()
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        sockets.began(key(pair[0]))
        found = sockets.second(key(pair[0]))
        assert found is not None
        found.close()
        other = [sys.executable, "-c", TRY_LOCK, str(path)]
        assert subprocess.run(other, timeout=20, check=False).returncode == 7


def test_descriptor_that_became_another_connections_is_not_taken_for_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    connection = key(server)
    sockets = Sockets()
    sockets.began(connection)
    sockets._look()
    assert sockets._descriptors[connection] == server.fileno()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with other, accepted:
        descriptor = server.fileno()
        socket.socket.detach(server)
        os.dup2(accepted.fileno(), descriptor)
        assert sockets.second(connection) is None
        os.close(descriptor)
    assert client.recv(1) == b""


def test_two_connections_that_look_alike_are_not_taken_for_each_other() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        ends = []
        for host in ("127.0.0.1", "127.0.0.2"):  # from the same port
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("127.0.0.1", ends[0].getsockname()[1] if ends else 0))
            client.connect((host, port))
            ends += [client, listener.accept()[0]]
    connection = ("127.0.0.1", ends[0].getsockname()[1], port)
    for known in (1, 2):  # the other one may be none of a WebSocket
        sockets = Sockets()
        for _ in range(known):
            sockets.began(connection)
        assert sockets.second(connection) is None
    for end in ends[2:]:
        end.close()
    sockets = Sockets()
    sockets.began(connection)
    found = sockets.second(connection)
    assert found is not None
    for end in (found, *ends[:2]):
        end.close()


def test_sockets_of_others_stay_as_they_are(pair: tuple[socket.socket, socket.socket]) -> None:
    stranger = socket.socket()
    socket.setdefaulttimeout(10)
    try:
        sockets = Sockets()
        sockets.began(key(pair[0]))
        found = sockets.second(key(pair[0]))
    finally:
        socket.setdefaulttimeout(None)
    assert found is not None
    found.close()
    with stranger:
        assert os.get_blocking(stranger.fileno())


def test_what_has_ended_is_forgotten_and_what_has_no_addresses_is_left_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sockets = Sockets()
    sockets.began(key(pair[0]))
    sockets.ended(key(pair[0]))
    sockets.ended(key(pair[0]))
    assert len(sockets) == 0
    assert sockets.second(key(pair[0])) is None
    assert addresses({"client": None, "server": ("unix:/run/site", None)}) is None
    assert addresses({"client": ("10.0.0.1", 5)}) is None


async def test_the_wait_ends_when_the_peer_has_closed_and_at_the_latest_when_time_is_over(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, client = pair
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(until_peer_closes(server.dup(), 8.0))
        assert await loop.sock_recv(client, 1) == b""  # nothing more comes
        await loop.sock_sendall(client, b"what was on its way")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        client.close()
        await waiting
        begun = loop.time()
        first, second = socket.socketpair()
        with second:
            await until_peer_closes(first, 0.1)
        assert 0.05 < loop.time() - begun < 5
        assert first.fileno() == -1
