"""Daphne: the contract of an adapted server, and what only its adapter brings."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.servers.contract import AdapterContract, Launch, Server, launcher, peer

LIMIT = 4096  # bytes of a message

RUNSERVER = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
settings.configure(
    INSTALLED_APPS=["daphne"],
    ALLOWED_HOSTS=["127.0.0.1"],
    ASGI_APPLICATION="tests.servers.apps.application",
)
execute_from_command_line(["manage.py", "runserver", "--noreload", "--skip-checks", sys.argv[1]])
"""


def daphne(port: int) -> Sequence[str]:
    size = str(LIMIT)
    limits = ["--websocket-max-message-size", size, "--websocket-max-frame-size", size]
    where = ["-e", f"tcp:{port}:interface=127.0.0.1"]
    return ["-m", "daphne", *limits, *where, "tests.servers.apps:application"]


def runserver(port: int) -> Sequence[str]:
    return ["-c", RUNSERVER, f"127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    with launcher(daphne, tmp_path_factory.mktemp("daphne")) as launch:
        yield launch


@pytest.fixture(scope="module")
def server(launch: Launch) -> Server:
    return launch()


class TestDaphne(AdapterContract):
    name = "daphne"

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
    async def test_a_code_that_must_not_be_sent_is_an_error_and_the_socket_stays_open(
        self, server: Server, code: int
    ) -> None:
        async with server.client() as client:
            await client.order(close={"code": code})
            await client.expect(error=f"close code {code} must not be sent (RFC 6455, 7.4)")

    async def test_a_long_reason_is_cut_between_two_characters(self, server: Server) -> None:
        async with server.client() as client:
            seen = await client.order_until_end(close={"code": 4102, "reason": "x" + 70 * "é"})
        assert seen == (4102, "x" + 61 * "é")  # 123 bytes

    @pytest.mark.parametrize(
        ("first_byte", "payload", "masked", "code"),
        [
            pytest.param(0x81, b"\xff\xfe", True, 1007, id="invalid UTF-8"),
            pytest.param(0x81, b"cut \xc3", True, 1007, id="UTF-8 cut short"),
            pytest.param(0x81, b"{}", False, 1002, id="not masked"),
            pytest.param(0xC1, b"{}", True, 1002, id="reserved bit"),
            pytest.param(0x83, b"{}", True, 1002, id="reserved opcode"),
            pytest.param(0x81, b"x" * (LIMIT + 1), True, 1009, id="over the limit"),
        ],
    )
    async def test_bad_input_is_answered_with_a_close_code_that_both_sides_learn(
        self, server: Server, first_byte: int, payload: bytes, masked: bool, code: int
    ) -> None:
        async with server.client("/ends") as observer:
            async with peer(server, "/misbehaves") as bad:
                bad.send_frame(first_byte, payload, masked=masked)
                bad.send_frame(0x81, b'{"echo": "after the bad frame"}')
                assert await bad.close_code() == code
                bad.send_frame(0x88, code.to_bytes(2))
                assert await bad.close_codes() == []
            end = await observer.receive()
            assert (end["path"], end["code"]) == ("/misbehaves", code)
            assert end["reason"]

    async def test_a_message_may_be_larger_than_those_the_server_takes(
        self, server: Server
    ) -> None:
        async with server.client() as client:
            await client.order(say=LIMIT + 1)
            await client.expect(said="x" * (LIMIT + 1))

    async def test_a_header_cannot_smuggle_in_another(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with server.client("/split-header"):
                pass
        assert refused.value.response.status_code == 403
        assert "Set-Cookie" not in refused.value.response.headers

    async def test_refusal_has_the_reason_phrase_of_its_status(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with server.client("/refuse"):
                pass
        assert refused.value.response.reason_phrase == "Service Unavailable"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_runserver_without_reloader_drains(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        with launcher(runserver, tmp_path) as launch:
            server = launch()
            async with server.client() as client:
                await client.order(work=None)
                await client.expect(working=True)
                server.child.signal(number)
                await client.expect(draining="daphne")
                await client.order(finish=None)
                await client.expect(done=True)
                assert await client.end() == (1012, "restart")
            assert server.exit_status() == 0, server.child.log_tail()
