"""Sending from anywhere: what is refused, what is kept, and who is told when."""

from __future__ import annotations

from typing import Any

import pytest
from channels.layers import channel_layers
from django.apps.registry import Apps
from django.db import OperationalError, models, transaction

from graceful_ws import publishing
from graceful_ws.envelopes import said, stream_group
from graceful_ws.models import StreamMessage
from graceful_ws.publishing import aonline, apublish, asend_to_user, publish
from graceful_ws.store import pending, streams, wakers
from graceful_ws.store.streams import Numbered
from tests.store.kit import stream_rows, unnumbered

POISON: list[Any] = [
    float("nan"),
    [float("-inf")],
    "\ud83d",
    {"\udc00": 1},
    "x" * (1024 * 1024),
]


class Undone(Exception):
    pass


class Nudges:
    """What would be said over the layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(publishing, "nudge", lambda *what: self.said.append(what))


class Node:
    """A node of this process, as far as publishers know."""

    def __init__(self, *, works: bool = True) -> None:
        self.works = works
        self.told: list[str] = []

    def published(self, stream: str) -> bool:
        self.told.append(stream)
        return self.works

    def left(self, sessions: Any) -> bool:
        return self.works


@pytest.fixture
def nudges(monkeypatch: pytest.MonkeyPatch) -> Nudges:
    monkeypatch.setattr(wakers, "wakers", [])
    return Nudges(monkeypatch)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("data", POISON, ids=lambda data: repr(data)[:20])
def test_data_that_no_client_could_read_is_refused_and_harms_no_transaction(data: Any) -> None:
    with transaction.atomic():
        publish("room", "before")
        with pytest.raises(ValueError, match=r"."):
            publish("room", data)
        publish("room", "after")
    assert stream_rows("room") == [(1, '"before"'), (2, '"after"')]


@pytest.mark.usefixtures("database")
def test_the_layer_hears_of_it_after_the_commit_and_not_before(nudges: Nudges) -> None:
    with transaction.atomic():
        publish("room", 1)
        publish("room", 2)
        assert nudges.said == []
    tip = streams.tips(["room"])["room"]
    numbered = Numbered("room", tip.epoch, 1, ["1", "2"])
    assert nudges.said == [(stream_group("room"), said(numbered))]
    with pytest.raises(Undone), transaction.atomic():
        publish("room", 3)
        raise Undone
    assert len(nudges.said) == 1


@pytest.mark.usefixtures("database")
def test_a_node_of_the_process_numbers_what_was_published(
    nudges: Nudges, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    monkeypatch.setattr(wakers, "wakers", [node])
    with transaction.atomic():
        publish("room", 1)
        assert node.told == []
    assert node.told == ["room"]
    assert unnumbered("room") == ["1"]
    assert nudges.said == []


@pytest.mark.usefixtures("database")
def test_a_node_that_cannot_is_not_waited_for(
    nudges: Nudges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakers, "wakers", [Node(works=False)])
    publish("room", 1)
    assert stream_rows("room") == [(1, "1")]
    assert len(nudges.said) == 1


@pytest.mark.usefixtures("database")
def test_numbering_that_fails_is_no_error_of_the_publisher(
    nudges: Nudges, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(name: str) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(streams, "number", fails)
        publish("room", 1)  # it is kept, and the nodes look for it
    assert unnumbered("room") == ["1"]
    assert "away" in caplog.text
    publish("room", 2)
    assert stream_rows("room") == [(1, "1"), (2, "2")]


@pytest.mark.usefixtures("database")
def test_who_publishes_without_a_layer_says_nothing_and_fails_at_nothing(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    channel_layers.backends = {}
    publish("room", 1)
    assert stream_rows("room") == [(1, "1")]


@pytest.mark.usefixtures("database")
async def test_coroutines_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    await apublish("room", 1)
    assert await StreamMessage.objects.filter(stream="room").acount() == 1
    assert await aonline("room") == []
    with pytest.raises(ValueError, match="reserved"):
        await apublish("user:1", 1)
    with pytest.raises(ValueError, match="user"):
        await asend_to_user(None, 1)


def test_a_saved_user_is_one_whatever_a_form_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    class Member(models.Model):
        email = models.EmailField(primary_key=True)

        class Meta:
            apps = Apps()
            app_label = "tests"

        def __str__(self) -> str:
            return str(self.email)

    monkeypatch.setattr(publishing, "get_user_model", lambda: Member)
    assert publishing._key(Member(pk="a@b.c")) == "a@b.c"
    assert publishing._key("ada@example.com") == "ada@example.com"
    for nobody in ("a@b.c", Member(pk=None), None):
        with pytest.raises(ValueError, match="no user"):
            publishing._key(nobody)


def test_a_primary_key_that_finds_no_room_is_refused_on_every_database() -> None:
    with pytest.raises(ValueError, match="too long"):
        pending.leave_for_user("x" * streams.NAME_BYTES, "1")
