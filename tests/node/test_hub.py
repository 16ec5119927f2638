"""Streams on their way to the connections of one node: in order, once each, and nobody waits for
a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from django.db import OperationalError

from graceful_ws.envelopes import stream_group
from graceful_ws.node import hub as hub_module
from graceful_ws.node.hub import LINGER
from graceful_ws.store.streams import Numbered
from tests.node.kit_hub import ROOM, Listener, Site
from tests.support.waiting import eventually


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    site = Site()
    site.stored.use(monkeypatch)
    yield site
    await site.close()


# --- news -------------------------------------------------------------------------------------


async def test_news_in_order_reach_every_follower_without_the_database(site: Site) -> None:
    site.stored.number(ROOM, 3)
    followers = [site.follow() for _ in range(3)]
    await site.quiet()
    site.publish()
    site.publish(2)
    await site.quiet()
    assert [one.seqs for one in followers] == [[4, 5, 6]] * 3
    assert followers[0].data == ["room 4", "room 5", "room 6"]
    assert followers[0].frames[0]["stream"] == ROOM
    assert site.stored.pages == 0


async def test_what_was_heard_before_is_dropped(site: Site) -> None:
    follower = site.follow()
    early, late = site.stored.number(ROOM, 2), site.stored.number(ROOM, 2)
    for numbered in (early, early, late, early, late, late):
        site.hear(numbered)
    await site.quiet()
    assert follower.seqs == [1, 2, 3, 4]
    assert site.stored.pages == 0


async def test_news_that_overlap_are_delivered_once(site: Site) -> None:
    follower = site.follow()
    site.publish(2)
    last = site.stored.number(ROOM)
    site.hear(Numbered(ROOM, last.epoch, 1, [*site.stored.rows[ROOM].values()]))
    await site.quiet()
    assert follower.data == ["room 1", "room 2", "room 3"]
    assert site.stored.pages == 0


async def test_news_that_came_in_the_wrong_order_are_delivered_in_the_right_one(site: Site) -> None:
    follower = site.follow()
    first, second, third = (site.stored.number(ROOM) for _ in range(3))
    for numbered in (third, second, first):
        site.hear(numbered)
    await site.quiet()
    assert follower.seqs == [1, 2, 3]


async def test_news_without_data_are_read(site: Site) -> None:
    followers = [site.follow(), site.follow()]
    site.hear(site.stored.number(ROOM, 5), data=False)
    await site.quiet()
    assert [one.data for one in followers] == [[f"room {n}" for n in range(1, 6)]] * 2


async def test_news_that_got_lost_are_read_with_the_next_ones(site: Site) -> None:
    follower = site.follow()
    await site.quiet()
    site.stored.number(ROOM, 2)  # nobody said so
    site.publish()
    await site.quiet()
    assert follower.seqs == [1, 2, 3]


async def test_news_that_come_while_others_are_read_are_delivered_once(site: Site) -> None:
    follower = site.follow()
    await site.quiet()
    lost, next_one = site.stored.number(ROOM, 2), site.stored.number(ROOM)
    site.stored.open.clear()
    site.hear(next_one)
    await eventually(lambda: site.stored.pages == 1)
    site.hear(lost)  # late, but it came
    site.publish()
    site.stored.open.set()
    await site.quiet()
    assert follower.seqs == [1, 2, 3, 4]


async def test_news_of_a_stream_that_nobody_follows_cost_nothing(site: Site) -> None:
    site.hear(site.stored.number("elsewhere"))
    await site.quiet()
    assert (site.stored.pages, site.stored.looks) == (0, 0)
    assert site.hub.sources == {}


async def test_nothing_was_heard_and_the_look_finds_it(site: Site) -> None:
    follower = site.follow()
    await site.quiet()
    site.stored.number(ROOM, 3)
    await site.hub.compare()
    await site.quiet()
    assert follower.seqs == [1, 2, 3]
    await site.hub.compare()
    await site.quiet()
    assert follower.seqs == [1, 2, 3]


async def test_what_was_published_before_the_group_was_joined_is_found(site: Site) -> None:
    stale = site.stored.tips[ROOM]
    site.stored.number(ROOM, 2)  # after the commit of the subscription, before its group
    listener = Listener(site.tasks)
    site.listeners.append(listener)
    site.hub.follow(listener.outbox, ROOM, stale, stale.head)
    await site.quiet()
    assert listener.seqs == [1, 2]


async def test_rejoined_group_is_looked_at_and_an_unknown_one_is_not(site: Site) -> None:
    follower = site.follow()
    await site.quiet()
    site.stored.number(ROOM, 2)
    site.hub.look_at(stream_group("elsewhere"))
    await site.quiet()
    assert follower.seqs == []
    site.hub.look_at(stream_group(ROOM))
    await site.quiet()
    assert follower.seqs == [1, 2]


@pytest.mark.parametrize("how", ["heard", "looked"])
async def test_database_that_is_away_delays_and_loses_nothing(
    how: str, site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = site.follow()
    await site.quiet()
    sleep = asyncio.sleep
    monkeypatch.setattr(hub_module.asyncio, "sleep", lambda delay: sleep(min(delay, 0.01)))
    site.stored.away = OperationalError("away")
    numbered = site.stored.number(ROOM, 2)
    if how == "heard":
        site.hear(numbered, data=False)
    else:
        site.hub.look(ROOM)
    await eventually(lambda: caplog.text.count("cannot") >= 2)
    site.stored.away = None
    await eventually(lambda: follower.seqs == [1, 2])
    await site.quiet()


# --- many followers ---------------------------------------------------------------------------


async def test_a_hundred_followers_are_repaired_by_one_read(site: Site) -> None:
    followers = [site.follow() for _ in range(100)]
    await site.quiet()
    site.stored.number(ROOM, 10)
    site.publish()
    await site.quiet()
    assert all(one.seqs == list(range(1, 12)) for one in followers)
    assert site.stored.pages == 1


async def test_a_hundred_that_resume_at_one_place_read_once(site: Site) -> None:
    site.stored.number(ROOM, 20)
    followers = [site.follow(5) for _ in range(100)]
    await site.quiet()
    assert all(one.seqs == list(range(6, 21)) for one in followers)
    assert site.stored.pages == 1


async def test_who_comes_back_soon_needs_no_read(site: Site) -> None:
    follower = site.follow()
    for _ in range(10):
        site.publish()
    await site.quiet()
    site.hub.forget(follower.outbox)
    back = site.follow(4)
    await site.quiet()
    assert back.seqs == [5, 6, 7, 8, 9, 10]
    assert site.stored.pages == 0


async def test_slow_follower_holds_up_nobody_and_catches_up(site: Site) -> None:
    slow, quick = site.follow(window=4), site.follow(window=4)
    slow.reading.clear()
    for _ in range(60):
        site.publish()
        await eventually(lambda: quick.seqs[-1:] == [site.stored.tips[ROOM].head])
        quick.ack(ROOM)
    assert quick.seqs == list(range(1, 61))
    assert slow.seqs == []
    assert slow.outbox.window.messages == 4  # the rest is kept in the database alone
    slow.reading.set()

    def caught_up() -> bool:
        slow.ack(ROOM)
        return len(slow.seqs) >= 60

    await eventually(caught_up)
    await site.quiet()
    assert slow.seqs == list(range(1, 61))
    assert slow.gaps == quick.gaps == []


async def test_follower_that_stands_further_than_the_hub_hears_nothing_twice(site: Site) -> None:
    """Its subscription was committed at a head that this node has not heard of yet."""
    early = site.follow()
    await site.quiet()
    missed = site.stored.number(ROOM, 3)
    late = site.follow()
    site.hear(missed)
    site.publish()
    await site.quiet()
    assert early.seqs == [1, 2, 3, 4]
    assert late.seqs == [4]
    assert late.gaps == []


async def test_subscription_tells_the_others_what_this_node_has_not_heard(site: Site) -> None:
    early = site.follow()
    await site.quiet()
    site.stored.number(ROOM, 3)
    site.follow()
    await site.quiet()
    assert early.seqs == [1, 2, 3]


async def test_plain_client_gets_the_data_alone(site: Site) -> None:
    plain = site.follow(raw=True)
    site.publish(2)
    await site.quiet()
    assert plain.frames == [{"type": "message", "data": f"room {n}"} for n in (1, 2)]


# --- what is left -----------------------------------------------------------------------------


async def test_group_is_joined_once_and_left_half_a_minute_after_the_last_follower(
    site: Site,
) -> None:
    now = asyncio.get_running_loop().time()
    followers = [site.follow(), site.follow()]
    assert site.groups.wanted == {stream_group(ROOM)}
    site.hub.leave(followers[0].outbox, ROOM)
    site.hub.drop_unfollowed(now + 1000)
    assert site.groups.wanted == {stream_group(ROOM)}
    site.hub.leave(followers[1].outbox, ROOM)
    site.hub.drop_unfollowed(now + LINGER - 1)
    assert site.groups.wanted == {stream_group(ROOM)}
    back = site.follow()
    site.hub.drop_unfollowed(now + 1000)
    assert site.groups.wanted == {stream_group(ROOM)}
    site.hub.forget(back.outbox)
    site.hub.drop_unfollowed(asyncio.get_running_loop().time() + LINGER)
    assert site.groups.wanted == set()


async def test_stream_that_is_followed_again_in_another_epoch_is_not_dropped(site: Site) -> None:
    first = site.follow()
    site.publish()
    await site.quiet()
    site.hub.forget(first.outbox)
    site.stored.rotate(ROOM)  # and nobody looked since
    second = site.follow()
    await site.quiet()
    site.hub.drop_unfollowed(asyncio.get_running_loop().time() + LINGER + 1)
    site.publish()
    await site.quiet()
    assert second.seqs == [2]


async def test_nothing_is_left_of_streams_and_followers_that_are_gone(site: Site) -> None:
    site.stored.number(ROOM, 5)
    site.stored.open.clear()
    followers = [site.follow(0), site.follow(), site.follow(3)]
    site.hear(site.stored.number(ROOM), data=False)
    for _ in range(10):
        await asyncio.sleep(0)
    for follower in followers:
        site.hub.forget(follower.outbox)
        follower.outbox.close()
        assert follower.outbox.feeds == {}
    assert site.hub.sources[ROOM].followers == {}
    site.hub.drop_unfollowed(asyncio.get_running_loop().time() + LINGER)
    site.stored.open.set()
    await site.quiet()
    assert site.hub.sources == {}
    assert site.groups.wanted == set()
    assert (site.hub._names, site.hub._unsure, site.hub._looking) == ({}, set(), None)
    later = site.follow()
    site.publish()
    await site.quiet()
    assert later.seqs == [7]


async def test_unfollowed_stream_frees_the_window(site: Site) -> None:
    follower = site.follow(window=4)
    site.publish(4)
    await site.quiet()
    assert follower.outbox.window.messages == 4
    site.hub.leave(follower.outbox, ROOM)
    assert follower.outbox.window.messages == 0
    site.hub.leave(follower.outbox, ROOM)  # twice is nothing
