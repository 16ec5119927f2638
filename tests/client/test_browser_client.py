"""The browser client: its own tests, run by Node, and what it must have in common with Python.

Numbers that are not exported are read from the source, ``NAME = number``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from graceful_ws.client import connection, connector, link, migration, session, socket
from graceful_ws.client.connection import GracefulClient
from graceful_ws.core import endpoints, frames
from graceful_ws.core.breaker import Breaker
from graceful_ws.core.client_states import TRANSITIONS, ClientState
from graceful_ws.core.close_codes import CloseCode, advice
from graceful_ws.core.retry import Backoff
from tests.support.servers import Site
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "graceful_ws/static/graceful_ws/graceful-ws.js"
FAKES = ROOT / "tests/js/fakes.mjs"
TESTS = sorted((ROOT / "tests/js").glob("*.test.mjs"))


def node_has_websockets() -> bool:
    """Node has had them from 22 on, and behind a flag since 20.10."""
    found = shutil.which("node")
    if found is None:
        return False
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60)
    version = tuple(int(part) for part in done.stdout.strip().lstrip("v").split(".")[:2])
    return version >= (20, 10)


pytestmark = pytest.mark.usefixtures("node_installed")


def node(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["node", *arguments], input=stdin, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tags(union: Any) -> set[str]:
    return {each.__struct_config__.tag for each in get_args(union)}


@pytest.fixture(scope="module")
def source() -> str:
    return MODULE.read_text()


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
        "queueMessages": connection.QUEUE_MESSAGES,
        "queueBytes": connection.QUEUE_BYTES,
        "probe": timeouts["probe"],
        "storage": None,  # of pages alone
    }


def test_numbers_are_those_of_the_python_client(source: str) -> None:
    found = {name: float(n) for name, n in re.findall(r"\b([A-Z_]{4,}) = ([\d.]+)[,;]", source)}
    breaker = Breaker()
    assert found == {
        "FRAME_BYTES": link.FRAME_BYTES,
        "MAX_DEPTH": frames.MAX_DEPTH - 1,  # the frame itself is one more
        "SUSPENDED": CloseCode.SUSPENDED,
        "SERVER_SILENT": CloseCode.SERVER_SILENT,
        "MARGIN": migration.MARGIN * 1000,
        "ONE_MORE_LOOK": socket.ONE_MORE_LOOK * 1000,
        "REFUSALS": session.REFUSALS,
        "OVERLOADED_ATTEMPT": connector.OVERLOADED_ATTEMPT,
        "RETRY_FIRST": link.RETRY_FIRST * 1000,
        "RETRY_MOST": link.RETRY_MOST * 1000,
        "MOST_WINDOW": link.MOST_WINDOW * 1000,
        "MOST_RETRY_AFTER": link.MOST_RETRY_AFTER * 1000,
        "MOST_NOTICE": link.MOST_NOTICE * 1000,
        "REQUEST_TIMEOUT": connection.REQUEST_TIMEOUT * 1000,
        "REQUEST_TRIES": connection.REQUEST_TRIES,
        "ACK_INTERVAL": link.ACK_INTERVAL * 1000,
        "ACK_MESSAGES": link.ACK_MESSAGES,
        "ACK_BYTES": link.ACK_BYTES,
        "MESSAGE_BYTES": session.MESSAGE_BYTES,
        "FAILURES": breaker.failures,
        "PROBES": breaker.probes,
        "OPEN_FOR": breaker.open_for * 1000,
        "ALPHA": endpoints.ALPHA,
        "NEAR": endpoints.NEAR * 1000,
        "NEAR_PART": endpoints.NEAR_PART,
        "PROBE_EVERY": endpoints.PROBE_EVERY * 1000,
        "PROBE_TIMEOUT": endpoints.PROBE_TIMEOUT * 1000,
    }


def test_codes_that_blame_an_endpoint_are_those_of_the_python_client(source: str) -> None:
    [listed] = re.findall(r"FAILURE_CODES = \[(.*)\]", source)
    failures = {int(code) for code in listed.replace("SERVER_SILENT", "4001").split(",")}
    assert failures == endpoints.FAILURE_CODES
    [listed] = re.findall(r"\[([\d, ]+), \.\.\.FAILURE_CODES\]", source)
    assert failures | {int(code) for code in listed.split(",")} == endpoints.ASIDE_CODES


def test_states_and_what_may_follow_them_are_those_of_python(source: str) -> None:
    """The tests of the client refuse any change that is not in their table."""
    program = f"""
        import {{ TRANSITIONS }} from "{FAKES.as_uri()}";
        console.log(JSON.stringify(TRANSITIONS));
    """
    table = json.loads(node("--input-type=module", stdin=program).splitlines()[0])
    assert {state: set(after) for state, after in table.items()} == TRANSITIONS
    assert [state for state in ClientState if f'"{state}"' not in source] == []


def test_frames_are_those_of_the_protocol(source: str) -> None:
    sent = set(re.findall(r'"?type"?: ?"(\w+)"', source))
    assert sent == tags(frames.ClientFrame)
    [handlers] = re.findall(r"const handlers = \{\n(.*?)\n  \};", source, re.DOTALL)
    heard = set(re.findall(r"^    (\w+)[(:]", handlers, re.MULTILINE)) - {"__proto__"}
    # Messages are written and read without a Struct, for their data is the application's.
    assert heard | {"welcome"} == tags(frames.ServerFrame) | {"message", "volatile"}


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
