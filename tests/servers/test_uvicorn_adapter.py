"""uvicorn: the contract of an adapted server with each WebSocket implementation it offers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import pytest

from tests.servers.contract import AdapterContract, Launch, Server, launcher

pytest.importorskip("uvicorn")

IMPLEMENTATIONS = ["websockets-sansio", "websockets"]
if importlib.util.find_spec("wsproto") is not None:
    IMPLEMENTATIONS.append("wsproto")


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def launch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    def uvicorn(port: int) -> Sequence[str]:
        where = ["--port", str(port), "--ws", request.param]
        return ["-m", "uvicorn", *where, "tests.servers.apps:application"]

    with launcher(uvicorn, tmp_path_factory.mktemp("uvicorn")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestUvicorn(AdapterContract):
    name = "uvicorn"
