"""The browser client: its own tests, run by Node, and what it must have in common with Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client import connection, link, session
from graceful_ws.client.connection import GracefulClient
from graceful_ws.core.close_codes import advice
from graceful_ws.core.retry import Backoff
from tests.support.servers import Site
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "graceful_ws/static/graceful_ws/graceful-ws.js"
TESTS = sorted((ROOT / "tests/js").glob("*.test.mjs"))


def node_has_websockets() -> bool:
    """Node has had them from 22 on, and behind a flag since 20.10."""
    found = shutil.which("node")
    if found is None:
        return False
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60)
    version = tuple(int(part) for part in done.stdout.strip().lstrip("v").split(".")[:2])
    return version >= (20, 10)


pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


def node(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["node", *arguments], input=stdin, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def constants() -> Any:
    program = f'import * as all from "{MODULE.as_uri()}"; console.log(JSON.stringify(all))'
    return json.loads(node("--input-type=module", stdin=program))


def test_module_needs_no_other() -> None:
    lines = MODULE.read_text().splitlines()
    assert not [line for line in lines if line.startswith("import ") or " import(" in line]
    node("--check", "--input-type=module", stdin=MODULE.read_text())


def test_its_own_tests_pass() -> None:
    node("--test", *(str(path) for path in TESTS))


def test_advice_after_each_close_code_is_that_of_python() -> None:
    program = (
        f'import {{ adviceOf }} from "{MODULE.as_uri()}";'
        "console.log(JSON.stringify(Array.from({ length: 5001 }, (_, code) => adviceOf(code))))"
    )
    told = json.loads(node("--input-type=module", stdin=program))
    assert told == [advice(code) for code in range(5001)]


def test_defaults_are_those_of_the_python_client(constants: Any) -> None:
    backoff = Backoff()
    timeouts = GracefulClient.__init__.__kwdefaults__
    assert timeouts is not None
    assert constants["DEFAULTS"] == {
        "maxRetries": backoff.max_retries,
        "baseDelay": backoff.base_delay * 1000,
        "maxDelay": backoff.max_delay * 1000,
        "parkedDelay": backoff.parked_delay * 1000,
        "whenExhausted": backoff.when_exhausted,
        "minUptime": backoff.min_uptime * 1000,
        "openTimeout": timeouts["open_timeout"] * 1000,
        "welcomeTimeout": timeouts["welcome_timeout"] * 1000,
        "wakeProbe": 5000,  # of pages alone
        "requestTimeout": connection.REQUEST_TIMEOUT * 1000,
        "requestTries": connection.REQUEST_TRIES,
        "queueMessages": connection.QUEUE_MESSAGES,
        "queueBytes": connection.QUEUE_BYTES,
        "messageBytes": session.MESSAGE_BYTES,
        "ackInterval": link.ACK_INTERVAL * 1000,
        "ackMessages": link.ACK_MESSAGES,
        "ackBytes": link.ACK_BYTES,
        "probe": timeouts["probe"],
        "storage": None,  # of pages alone
    }


@pytest.mark.skipif(not node_has_websockets(), reason="this node has no WebSocket")
def test_cut_connections_lose_nothing_against_a_real_server(make_site: Callable[..., Site]) -> None:
    site = make_site()
    program = str(ROOT / "tests/js/real.mjs")
    told = json.loads(node("--experimental-websocket", program, site.ws("/echo/")))
    numbers = list(range(1, 31))
    assert told["opened"] == [False, True, True, True]
    assert told["got"] == [[n, n] for n in numbers]
    assert told["results"] == numbers
    assert told["close"] == {"code": 1000, "reason": "done", "final": True}
    rows = "SELECT state, cause FROM graceful_ws_session"
    eventually_sync(lambda: site.sql(rows) == [("ended", "bye")])
