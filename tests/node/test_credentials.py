"""A node's look at its users: in turns when they are many, and never in the way of the round."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError

from graceful_ws.node import credentials
from graceful_ws.node.credentials import Credentials
from graceful_ws.store.credentials import GONE, Standing
from graceful_ws.store.hello import Identity


class Node:
    """As much of one as is asked."""

    def __init__(self, *identities: Identity) -> None:
        self.id = uuid.uuid4()
        self.sessions = {
            pk: SimpleNamespace(owner=("consumer", who, 1), is_open=True)
            for pk, who in enumerate(identities, 1)
        }
        self.asked: list[list[Any]] = []
        self.ended: list[tuple[Any, ...]] = []
        self.told: set[uuid.UUID] = set()
        self.elsewhere = uuid.uuid4()
        self.rows: dict[Any, Standing] = {}
        self.error: Exception | None = None
        self.services = self

    async def run(self, function: Any, *args: Any) -> Any:
        if self.error is not None:
            raise self.error
        if function is credentials.credentials.standings:
            self.asked.append(list(args[0]))
            return {user: self.rows.get(user, GONE) for user in args[0]}
        self.ended.append(args)
        return {self.id, self.elsewhere}

    def ask(self, nodes: set[uuid.UUID]) -> None:
        self.told |= nodes


def who(user: Any, auth_hash: str = "good", *, checked: bool = True) -> Identity:
    return Identity(user, auth_hash, checked=checked)


def good(*hashes: str) -> Standing:
    return Standing(1, "", frozenset(hashes))


async def look(node: Any) -> None:
    await Credentials(node).check()


async def test_nobody_is_asked_about_nobody() -> None:
    node = Node(who(None, "", checked=False), who(5, checked=False))
    await look(node)
    assert node.asked == []


async def test_users_are_asked_about_once_each_and_good_ones_stay() -> None:
    node = Node(who(1), who(1), who(2, "former"))
    node.rows = {1: good("good"), 2: good("good", "former")}
    await look(node)
    assert node.asked == [[1, 2]]
    assert node.ended == []


async def test_one_that_is_gone_loses_all_and_one_with_another_password_the_old_ones() -> None:
    node = Node(who(1), who(2), who(2, "new"), who(3))
    node.rows = {2: good("new"), 3: Standing(1, "the user was deactivated", frozenset(["good"]))}
    await look(node)
    assert node.ended == [
        (1, GONE.why, [1]),
        (2, "the password was changed", frozenset(["new"])),
        (3, "the user was deactivated", [4]),
    ]
    assert node.told == {node.elsewhere}


async def test_many_users_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "AT_ONCE", 4)
    node = Node(*map(who, range(10)))
    node.rows = {user: good("good") for user in range(10)}
    looks = Credentials(node)  # type: ignore[arg-type]
    for _ in range(3):
        await looks.check()
    assert sorted(user for some in node.asked for user in some) == list(range(10))
    assert max(map(len, node.asked)) == 4


@pytest.mark.parametrize("error", [OperationalError("away"), RuntimeError("a defect")])
async def test_a_users_table_that_does_not_answer_closes_nobody_and_stops_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(who(1))
    node.error = error
    await look(node)
    assert node.ended == []
    assert "cannot ask about users" in caplog.text
