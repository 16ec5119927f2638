"""hypercorn: the contract of an adapted server, in one process and in workers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import pytest

from tests.servers.contract import AdapterContract, Launch, Server, launcher

pytest.importorskip("hypercorn")

LOOPS = ["asyncio"]
if importlib.util.find_spec("uvloop") is not None:
    LOOPS.append("uvloop")


def hypercorn(*options: str) -> list[str]:
    return ["-m", "hypercorn", *options, "tests.servers.apps:application", "--bind"]


@pytest.fixture(scope="module", params=LOOPS)
def launch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    def command(port: int) -> Sequence[str]:
        return [*hypercorn("-w", "0", "-k", request.param), f"127.0.0.1:{port}"]

    with launcher(command, tmp_path_factory.mktemp("hypercorn")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestHypercorn(AdapterContract):
    name = "hypercorn"
