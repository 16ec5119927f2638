"""Streams in the admin: where they stand, who is in them, and what a session follows."""

from __future__ import annotations

import json
import re
import uuid

import pytest
from django.contrib.auth.models import User
from django.test import Client

from graceful_ws.models import Session, Stream
from graceful_ws.publishing import publish
from graceful_ws.store import streams
from graceful_ws.store.attach import Attached, Identity
from graceful_ws.store.entries import Detach, Note
from graceful_ws.store.following import Audience, Subscribe
from graceful_ws.store.presence import announce_exits, exit_data, join_data
from tests.admin.rows import SESSIONS, STREAMS, allow, count_queries, make_node, shown
from tests.store.kit import ago, attached, done

pytestmark = pytest.mark.usefixtures("database")


def follower(*names: str, presence: bool = True, user: User | None = None) -> Attached:
    """A session that follows streams, as a consumer makes it."""
    pk = None if user is None else user.pk
    owner = attached(node=make_node(uuid.uuid4().hex).pk, identity=Identity(user_id=pk))
    streams.create(names)
    joined = join_data(owner.uuid, pk) if presence else None
    done(*(Subscribe(owner.session, owner.generation, name, joined) for name in names))
    return owner


def number(name: str) -> None:
    while streams.number(name):
        pass


def leave(owner: Attached, *, end: bool = False) -> None:
    entry = Detach(owner.session, owner.generation, end=end, cause="lost", close_code=1006)
    assert done(entry) == [True]


def page_of(client: Client, name: str) -> str:
    return shown(client, f"{STREAMS}{Stream.objects.get(name=name).pk}/change/")


def session_page(client: Client, owner: Attached) -> str:
    return shown(client, f"{SESSIONS}{owner.session}/change/")


def row(page: str, name: str) -> dict[str, str]:
    """The cells of one row of the list, as text."""
    [found] = [row for row in re.findall(r"<tr>(.*?)</tr>", page, re.S) if f">{name}</a>" in row]
    cells = re.findall(r'class="field-(\w+)[^>]*>(.*?)</t[dh]>', found, re.S)
    return {field: re.sub(r"<[^>]+>", "", text) for field, text in cells}


def section(page: str, title: str) -> list[list[str]]:
    """The rows of a table below the fields, as text."""
    body = page[page.index(f"<h2>{title}</h2>") :].partition("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body.partition("<tbody>")[2], re.S)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row, re.S)]
        for row in rows
    ]


# The list


def test_stream_list_shows_head_followers_and_who_is_online(browser: Client) -> None:
    follower("room")
    follower("room", presence=False)
    away = follower("room")
    leave(away)
    over = follower("room")
    leave(over, end=True)
    announce_exits(absences=False)
    for text in ("one", "two"):
        publish("room", text)
    number("room")
    found = row(shown(browser, STREAMS), "room")
    assert found["head"] == "6"  # three joins, an exit, two messages
    assert found["followers"] == "3"
    assert found["online"] == "2"  # who is away for a moment counts as there
    assert found["last_used"] == "0 s"


def test_stream_list_is_searched_by_name_and_begins_with_the_last_used(browser: Client) -> None:
    streams.create(["room.1", "room.2", "lobby"])
    Stream.objects.filter(name="room.1").update(used_at=ago(7200))
    page = shown(browser, f"{STREAMS}?q=room")
    assert page.index(">room.2<") < page.index(">room.1<")
    assert ">lobby<" not in page


def test_a_name_is_shown_as_text(admin_client: Client) -> None:
    name = "<b>&'\" ☃"
    owner = follower(name)
    publish(name, "<script>")
    number(name)
    for page in (
        shown(admin_client, STREAMS),
        page_of(admin_client, name),
        session_page(admin_client, owner),
    ):
        assert "<b>&" not in page
        assert "<script>&" not in page
        assert '<script>"' not in page
        assert "&lt;b&gt;&amp;" in page


# One stream


def test_stream_page_lists_who_is_online_with_a_link_to_the_session(browser: Client) -> None:
    owner = follower("room", user=User.objects.create_user("ada"))
    left = follower("room")
    leave(left, end=True)
    announce_exits(absences=False)
    page = page_of(browser, "room")
    assert section(page, "Online now") == [[str(owner.uuid), "ada", "0 s", "Attached"]]
    assert f'href="{SESSIONS}{owner.session}/change/"' in page
    assert str(left.uuid) not in page


def test_stream_page_says_when_nobody_is_there_and_nothing_was_said(
    browser: Client, operator: User
) -> None:
    allow(operator, "view_streammessage")
    streams.create(["room"])
    page = page_of(browser, "room")
    assert "Nobody who follows it with presence." in page
    assert "None is kept." in page


