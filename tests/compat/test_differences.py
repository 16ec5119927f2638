"""docs/migrate.md names every difference that is meant, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.contrib.auth.models import Group

from graceful_ws.consumers import GracefulConsumer, GracefulWebsocketConsumer
from graceful_ws.node import layer as layer_module
from graceful_ws.testing import settle
from tests.compat import test_scenarios  # noqa: F401  (with it scenarios register themselves)
from tests.compat.away import AwayLayer
from tests.compat.conftest import MEMORY
from tests.compat.kit import DIFFERENCES, ELSEWHERE, PAIRS, SCENARIOS, Scenario
from tests.compat.peer import Peer
from tests.support.waiting import eventually
from tests.test_docs import ROOT, tables

PAGE = (ROOT / "docs/migrate.md").read_text()
CODE = dict(re.findall(r"```python\n# ([\w ]+)\n(.*?)```", PAGE, flags=re.S))
ALONE = [pytest.mark.sqlite_only, pytest.mark.usefixtures("memory_layers", "graceful_node")]


def mark(*marks: Any) -> Callable[[Any], Any]:
    def marked(test: Any) -> Any:
        for one in marks:
            test = one(test)
        return test

    return marked


# --- the table --------------------------------------------------------------------------------


def test_every_row_is_a_difference_that_has_a_key() -> None:
    rows = tables(PAGE)["What differs on purpose"]
    assert [row[0] for row in rows] == list(DIFFERENCES.values())


def test_every_key_is_played_by_a_scenario_or_known_to_a_test() -> None:
    played = {one.differs.key for one in SCENARIOS if one.differs is not None}
    assert played | set(ELSEWHERE) == set(DIFFERENCES)
    assert played.isdisjoint(ELSEWHERE)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_test_that_knows_a_difference_is_there(key: str) -> None:
    path, _, name = ELSEWHERE[key].partition("::")
    assert re.search(rf"^(async )?def {name}\w*\(", (ROOT / path).read_text(), flags=re.M)


@pytest.mark.parametrize("one", SCENARIOS, ids=lambda one: f"{one.name}-{one.pair}")
def test_a_difference_is_one(one: Scenario) -> None:
    if one.differs is not None:
        assert one.differs.channels != one.differs.here


def test_names_that_are_taken_are_those_that_the_page_lists() -> None:
    listed = PAGE[PAGE.index("Names that a consumer") : PAGE.index("Give yours\nanother name")]
    taken = {
        name
        for consumer in (GracefulConsumer, GracefulWebsocketConsumer)
        for name in set(dir(consumer)) - set(dir(AsyncJsonWebsocketConsumer))
        if not name.startswith("_")
    }
    assert set(re.findall(r"`(\w+)`", listed)) == taken


# --- differences that are no transcript ---------------------------------------------------------


@mark(*ALONE)
@pytest.mark.parametrize("pair", PAIRS)
async def test_layer_that_fails_is_survived(
    pair: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"BACKEND": "tests.compat.away.AwayLayer"}
    settings.CHANNEL_LAYERS = {"default": MEMORY, "other": away}
    monkeypatch.setattr(layer_module, "RETRY", 0.05)
    monkeypatch.setattr(AwayLayer, "away", True)
    theirs, ours = PAIRS[pair]

    def app(base: Any) -> Any:
        class Consumer(base):  # type: ignore[misc]
            channel_layer_alias = "other"
            groups = ["news"]

            async def item(self, event: Any) -> None:
                await self.send("news")

        return Consumer.as_asgi()

    channels, here = Peer(), Peer()
    channels.start(app(theirs))
    await channels.over()
    assert channels.sent == [("raised", "ConnectionError")]
    here.start(app(ours))
    await settle()
    assert here.sent == [("accept", None, [])]
    monkeypatch.setattr(AwayLayer, "away", False)
    layer = get_channel_layer("other")
    assert isinstance(layer, AwayLayer)
    await eventually(lambda: layer.groups.get("news"))
    await layer.group_send("news", {"type": "item"})
    await eventually(lambda: here.sent[1:] == [("send", "news")])
    monkeypatch.setattr(AwayLayer, "away", True)
    await layer.group_send("news", {"type": "item"})  # then its reader fails
    await eventually(lambda: len(here.sent) == 3)
    layer.groups.clear()  # as of a Redis that was restarted
    monkeypatch.setattr(AwayLayer, "away", False)
    await eventually(lambda: layer.groups.get("news"))
    await layer.group_send("news", {"type": "item"})
    await eventually(lambda: len(here.sent) == 4)
    await here.over()
    assert here.sent[1:] == [("send", "news")] * 3 + [("returned",)]


# --- code of the page ---------------------------------------------------------------------------


def test_first_block_of_the_page_is_a_consumer() -> None:
    block = re.findall(r"```python\n(from graceful_ws.*?)```", PAGE, flags=re.S)[0]
    names: dict[str, Any] = {}
    exec(block, names)
    assert issubclass(names["ChatConsumer"], GracefulConsumer)


@mark(*ALONE)
async def test_sync_consumer_and_what_becomes_of_it_do_the_same() -> None:
    transcripts = []
    for name in ("before", "after"):
        names: dict[str, Any] = {}
        exec(CODE[name], names)
        await Group.objects.acreate(name="temporary")
        peer = Peer()
        peer.start(names["Rooms"].as_asgi())
        await settle()
        peer.says('{"name": "kitchen"}')
        await peer.over()
        assert [group.name async for group in Group.objects.all()] == ["kitchen"]
        await Group.objects.all().adelete()
        transcripts.append([(*line[:1], str(line[1:]).replace(" ", "")) for line in peer.sent])
    assert transcripts[0] == transcripts[1]
    assert len(transcripts[0]) == 4


@mark(*ALONE)
async def test_consumer_in_a_transaction_replies() -> None:
    names: dict[str, Any] = {}
    exec(CODE["in a transaction"], names)
    peer = Peer()
    peer.start(names["Rooms"].as_asgi())
    await settle()
    peer.says('{"name": "kitchen"}')
    await peer.over()
    assert peer.sent[1] == ("send", '{"opened":"kitchen"}')
    assert await Group.objects.filter(name="kitchen").aexists()
