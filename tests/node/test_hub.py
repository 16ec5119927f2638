"""Streams on their way to the connections of one node: in order, once each, and nobody waits for
a slow one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful_ws.envelopes import stream_group
from graceful_ws.node import hub as hub_module
from graceful_ws.node.hub import LINGER, Hub
from graceful_ws.store.streams import Numbered, Tip
from tests.node.kit import Groups, Listener, StoredStreams, Tasks
from tests.support.waiting import eventually

ROOM = "room"


class Site:
    """A hub between a store in memory and listeners."""

    def __init__(self) -> None:
        self.stored = StoredStreams()
        self.groups = Groups()
        self.tasks = Tasks()
        self.hub = Hub(self.groups, self.stored, self.stored, self.tasks.spawn)  # type: ignore[arg-type]
        self.listeners: list[Listener] = []
        self.stored.create([ROOM])

    def follow(self, position: int | None = None, **options: Any) -> Listener:
        """A new connection that follows the room, from a position or from its head on."""
        listener = Listener(self.tasks, **options)
        self.listeners.append(listener)
        tip = self.stored.tips[ROOM]
        self.hub.follow(listener.outbox, ROOM, tip, tip.head if position is None else position)
        return listener

    def hear(self, numbered: Numbered, *, data: bool = True) -> None:
        n = numbered
        self.hub.hear(n.stream, n.epoch, n.first, n.head, n.data if data else ())

    def publish(self, count: int = 1) -> None:
        self.hear(self.stored.number(ROOM, count))

    async def quiet(self) -> None:
        """Until nothing runs any more."""
        await eventually(lambda: not self.tasks.running, 10, "the tasks end")

    def check(self) -> None:
        assert self.tasks.failed == []


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    site = Site()
    site.stored.use(monkeypatch)
    yield site
    for listener in site.listeners:
        site.hub.forget(listener.outbox)
        listener.outbox.close()
    site.stored.open.set()
    await site.quiet()
    site.check()


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


async def test_news_that_overlap_are_delivered_once(site: Site) -> None:
    follower = site.follow()
    site.publish(2)
    both = Numbered(
        ROOM, site.stored.tips[ROOM].epoch, 1, ["1", "2", *site.stored.number(ROOM).data]
    )
    site.hear(both)
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


async def test_database_that_is_away_delays_and_loses_nothing(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = site.follow()
    await site.quiet()
    sleep = asyncio.sleep
    monkeypatch.setattr(hub_module.asyncio, "sleep", lambda delay: sleep(min(delay, 0.01)))
    site.stored.away = OperationalError("away")
    site.hear(site.stored.number(ROOM, 2), data=False)
    site.hub.look(ROOM)
    await eventually(lambda: "cannot read" in caplog.text and "cannot look" in caplog.text)
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
    for _ in range(300):
        site.publish()
        await eventually(lambda: quick.seqs[-1:] == [site.stored.tips[ROOM].head])
        quick.ack(ROOM)
    assert quick.seqs == list(range(1, 301))
    assert slow.seqs == []
    slow.reading.set()

    def caught_up() -> bool:
        slow.ack(ROOM)
        return len(slow.seqs) >= 300

    await eventually(caught_up)
    await site.quiet()
    assert slow.seqs == list(range(1, 301))
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


async def test_plain_client_gets_the_data_alone(site: Site) -> None:
    plain = site.follow(raw=True)
    site.publish(2)
    await site.quiet()
    assert plain.frames == [{"type": "message", "data": f"room {n}"} for n in (1, 2)]


# --- gaps -------------------------------------------------------------------------------------


async def test_hole_is_told_to_each_follower_that_misses_something(site: Site) -> None:
    ahead, behind = site.follow(), site.follow()
    site.publish(2)
    await site.quiet()
    site.stored.number(ROOM, 4)
    site.stored.trim(ROOM, 4)
    await site.hub.compare()
    await site.quiet()
    for follower in (ahead, behind):
        assert follower.seqs == [1, 2]
        [gap] = follower.gaps
        assert (gap.reason, gap.stream, gap.from_, gap.oldest, gap.head) == (
            *("trimmed", ROOM, 3, 5, 6),
        )
    site.publish()
    await site.quiet()
    assert ahead.seqs == behind.seqs == [1, 2, 7]


async def test_resume_behind_what_is_left_is_a_gap_and_never_a_part(site: Site) -> None:
    site.stored.number(ROOM, 10)
    site.stored.trim(ROOM, 6)
    lost, lucky = site.follow(3), site.follow(6)
    await site.quiet()
    assert lost.seqs == []
    assert lost.told == [("trimmed", 10, site.stored.tips[ROOM].epoch)]
    assert lucky.seqs == [7, 8, 9, 10]
    assert lucky.gaps == []


async def test_all_was_cut_away_and_followers_go_on_behind_it(site: Site) -> None:
    follower = site.follow()
    await site.quiet()
    site.stored.number(ROOM, 3)
    site.stored.trim(ROOM, 3)
    await site.hub.compare()
    await site.quiet()
    assert [(gap.reason, gap.oldest, gap.head) for gap in follower.gaps] == [("trimmed", None, 3)]
    site.publish()
    await site.quiet()
    assert follower.seqs == [4]


async def test_new_epoch_is_told_to_each_follower_and_numbers_go_on(site: Site) -> None:
    followers = [site.follow(), site.follow()]
    site.publish(2)
    await site.quiet()
    site.stored.rotate(ROOM)
    epoch = site.stored.tips[ROOM].epoch
    await site.hub.compare()
    site.publish()
    await site.quiet()
    for follower in followers:
        assert follower.told == [("epoch", 2, epoch)]
        assert follower.seqs == [1, 2, 3]


async def test_news_of_a_new_epoch_are_not_mixed_with_the_old_one(site: Site) -> None:
    follower = site.follow()
    site.publish(2)
    await site.quiet()
    site.stored.restore(ROOM, 1)
    site.stored.rotate(ROOM)
    site.publish(2)  # numbers 2 and 3 of another epoch
    site.publish()
    await site.quiet()
    head, epoch = site.stored.tips[ROOM].head, site.stored.tips[ROOM].epoch
    assert follower.told == [("epoch", head, epoch)]
    assert follower.seqs == [1, 2]
    site.publish()
    await site.quiet()
    assert follower.data == ["room 1", "room 2", f"room {head + 1}"]


async def test_head_that_went_back_is_rotated_and_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    follower = site.follow()
    site.publish(5)
    await site.quiet()
    before = site.stored.tips[ROOM].epoch
    site.stored.restore(ROOM, 2)
    await site.hub.compare()
    await site.quiet()
    after = site.stored.tips[ROOM].epoch
    assert after != before
    assert follower.told == [("epoch", 2, after)]
    assert "was the database restored?" in caplog.text
    site.publish()
    await site.quiet()
    assert follower.data[5:] == ["room 3"]
    follower.ack(ROOM)
    assert follower.outbox.window.messages == 0


async def test_follower_that_knows_another_epoch_than_the_hub_is_told(site: Site) -> None:
    """A rotation that one of both has not seen yet."""
    old = site.follow()
    site.publish(2)
    await site.quiet()
    site.stored.rotate(ROOM)
    new = site.follow()
    await site.quiet()
    site.publish()
    await site.quiet()
    assert old.seqs == [1, 2, 3]
    assert new.seqs == [3]
    epoch = site.stored.tips[ROOM].epoch
    assert old.told[-1] == new.told[-1] == ("epoch", 2, epoch)


async def test_stream_that_was_cleared_away_begins_again(site: Site) -> None:
    follower = site.follow()
    site.publish(2)
    await site.quiet()
    del site.stored.tips[ROOM], site.stored.rows[ROOM]
    await site.hub.compare()
    await site.quiet()
    assert follower.told == [("epoch", 0, site.stored.tips[ROOM].epoch)]
    site.publish()
    await site.quiet()
    assert follower.seqs == [1, 2, 1]


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


# --- anything at once -------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("number"), st.integers(1, 4)),
        st.tuples(st.just("hear"), st.integers(0, 20)),
        st.tuples(st.just("lose"), st.integers(0, 20)),
        st.tuples(st.just("hear without data"), st.integers(0, 20)),
        st.tuples(st.just("subscribe"), st.integers(0, 3)),
        st.tuples(st.just("resume"), st.integers(0, 20)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("ack"), st.integers(0, 20)),
        st.tuples(st.just("stall"), st.integers(0, 20)),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("run"), st.integers(1, 6)),
        st.tuples(st.just("hold pages"), st.just(0)),
        st.tuples(st.just("let pages go"), st.just(0)),
    ),
    max_size=40,
)


class Client:
    """A subscription over its connections: what the application got must be one unbroken run."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.got: list[int] = []
        self.listener: Listener | None = None

    @property
    def position(self) -> int:
        return self.got[-1] if self.got else self.first