def test_stream_page_lists_a_hundred_and_counts_the_rest(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graceful_ws.admin_streams.LISTED", 2)
    owners = [follower("room") for _ in range(5)]
    page = page_of(browser, "room")
    assert [cells[0] for cells in section(page, "Online now")] == [
        str(owner.uuid) for owner in owners[:2]
    ]
    assert "and 3 more" in page


def test_stream_page_shows_the_last_messages_with_their_numbers(
    browser: Client, operator: User
) -> None:
    allow(operator, "view_streammessage")
    for number_of in range(1, 31):
        publish("room", {"n": number_of})
    number("room")
    streams.leave("room", '"not numbered yet"')
    page = page_of(browser, "room")
    found = [(cells[0], cells[2]) for cells in section(page, "Last messages")]
    assert found == [(str(n), f"{{&quot;n&quot;:{n}}}") for n in range(30, 10, -1)]
    assert "not numbered yet" not in page


def test_a_long_message_is_cut_by_the_database(browser: Client, operator: User) -> None:
    allow(operator, "view_streammessage")
    publish("room", "x" * 100_000)
    number("room")
    page = page_of(browser, "room")
    [[_, _, data]] = section(page, "Last messages")
    assert data == "&quot;" + "x" * 199 + "…"
    assert len(page) < 50_000


def test_messages_are_for_those_who_may_view_messages(browser: Client, operator: User) -> None:
    publish("room", "in confidence")
    number("room")
    assert "in confidence" not in page_of(browser, "room")
    allow(operator, "view_streammessage")
    assert "in confidence" in page_of(browser, "room")


def test_streams_are_for_those_who_may_view_them(browser: Client, operator: User) -> None:
    owner = follower("room")
    operator.user_permissions.clear()
    allow(operator, "view_session")
    assert browser.get(STREAMS).status_code == 403
    page = session_page(browser, owner)
    assert section(page, "Streams")[0][0] == "room"
    assert STREAMS not in page

    operator.user_permissions.clear()
    allow(operator, "view_stream")
    page = page_of(browser, "room")
    assert str(owner.uuid) in page
    assert SESSIONS not in page


# One session


def test_session_page_shows_the_streams_it_follows(browser: Client) -> None:
    owner = follower("lobby", "room")
    for text in ("one", "two", "three"):
        publish("room", text)
    number("room")
    tip = streams.tips(["room"])["room"]
    done(Note(owner.session, owner.generation, streams={"room": (tip.epoch, 3)}))
    page = session_page(browser, owner)
    assert section(page, "Streams") == [["lobby", "0 / 0", "online"], ["room", "3 / 4", "online"]]
    assert f'href="{STREAMS}{Stream.objects.get(name="room").pk}/change/"' in page


def test_session_page_of_one_whose_exit_was_told(browser: Client) -> None:
    owner = follower("room")
    leave(owner)
    Session.objects.filter(pk=owner.session).update(left_at=ago(3600))
    announce_exits(absences=True)
    assert section(session_page(browser, owner), "Streams") == [["room", "0 / 0", "has left"]]


def test_session_page_of_an_audience_of_its_own(browser: Client) -> None:
    owner = follower("room", presence=False)
    entry = Audience(
        owner.session,
        owner.generation,
        streams=["watchers"],
        joined=join_data(owner.uuid, None),
        left=exit_data(owner.uuid, None, "unsubscribed"),
    )
    assert done(entry) == [["watchers"]]
    assert section(session_page(browser, owner), "Streams") == [
        ["room", "0 / 0", ""],
        ["watchers", "does not follow it", "online"],
    ]


def test_session_page_after_new_epochs(browser: Client) -> None:
    owner = follower("room")
    streams.rotate_all()
    assert section(session_page(browser, owner), "Streams")[0][1] == "of an earlier epoch"


def test_session_page_of_one_that_follows_nothing(browser: Client) -> None:
    assert "It follows none." in session_page(browser, attached())


# What it costs


def test_pages_of_streams_take_as_many_queries_for_thirty_rows_as_for_one(
    browser: Client, operator: User
) -> None:
    allow(operator, "view_streammessage")
    owner = follower("room", user=User.objects.create_user("ada"))
    publish("room", "one")
    number("room")
    pages = [
        STREAMS,
        f"{STREAMS}{Stream.objects.get(name='room').pk}/change/",
        f"{SESSIONS}{owner.session}/change/",
    ]
    one = [count_queries(browser, page) for page in pages]
    for n in range(30):
        follower("room", user=User.objects.create_user(f"user{n}"))
        other = f"other.{n}"
        streams.create([other])
        done(Subscribe(owner.session, owner.generation, other, json.dumps({"type": "client_join"})))
        publish("room", n)
    number("room")
    assert [count_queries(browser, page) for page in pages] == one
    assert max(one) <= 10
