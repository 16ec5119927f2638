"""docs/howto/own-client.md has a client that keeps the promises of the protocol."""

from __future__ import annotations

import ast
import asyncio
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from websockets import Subprotocol
from websockets.asyncio.server import serve

from tests.support.howto import WITHIN, Project, Script, message, welcome
from tests.support.proxy import Proxy
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("howto"))
    yield project
    project.server.kill()


@pytest.fixture
def site(project: Project) -> Iterator[Project]:
    """With a server that runs; what it wrote is shown when the test fails."""
    if not project.server.running:
        project.server.restart()
    yield project
    print(project.server.log_tail())


async def test_own_client_loses_nothing_at_cuts_a_drain_and_a_kill(
    site: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = site.module("client")
    monkeypatch.setattr(module, "random", SimpleNamespace(random=lambda: 0.0))
    monkeypatch.setattr(module, "min", lambda most, grown: 0.1 * grown, raising=False)
    heard: list[Any] = []
    gaps: list[Any] = []
    path = "/ws/chat/own/"

    def lines() -> list[str]:
        return [frame["data"]["text"] for frame in heard if frame.get("stream") == "chat.own"]

    async with Proxy(site.server.port) as proxy, asyncio.timeout(90):
        options = {"additional_headers": site.cookie("ann"), "compression": None}
        client = module.Client(proxy.ws(path), heard.append, gaps.append, **options)
        running = asyncio.create_task(client.run())
        said = []

        async def say(text: str) -> None:
            assert (await client.send({"text": text})).keys() == {"id"}
            said.append(text)

        async with site.client(path, "bob") as bob:
            await asyncio.gather(*(say(f"first {n}") for n in range(3)))
            session = client.session_id
            proxy.cut_at(b'"ack"')  # the message is handled, and the client does not know
            await say("its outcome was cut off")
            proxy.cut_at(b"while nobody listens")
            await bob.send({"text": "while nobody listens"})
            said.append("while nobody listens")
            await say("after that")
            site.server.terminate()
            await say("while it drains")
            await site.server.await_exit()
            await site.server.arestart()
            await say("after the drain")
            site.server.kill()
            await site.server.arestart()
            await say("after the kill")
            await eventually(lambda: lines()[len(said) - 1 :], WITHIN, "all lines")
            assert lines() == said
        assert (proxy.cuts, client.session_id, gaps) == (2, session, [])
        assert [frame["seq"] for frame in heard if "stream" not in frame] == [1]
        assert client.attempt >= 5
        acknowledged = "SELECT acked_seq, last_client_seq FROM graceful_ws_session WHERE uuid = ?"
        key = uuid.UUID(session).hex
        await eventually(lambda: site.sql(acknowledged, key) == [(1, len(said) - 1)], WITHIN)
        await client.bye()
        await running
    state = "SELECT state, cause FROM graceful_ws_session WHERE uuid = ?"
    await eventually(lambda: site.sql(state, key) == [("ended", "bye")], WITHIN)


async def test_own_client_stops_when_it_is_told_to(site: Project) -> None:
    module = site.module("client")
    client = module.Client(site.server.ws("/ws/chat/own/"), print)
    with pytest.raises(module.Ended, match="4601"):
        await asyncio.wait_for(client.run(), WITHIN)


async def test_own_clients_example_says_hello_and_ends(site: Project) -> None:
    url, headers = site.server.ws("/ws/chat/own/"), site.cookie("ann")
    example = f"import asyncio, chatter; asyncio.run(chatter.main({url!r}, {headers!r}))"
    printed = await asyncio.to_thread(site.python, example)
    assert {"type", "id"} <= {
        key for line in printed.splitlines() for key in ast.literal_eval(line)
    }


async def test_own_client_drops_copies_and_resumes_at_a_hole(
    site: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = site.module("client")
    monkeypatch.setattr(module, "random", SimpleNamespace(random=lambda: 0.0))
    monkeypatch.setattr(module, "min", lambda most, grown: 0.1 * grown, raising=False)
    begin = {"type": "subscribed", "stream": "a", "epoch": "e", "head": 7}
    kept = {"state": "resumed", "epoch": "e", "head": 8}
    script = Script(
        [welcome(False, "t"), begin, message(8, stream="a"), message(1), message(1), message(3)],
        [welcome(True, a=kept), message(8, stream="a"), message(2), message(3)],
    )
    heard: list[int] = []
    subprotocol = Subprotocol("graceful.v1")
    async with serve(script, "127.0.0.1", 0, subprotocols=[subprotocol]) as server:
        port = server.sockets[0].getsockname()[1]
        client = module.Client(f"ws://127.0.0.1:{port}", lambda it: heard.append(it["data"]))
        running = asyncio.create_task(client.run())
        await eventually(lambda: heard == [8, 1, 2, 3], WITHIN, "each message once")
        running.cancel()
        await asyncio.wait([running])
    first, second = script.hellos
    assert script.codes[0] == 4000
    assert "session_token" not in first
    known = {name: second[name] for name in ("session_token", "last_seq_id", "positions")}
    assert known == {"session_token": "t", "last_seq_id": 1, "positions": {"a": ["e", 8]}}
    assert (second["instance"], second["attempt"]) == (first["instance"], first["attempt"] + 1)
