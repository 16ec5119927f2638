"""Daphne: the contract of an adapted server, and what only its adapter brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.servers.contract import AdapterContract, Launch, Server, launcher

LIMIT = 4096  # bytes of a message


def daphne(port: int) -> Sequence[str]:
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    size = str(LIMIT)
    limits = ["--websocket-max-message-size", size, "--websocket-max-frame-size", size]
    return ["-m", "daphne", *limits, "-e", endpoint, "tests.servers.apps:application"]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    with launcher(daphne, tmp_path_factory.mktemp("daphne")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestDaphne(AdapterContract):
    name = "daphne"
