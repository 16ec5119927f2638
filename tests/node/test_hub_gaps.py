"""What followers are told when messages are missing, or when numbers mean something else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.node.kit_hub import ROOM, Listener, Site


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    site = Site()
    site.stored.use(monkeypatch)
    yield site
    await site.close()


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
    assert follower.data == ["room 1", "room 2", f"room {head + 1}'"]


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
    assert follower.data[5:] == ["room 3'"]
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


async def test_follower_whose_subscription_is_of_the_epoch_before_is_told(site: Site) -> None:
    """The rotation came between the commit of the subscription and its follow."""
    site.follow()
    site.publish(2)
    await site.quiet()
    tip = site.stored.tips[ROOM]
    site.stored.rotate(ROOM)
    await site.hub.compare()
    late = Listener(site.tasks)
    site.listeners.append(late)
    site.hub.follow(late.outbox, ROOM, tip, tip.head)
    await site.quiet()
    assert late.told == [("epoch", 2, site.stored.tips[ROOM].epoch)]
    site.publish()
    await site.quiet()
    assert late.seqs == [3]


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


async def test_number_that_comes_again_with_another_message_begins_a_new_epoch(site: Site) -> None:
    """The database was restored, and has grown past what was seen before anybody looked."""
    follower = site.follow()
    site.publish(4)
    await site.quiet()
    before = site.stored.tips[ROOM].epoch
    site.stored.restore(ROOM, 2)
    site.publish(5)
    await site.quiet()
    after = site.stored.tips[ROOM]
    assert after.epoch != before
    assert follower.told == [("epoch", after.head, after.epoch)]
    site.publish()
    await site.quiet()
    assert follower.data == [*(f"room {n}" for n in range(1, 5)), "room 8'"]