class Play:
    """Does what the steps say, and checks every client at the end."""

    def __init__(self) -> None:
        self.site = Site()
        self.said: list[Numbered] = []  # on its way over the layer
        self.clients: list[Client] = []

    def connect(self, client: Client, tip: Tip) -> None:
        client.listener = Listener(self.site.tasks, window=3)
        self.site.hub.follow(client.listener.outbox, ROOM, tip, client.position)

    def disconnect(self, client: Client) -> None:
        listener = client.listener
        if listener is None:
            return
        client.listener = None
        assert listener.gaps == []
        client.got += [seq for seq in listener.seqs if seq > client.position]
        self.site.hub.forget(listener.outbox)
        listener.outbox.close()
        listener.reading.set()

    async def step(self, what: str, n: int) -> None:
        site, hub = self.site, self.site.hub
        client = self.clients[n % len(self.clients)] if self.clients else None
        numbered = self.said[n % len(self.said)] if self.said else None
        if what == "number":
            self.said.append(site.stored.number(ROOM, n))
        elif what == "subscribe":
            # The commit of a subscription may be older than the call that tells the hub of it.
            tip = site.stored.tips[ROOM]
            began = Client(max(0, tip.head - n))
            self.clients.append(began)
            self.connect(began, Tip(tip.epoch, began.first))
        elif what == "look":
            hub.look(ROOM) if ROOM in hub.sources else None
        elif what == "run":
            for _ in range(n):
                await asyncio.sleep(0)
        elif what == "hold pages":
            site.stored.open.clear()
        elif what == "let pages go":
            site.stored.open.set()
        elif what in ("hear", "hear without data") and numbered is not None:
            site.hear(numbered, data=what == "hear")  # and perhaps again later
        elif what == "lose" and numbered is not None:
            self.said.remove(numbered)
        elif what == "resume" and client is not None:
            self.disconnect(client)
            self.connect(client, site.stored.tips[ROOM])
        elif what == "leave" and client is not None:
            self.disconnect(client)
        elif client is not None and client.listener is not None:
            if what == "ack":
                client.listener.reading.set()
                client.listener.ack(ROOM)
            elif what == "stall":
                client.listener.reading.clear()

    async def end(self) -> None:
        """All is delivered in the end, by the look of the round if not before."""
        site = self.site
        site.stored.open.set()
        for client in self.clients:
            if client.listener is None:
                self.connect(client, site.stored.tips[ROOM])
            else:
                client.listener.reading.set()
        await site.hub.compare()
        head = site.stored.tips[ROOM].head

        def complete() -> bool:
            for client in self.clients:
                assert client.listener is not None
                client.listener.ack(ROOM)
            return all(
                client.listener is not None
                and max([client.position, *client.listener.seqs]) == head
                for client in self.clients
            )

        async with asyncio.timeout(10):
            while not complete():
                await asyncio.sleep(0)
        for client in self.clients:
            assert client.listener is not None
            assert client.listener.seqs == sorted(set(client.listener.seqs))
            self.disconnect(client)
            assert client.got == list(range(client.first + 1, head + 1))
        site.hub.drop_unfollowed(asyncio.get_running_loop().time() + LINGER)
        while site.tasks.running:
            await asyncio.sleep(0)
        assert site.hub.sources == {}
        site.check()


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 9))
def test_every_subscription_is_one_unbroken_run_of_numbers(
    steps: list[tuple[str, int]], seed: int
) -> None:
    async def play() -> None:
        play = Play()
        for what, n in steps:
            await play.step(what, n)
        await play.end()

    random.seed(seed)
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        StoredStreams.use(StoredStreams(), monkeypatch)
        try:
            asyncio.run(play())
        finally:
            logging.disable(logging.NOTSET)
