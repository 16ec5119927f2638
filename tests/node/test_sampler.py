"""What a node tells of itself: samples for the last hour, and a stream while somebody watches."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.models import Sample, StreamMessage
from graceful_ws.node.node import Node
from graceful_ws.publishing import apublish
from graceful_ws.store import samples
from tests.node.kit import store
from tests.node.kit_peer import Peer, running_node
from tests.store.kit import WITHIN, append, attached, detach, done
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


class Watching(GracefulConsumer):
    streams = [samples.LIVE]


class Curious(GracefulConsumer):
    """Follows whatever its client names."""

    async def receive_json(self, content: Any) -> str:
        try:
            await self.subscribe(content)
        except ValueError as error:
            return str(error)
        return "followed"


class Talking(GracefulConsumer):
    streams = ["news"]

    async def receive_json(self, content: Any) -> None:
        await self.send_json(content)


@pytest.fixture
async def node(limits: Callable[..., None]) -> AsyncIterator[Node]:
    limits(beat_interval=0.05, sample_interval=0.2, poll_interval=0.05)
    async with running_node() as node:
        yield node


def _messages(peer: Peer) -> list[Any]:
    return [frame for frame in peer.frames if frame["type"] == "message"]


async def kept() -> list[dict[str, Any]]:
    rows = await store(lambda: list(Sample.objects.order_by("pk").values_list("figures")))
    return [json.loads(figures) for (figures,) in rows]


async def test_samples_are_kept_at_their_interval_whether_anybody_watches_or_not(
    node: Node,
) -> None:
    peer = Peer(Talking)
    await peer.connect()
    begun = time.monotonic()
    before = len(await kept())
    await eventually(lambda: time.monotonic() - begun > 1.0, WITHIN, "a second has passed")
    found = await kept()
    assert 1 <= len(found) - before <= (time.monotonic() - begun) / 0.2 + 1
    assert found[-1]["connections"] == 1
    assert found[-1]["states"] == {"connected": 1}
    assert found[-1]["breakers"] == {"journal": "closed", "layer": "none"}
    assert found[-1]["drain"] is None
    assert await store(lambda: StreamMessage.objects.filter(stream=samples.LIVE).count()) == 0


async def test_a_node_that_registers_anew_says_no_more_since_when_it_counts(node: Node) -> None:
    """Its row before has told all that."""
    since = node.sampler.figures()["since"]
    assert abs(since / 1000 - time.time()) < WITHIN
    await node.register()
    assert node.sampler.figures()["since"] is None


async def test_figures_count_what_has_happened(node: Node) -> None:
    peer = Peer(Talking)
    await peer.connect()
    peer.say({"type": "message", "seq": 1, "data": {"x": 1}})
    await peer.gets("ack")
    await apublish("news", "read all about it")
    await eventually(lambda: len(_messages(peer)) == 2, WITHIN, "both have come")
    stats = node.sampler.figures()["stats"]
    assert (stats["messages_in"], stats["messages_out"], stats["replayed"]) == (1, 2, 0)
    assert stats["hellos"] == [["new", "", 1]]
    await eventually(lambda: sum(node.stats.lag.counts) == 1, WITHIN, "its lag is measured")
    assert 0 <= node.stats.lag.total < WITHIN
    assert sum(stats["batch"]["counts"]) == sum(stats["commit"]["counts"]) >= 2
    assert node.sampler.figures()["unacked"] == 2
    json.dumps(node.sampler.figures())


async def test_who_watches_gets_the_figures_as_ordinary_messages(node: Node) -> None:
    peer = Peer(Watching)
    await peer.connect()
    told = (await peer.gets("message"))["data"]
    assert told["type"] == "node"
    assert told["node"]["id"] == str(node.id)
    assert (told["node"]["name"], told["node"]["state"]) == (node.name, "up")
    assert told["figures"]["states"]
    assert abs(told["at"] / 1000 - time.time()) < WITHIN

    await peer.cut()
    count = StreamMessage.objects.filter(stream=samples.LIVE).count
    await eventually(lambda: not node.connections, WITHIN, "nobody watches")
    await node.sampler.look()  # one that is under way may still have seen it
    before = await store(count)
    await node.sampler.look()
    assert await store(count) == before


async def test_no_application_follows_the_figures_by_name(node: Node) -> None:
    """One that lets its clients name the streams they follow must not show them the nodes."""
    peer = Peer(Curious)
    await peer.connect()
    peer.say({"type": "message", "seq": 1, "data": samples.LIVE})
    assert "reserved" in (await peer.gets("ack"))["results"]["1"]


def test_totals_are_of_sessions_that_live(database: Database) -> None:
    assert samples.totals() == samples.Totals(0, 0, 0, None)
    one, two, gone = attached(), attached(), attached()
    done(append(one, '"a"', '"b"'), append(gone, '"c"'))
    done(detach(two), detach(gone, end=True))
    found = samples.totals()
    assert (found.attached, found.detached, found.unacked) == (1, 1, 2)
    assert found.oldest_unacked is not None
    assert 0 <= found.oldest_unacked < WITHIN


def test_history_is_in_order_and_begins_where_it_is_asked(database: Database) -> None:
    owner = attached()
    del owner
    now = timezone.now()
    node_id = samples.uuid.uuid4()
    for minutes in (90, 30, 10):
        Sample.objects.create(
            node_id=node_id, at=now - timedelta(minutes=minutes), figures=f'{{"n": {minutes}}}'
        )
    found = list(samples.history(now - timedelta(hours=1)))
    assert [figures["n"] for _, _, figures in found] == [30, 10]
    assert {one for one, _, _ in found} == {node_id}
