"""``manage.py soak`` as an operator sees it: what it says, what it prints, how it ends."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable

import pytest
from django.core.management import BaseCommand, CommandError, call_command

from graceful_ws.management.commands.soak import CLIENTS_A_SECOND, Command
from tests.client.peers import Visit, serving
from tests.soak.running import Running
from tests.support.commands import environment
from tests.support.processes import ROOT
from tests.support.servers import Site
from tests.support.waiting import eventually

SETTINGS = {"reconnect_window": 0.2, "drain_window": 0.2, "drain_deadline": 3.3}


async def site_of(make_site: Callable[..., Site], nodes: int = 1) -> Site:
    site = make_site(start=False, nodes=nodes, settings=SETTINGS)
    await site.astart()
    return site


def soaking(site: Site, *options: str, path: str = "/soak/") -> Running:
    """Three clients, ten messages a second each, until it is interrupted."""
    urls = [node.ws(path) for node in site.nodes]
    usual = ["--clients", "3", "--rate", "10", "--seconds", "300", "--ramp", "0"]
    return Running("-m", "django", "soak", *urls, *usual, *options, env=site.env)


def rows(out: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())


# Against real servers


async def test_healthy_site_passes_and_ctrl_c_ends_it_with_the_table(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with soaking(site) as soak:
        await soak.says(r"soaking \d+/300 s: 3 connected, 0 resumes; sent [1-9]")
        soak.signal(signal.SIGINT)
        assert await soak.ends() == 0
    found = rows(soak.out)
    assert found["clients"] == "3"
    assert found["seconds"].endswith(", interrupted")
    assert int(found["sent"]) >= 3
    assert found["sent"] == found["acknowledged"] == found["received"]
    assert [found[name] for name in ("lost", "duplicated", "out of order", "gaps")] == ["0"] * 4
    assert found["close codes"] == found["refused dials"] == "0"
    assert re.match(r"p50 .+ m?s, p90 .+ m?s, p99 .+ m?s, longest", found["round trip, echo"])
    states = "SELECT state, cause FROM graceful_ws_session"
    await eventually(lambda: site.sql(states) == [("ended", "bye")] * 3)


async def test_kill_in_the_middle_loses_nothing(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with soaking(site, "--clients", "4") as soak:
        await soak.says(r"4 connected, 0 resumes; sent [1-9]")
        await site.node.arestart()
        await soak.says(r"4 connected, 4 resumes")
        soak.signal(signal.SIGINT)
        assert await soak.ends() == 0
    found = rows(soak.out)
    assert found["close codes"] == "4 (1006: 4)"
    assert found["sent"] == found["acknowledged"] == found["received"]
    assert float(found["longest gap"].split(" ")[0]) > 0.2


async def test_stop_and_start_of_the_only_node_loses_nothing(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with soaking(site, "--seconds", "300") as soak:
        await soak.says(r"3 connected, 0 resumes; sent [1-9]")
        site.node.terminate()
        assert await site.node.await_exit(15) == 0
        await site.node.arestart()
        await soak.says(r"3 connected, 3 resumes")
        soak.signal(signal.SIGINT)
        assert await soak.ends() == 0
    found = rows(soak.out)
    assert found["close codes"] == "3 (1012: 3)"
    assert found["resumes"] == "3"


async def test_stop_of_one_node_of_two_loses_nothing_and_is_hardly_noticed(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site, nodes=2)
    async with soaking(site, "--json", "--clients", "6") as soak:
        attached = "SELECT count(*) FROM graceful_ws_session WHERE last_client_seq > 5"
        await eventually(lambda: site.sql(attached) == [(6,)], within=20)
        site.nodes[0].terminate()
        assert await site.nodes[0].await_exit(15) == 0
        soak.signal(signal.SIGINT)
        assert await soak.ends() == 0
    report = json.loads(soak.out)
    assert report["passed"] and not report["violations"]
    assert report["refused_dials"] == 0
    assert report["sent"] == report["received"] > 30


async def test_json_is_one_line_and_nothing_else_is_said(make_site: Callable[..., Site]) -> None:
    site = await site_of(make_site)
    async with soaking(site, "--json", "--seconds", "1") as soak:
        assert await soak.ends() == 0
    assert soak.err == ""
    assert soak.out.count("\n") == 1
    report = json.loads(soak.out)
    assert (report["passed"], report["interrupted"], report["clients"]) == (True, False, 3)
    assert report["sent"] == report["acknowledged"] == report["received"]
    assert set(report["echo_trip"]) == {"p50", "p90", "p99", "longest"}


async def test_consumer_that_does_not_echo_fails_with_a_hint(
    make_site: Callable[..., Site],
) -> None:
    site = await site_of(make_site)
    async with soaking(site, "--seconds", "0.5", "--settle", "0.2", path="/room/") as soak:
        assert await soak.ends() == 1
    assert int(rows(soak.out)["lost"]) > 0
    last = soak.err.splitlines()[-1]
    assert re.match(r"CommandError: Not all is well: \d+ lost.*EchoConsumer", last)


async def test_second_ctrl_c_stops_at_once() -> None:
    async def script(visit: Visit) -> None:
        await visit.welcome()
        await visit.read("message")
        soak.signal(signal.SIGINT)  # there is an outcome to wait for
        await visit.gone()

    env = environment("sqlite:///:memory:")
    async with serving(script) as peer:
        running = Running("-m", "django", "soak", peer.url, "--clients", "1", env=env)
        async with running as soak:
            await soak.says("settling 0/60 s: 1 connected")
            soak.signal(signal.SIGINT)
            assert await soak.ends(within=5) == 130
    assert soak.out == ""
    assert "Stopped" in soak.err.splitlines()[-1]


# Without a site


def refusal(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as raised:
        call_command("soak", *arguments)
    assert "\n" not in str(raised.value)
    assert raised.value.returncode == 2
    return raised.value


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("http://a/", "http://a/ is a page: WebSockets begin with ws://"),
        ("a", "'a' is no URL of a WebSocket, such as wss://example.com/ws/"),
        ("ws://a/ https://b/", "https://b/ is a page: WebSockets begin with wss://"),
        ("ws://a/ --clients 0", "--clients has to be a whole number above 0, not '0'."),
        ("ws://a/ --clients 1.5", "--clients has to be a whole number above 0, not '1.5'."),
        ("ws://a/ --clients 100001", "--clients is at most 100000, not 100001."),
        ("ws://a/ --seconds x", "--seconds has to be a number above 0, not 'x'."),
        ("ws://a/ --rate nan", "--rate has to be a number above 0, not 'nan'."),
        ("ws://a/ --ramp=-1", "--ramp has to be a number from 0 on, not '-1'."),
        ("ws://a/ --settle inf", "--settle has to be a number from 0 on, not 'inf'."),
        ("ws://a/ --size x", "--size has to be a whole number from 0 on, not 'x'."),
        ("ws://a/ --header x", "--header: write it as 'Name: value', not 'x'"),
    ],
)
def test_options_that_make_no_sense(arguments: str, text: str) -> None:
    assert str(refusal(*arguments.split())) == text


def test_site_that_cannot_be_reached_is_one_line_with_a_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refusal("ws://127.0.0.1:1/", "--json")
    assert str(error).startswith("Cannot connect to ws://127.0.0.1:1/: no connection: ")
    assert str(error).endswith("Is a server running there, and is the URL right?")
    assert capsys.readouterr().out == ""


async def test_status_of_a_site_that_cannot_be_reached_is_2() -> None:
    env = environment("sqlite:///:memory:")
    async with Running("-m", "django", "soak", "ws://127.0.0.1:1/", "--json", env=env) as soak:
        assert await soak.ends() == 2
    assert soak.out == ""
    assert len(soak.err.splitlines()) == 1


def test_more_clients_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 1000))
    error = refusal("ws://127.0.0.1:1/", "--clients", "2000")
    assert "ulimit -Hn 4064" in str(error)


async def test_missing_client_is_one_line_with_a_remedy() -> None:
    program = """
import sys
sys.modules["websockets"] = None
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "soak", "ws://127.0.0.1:1/"])
"""
    async with Running("-c", program, env=environment("sqlite:///:memory:")) as soak:
        assert await soak.ends() == 2
    assert len(soak.err.splitlines()) == 1
    assert 'pip install "django-graceful-ws[client]"' in soak.err


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        call_command("soak", "--help")
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for part in ("EchoConsumer.as_asgi()", "--clients 1000 --seconds 600", "exit status:"):
        assert part in text


def test_docs_have_every_option_with_its_default() -> None:
    page = (ROOT / "docs/soak.md").read_text()
    parser = Command().create_parser("manage.py", "soak")
    common = BaseCommand().create_parser("manage.py", "other")
    known = {flag for action in common._actions for flag in action.option_strings}
    for action in parser._actions:
        flag = action.option_strings[-1] if action.option_strings else ""
        if flag and flag not in known:
            row = next(line for line in page.splitlines() if line.startswith(f"| `{flag}"))
            if action.default not in (None, False, "0"):
                assert f"| {action.default} |" in row
    assert f"N / {CLIENTS_A_SECOND}" in page
