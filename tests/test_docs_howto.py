"""The pages of docs/howto do what they say: their code, in one project, on a real server."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graceful_ws.client import GapTold, SessionLost
from tests.support.howto import (
    APPS,
    PAGES,
    Project,
    blocks,
)
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

LAST = """
from django.contrib.auth.models import User
from graceful_ws.publishing import send_to_user

for name in ("ann", "bob"):
    send_to_user(User.objects.get(username=name), "last")
"""


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


def test_every_page_has_what_it_needs_and_every_file_is_in_one_page() -> None:
    assert [page.stem for page in PAGES] == [
        *("auth", "chat", "exactly-once", "own-client", "presence", "tasks"),
        "transactional-publish",
    ]
    assert {"client.py", "chatter.py", "pay.py"} <= set(blocks())
    assert {name.split("/")[0] for name in blocks() if "/consumers" in name} == set(APPS)


def test_code_for_browsers_can_be_read_by_one(node_installed: None, tmp_path: Path) -> None:
    scripts = {name: code for name, code in blocks().items() if name.endswith(".js")}
    for name, code in scripts.items():
        path = tmp_path / Path(name).with_suffix(".mjs").name
        path.write_text(code)
        done = subprocess.run(["node", "--check", path], capture_output=True, timeout=30)
        assert done.returncode == 0, (name, done.stderr.decode())
    assert len(scripts) == 4


# chat.md


async def test_chat_brings_every_line_once_and_in_order_to_who_was_away(site: Project) -> None:
    async with (
        site.client("/ws/chat/tea/", "ann") as ann,
        site.client("/ws/chat/tea/", "bob") as bob,
    ):
        assert [*await ann.take(), *await bob.take()] == [{"type": "history", "lines": []}] * 2
        first = (await ann.send({"text": " one "}))["id"]
        assert [line["text"] for line in [*await ann.take(), *await bob.take()]] == ["one"] * 2
        await bob.suspend()
        for text in ("two", "three"):
            await ann.send({"text": text})
        bob.start()
        assert [line["text"] for line in await bob.take(2)] == ["two", "three"]
        assert "error" in await bob.send({"text": "  "})
        assert "error" in await bob.send("no object")
        async with site.client("/ws/chat/tea/", "bob") as late:
            [history] = await late.take()
            assert [line["text"] for line in history["lines"]] == ["three", "two", "one"]
            assert history["lines"][-1]["id"] == first


async def test_chat_sends_the_history_after_a_gap(site: Project) -> None:
    async with site.client("/ws/chat/milk/", "ann") as ann:
        await ann.take()
        await ann.send({"text": "seen"})
        await ann.take()
        await ann.suspend()
        site.change("UPDATE graceful_ws_stream SET epoch = 'restored'")
        ann.start()
        [history] = await ann.take()
        assert [line["text"] for line in history["lines"]] == ["seen"]
        assert {event.reason for event in ann.heard if isinstance(event, GapTold)} == {"epoch"}


@pytest.mark.parametrize("user", ["", "eve"])
async def test_chat_tells_strangers_why_they_are_closed(site: Project, user: str) -> None:
    async with site.client("/ws/chat/tea/", user) as client:
        with pytest.raises(SessionLost) as lost:
            await client.take()
    assert (lost.value.code, lost.value.reason) == (4601, "not a member")


async def test_chat_lets_nobody_write_who_is_no_longer_a_member(site: Project) -> None:
    async with site.client("/ws/chat/milk/", "bob") as bob:
        await bob.take()
        site.change(
            "DELETE FROM chat_room_members WHERE user_id = ? AND room_id ="
            " (SELECT id FROM chat_room WHERE slug = 'milk')",
            site.users["bob"]["pk"],
        )
        assert await bob.send({"text": "still here"}) == {"error": "not a member"}
        bob.abort()
        with pytest.raises(SessionLost, match="not a member"):
            await bob.take()


# tasks.md


async def test_task_in_another_process_tells_all_pages_of_its_user_once(site: Project) -> None:
    path = "/ws/notifications/"
    async with (
        site.client(path, "ann") as here,
        site.client(path, "ann") as away,
        site.client(path, "bob") as other,
    ):
        for client in (here, away, other):
            await client.connected()
        await away.suspend()
        status, started = await site.http("/exports/start/", "ann", {})
        assert status == 202
        queued = (site.directory / "queue").read_text().split()
        assert queued == ["make_export", str(started["id"])]
        work = f"from exports.tasks import make_export; make_export({started['id']})"
        await site.process(f"{work}\n{work}\n{LAST}")  # twice, as when its worker was lost
        away.start()
        for client in (here, away):
            *told, last = await client.take(8)
            running = [data["percent"] for data in told if data["state"] == "running"]
            assert running == [25, 50, 75] * 2
            assert [data["state"] for data in told].count("done") == 1
            assert last == "last"
        assert await other.take() == ["last"]
    assert (await site.http("/exports/", "ann"))[1] == {
        "exports": [{"id": started["id"], "state": "done"}]
    }


# transactional-publish.md


async def test_published_is_what_was_committed_and_nothing_else(site: Project) -> None:
    async with site.client("/ws/shop/") as client:
        await client.connected()
        await eventually(
            lambda: site.sql("SELECT 1 FROM graceful_ws_subscription WHERE stream = 'shop'")
        )
        status, _ = await site.http("/shop/tea/order/", data={"amount": 100})
        assert status == 409
        status, made = await site.http("/shop/tea/order/", data={"amount": 2})
        assert status == 201
        delete = "from shop.models import Order; Order.objects.get(pk={}).delete()"
        await site.process(delete.format(made["id"]))
        assert await client.take(3) == [
            {"type": "ordered", "id": made["id"], "amount": 2},
            {"type": "stock", "product": "tea", "left": 3},
            {"type": "cancelled", "id": made["id"]},
        ]


# exactly-once.md


def command(amount: int) -> dict[str, Any]:
    return {"key": str(uuid.uuid4()), "source": "ann", "target": "bob", "amount": amount}


async def test_each_command_happens_once_though_connections_and_server_die(site: Project) -> None:
    commands = [command(10) for _ in range(40)]
    receipts: list[Any] = []
    async with (
        Proxy(site.server.port) as proxy,
        site.client("/ws/bank/", port=proxy.port, websockets={"compression": None}) as client,
    ):
        await client.connected()
        proxy.cut_at(b'"ack"')  # handled, and its client does not know
        results = asyncio.gather(*(client.send(each) for each in commands))
        await client.come_back()
        site.server.kill()
        await site.server.arestart()
        assert await results == [{"done": each["key"]} for each in commands]
        while len(receipts) < 2 * len(commands):
            receipts += await client.take()
        assert proxy.cuts == 1
        assert client.resumes >= 2
        assert await client.send(command(10**6)) == {"refused": "not covered"}
        assert await client.send(command(-1)) == {"refused": "nothing to move"}
    keys = [data["receipt"] for data in receipts if "receipt" in data]
    assert keys == [each["key"] for each in commands]
    assert [data["moved"] for data in receipts if "moved" in data] == [10] * len(commands)
    assert site.sql("SELECT name, balance FROM bank_account ORDER BY name") == [
        ("ann", 600),
        ("bob", 400),
    ]
    # The same intention in another session.
    async with site.client("/ws/bank/") as client:
        assert await client.send(commands[0]) == {"done": keys[0]}
    pay = site.module("pay").pay
    assert "done" in await pay(site.server.ws("/ws/bank/"), "ann", "bob", 1)
    assert await pay(site.server.ws("/ws/bank/"), "ann", "nobody", 1) == {"failed": "error"}
    assert site.sql("SELECT COUNT(*), SUM(amount) FROM bank_transfer") == [(41, 401)]


# presence.md


async def test_who_leaves_is_told_and_who_is_back_in_time_is_not(site: Project) -> None:
    path = "/ws/board/plans/"
    async with site.client(path, "ann") as ann:
        first = {each["type"]: each for each in await ann.take(2)}
        assert first["client_join"]["client_id"] == ann.session_id
        assert first["people"]["people"] == [{"client_id": ann.session_id, "name": "ann"}]
        async with site.client(path) as other:
            [joined] = await ann.take()
            assert (joined["type"], joined["client_id"]) == ("client_join", other.session_id)
            await ann.send("people")
            [people] = await ann.take()
            assert [one["name"] for one in people["people"]] == ["ann", "somebody"]
            there = {"sessions": 2, "users": 1}
            assert (await site.http("/board/plans/people/"))[1] == there
            other.abort()
            await other.come_back()
            assert (await site.http("/board/plans/people/"))[1] == there
        [left] = await ann.take()
        assert (left["type"], left["client_id"]) == ("client_exit", joined["client_id"])
        assert left["cause"] == "bye"


# auth.md


async def test_logging_out_closes_4401_and_who_has_not_logged_in_again_is_told(
    site: Project,
) -> None:
    async with site.client("/ws/desk/", "dan") as dan:
        await dan.connected()
        assert await dan.send({"group": "tellers"}) == {"error": "not in this group"}
        assert (await site.http("/members/logout/", "dan", {}))[0] == 204
        with pytest.raises(SessionLost) as lost:
            await dan.take()
        assert dan.codes() == [4401, 4601]
    assert (lost.value.code, lost.value.reason) == (4601, "log in")


async def test_expelled_comes_back_without_what_it_may_no_longer_follow(site: Project) -> None:
    async with site.client("/ws/desk/", "ann") as ann:
        assert await ann.send({"group": "tellers"}) == {"following": "group.tellers"}
        before = ann.session_id
        path = f"/members/{site.users['ann']['pk']}/expel/"
        assert (await site.http(path, "staff", {}))[0] == 204
        assert await ann.send({"group": "tellers"}) == {"error": "not in this group"}
        assert ann.codes() == [4401]
        assert ann.session_id != before


async def test_token_lets_in_who_has_no_cookies(site: Project) -> None:
    _, answer = await site.http("/members/token/", "ann")
    for token, code in ((answer["token"], None), ("forged", 4601)):
        headers = {"Authorization": f"Bearer {token}"}
        async with site.client("/ws/desk/", headers=headers) as client:
            if code is None:
                assert await client.send({"group": "none"}) == {"error": "not in this group"}
                continue
            with pytest.raises(SessionLost) as lost:
                await client.take()
            assert lost.value.code == code
