"""Streams over two nodes and a process without connections, with and without a channel layer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.conftest import _servers
from tests.support.databases import Database, Databases
from tests.support.ledger import LedgerBook
from tests.support.leftovers import assert_nothing_left
from tests.support.outside import Outside, outside
from tests.support.raw import Raw, again
from tests.support.servers import Site
from tests.support.waiting import eventually
from tests.system.conftest import SETTINGS, _failed

PLACES = ["sqlite", "postgres-pubsub"]  # the core layer: test_streams_without_layer


class Place:
    """Two nodes, and the ledger's directory, which both read."""

    def __init__(self, site: Site, book: LedgerBook) -> None:
        self.site = site
        self.book = book

    def ws(self, node: int, path: str = "/room/") -> str:
        return self.site.nodes[node].ws(path)


@pytest.fixture(scope="module", params=PLACES)
def _place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    vendor, _, layer = request.param.partition("-")
    databases: Databases = request.getfixturevalue(f"{vendor}_databases")
    database: Database = databases.create()
    directory: Path = tmp_path_factory.mktemp("streams")
    book = LedgerBook(directory / "ledger")
    options: dict[str, Any] = {"env": book.env}
    settings: dict[str, Any] = dict(SETTINGS)
    if layer:
        options["redis_url"] = request.getfixturevalue("redis_url")
        options["env"] |= {"GRACEFUL_TEST_LAYER": layer}
    site = Site(database, directory, nodes=2, settings=settings, **options)
    try:
        site.start()
        yield Place(site, book)
    finally:
        site.close()
        databases.drop(database)


@pytest.fixture
def place(_place: Place, request: pytest.FixtureRequest) -> Iterator[Place]:
    request.node.stash.setdefault(_servers, []).extend(_place.site.nodes)
    yield _place
    if not request.node.stash.get(_failed, False):
        assert_nothing_left(_place.site)


@pytest.fixture
def room() -> str:
    """A stream of the test's own."""
    return f"room {uuid4().hex[:8]} 🚪"


@pytest.fixture
async def process(place: Place) -> AsyncIterator[Outside]:
    async with outside(place.site.env) as process:
        yield process


# --- publishing -------------------------------------------------------------------------------


async def test_published_elsewhere_reaches_followers_of_every_kind_on_every_node(
    place: Place, process: Outside, room: str
) -> None:
    path = f"/room/?stream={quote(room)}"
    async with (
        Raw(place.ws(0)) as one,
        Raw(place.ws(1)) as two,
        Raw(place.ws(1, "/light-room/")) as light,
        Raw(place.ws(0, path), plain=True) as plain,
    ):
        for raw in (one, two, light):
            await raw.hello()
            assert (await raw.follow(room))[1] == 0
        subscribers = "SELECT count(*) FROM graceful_ws_subscription WHERE stream = %s"
        await eventually(lambda: place.site.sql(subscribers, room) == [(4,)], 10)
        await process.run(f"publish({room!r}, 'a'); publish({room!r}, {{'n': [1, None]}})")
        await one.ask({"publish": room, "data": "from a consumer"})
        wanted = [(1, "a"), (2, {"n": [1, None]}), (3, "from a consumer")]
        for raw in (one, two, light):
            assert await raw.has(room, 3) == wanted
        await eventually(lambda: len(plain.messages) == 3, 10)
        assert plain.messages == [data for _, data in wanted]
        assert one.own == two.own == []
        for raw in (one, two, light):
            await raw.bye()


async def test_published_if_and_only_if_the_transaction_commits(
    place: Place, process: Outside, room: str
) -> None:
    code = f"""
try:
    with transaction.atomic():
        publish({room!r}, 'rolled back')
        raise Undone
except Undone:
    pass
with transaction.atomic():
    publish({room!r}, 'committed')
    try:
        with transaction.atomic():
            publish({room!r}, 'rolled back to a savepoint')
            raise Undone
    except Undone:
        pass
"""
    async with Raw(place.ws(0)) as raw, Raw(place.ws(1, "/transaction-room/")) as handler:
        await raw.hello()
        await handler.hello()
        await raw.follow(room)
        await process.run(code)
        await handler.message({"publish": room, "data": "failed", "fail": "rolled back"})
        await handler.expect("nack")
        await handler.ask({"publish": room, "data": "handled"})
        assert await raw.has(room, 2) == [(1, "committed"), (2, "handled")]
        await raw.bye()
        await handler.bye()


async def test_process_killed_between_commit_and_wake_up_loses_nothing(
    place: Place, process: Outside, room: str
) -> None:
    code = f"""
with transaction.atomic():
    transaction.on_commit(lambda: os.kill(os.getpid(), 9))
    publish({room!r}, 'kept')
"""
    async with Raw(place.ws(0)) as one, Raw(place.ws(1)) as two:
        for raw in (one, two):
            await raw.hello()
            await raw.follow(room)
        await process.start(code)
        assert await process.died() == -9
        for raw in (one, two):
            assert await raw.has(room, 1) == [(1, "kept")]
            await raw.bye()


async def test_subscribing_while_messages_are_published_misses_none_and_repeats_none(
    place: Place, process: Outside, room: str
) -> None:
    count = 60
    code = f"for n in range(1, {count + 1}): publish({room!r}, n); time.sleep(0.01)"
    raws = [Raw(place.ws(n % 2)) for n in range(6)]
    await process.start(code)
    starts = []
    for raw in raws:
        await raw.__aenter__()
        await raw.hello()
        starts.append((await raw.follow(room))[1])
    await process.done()
    try:
        for raw, start in zip(raws, starts, strict=True):
            if start < count:
                await raw.has(room, count)
            assert raw.stream(room) == [(n, n) for n in range(start + 1, count + 1)]
            await raw.bye()
    finally:
        for raw in raws:
            await raw.__aexit__()
    assert starts[0] < count


async def test_session_that_was_taken_over_publishes_nothing(place: Place, room: str) -> None:
    async with Raw(place.ws(0)) as old, Raw(place.ws(1), plain=False) as new:
        await old.hello()
        await old.follow(room)
        new.token = old.token
        assert (await new.hello())["resumed"]
        for n in range(10):
            await old.message({"publish": room, "data": f"zombie {n}"})
        assert (await old.closed())[0] == 4501
        await new.ask({"publish": room, "data": "mine"})
        assert await new.has(room, 1) == [(1, "mine")]
        await new.bye()


# --- subscriptions over reconnects ------------------------------------------------------------


async def test_resume_replays_streams_and_own_messages_each_in_order(
    place: Place, process: Outside, room: str
) -> None:
    async with Raw(place.ws(0)) as raw:
        await raw.hello()
        epoch, _ = await raw.follow(room)
        await raw.ask({"send": "own 1"})
        await process.run(f"publish({room!r}, 1)")
        await raw.has(room, 1)
        raw.cut()
    code = f"for n in range(2, 6): publish({room!r}, n); send_to_session('{raw.session_id}', n)"
    await process.run(code)
    async with again(raw, place.ws(1)) as later:
        await later.hello(last_seq_id=1, positions={room: [epoch, 1]})
        assert later.welcomed["resumed"]
        assert later.welcomed["streams"][room] == {"epoch": epoch, "head": 5, "state": "resumed"}
        await later.has(room, 5)
        await eventually(lambda: len(later.own) == 4, 10)
        assert later.stream(room) == [(n, n) for n in range(2, 6)]
        assert later.own == [(n, n) for n in range(2, 6)]
        await process.run(f"publish({room!r}, 6)")
        assert (await later.has(room, 6))[-1] == (6, 6)
        assert later.all("gap") == []
        await later.bye()


async def test_what_was_followed_and_left_stays_so_over_reconnects(
    place: Place, process: Outside, room: str
) -> None:
    left, new = f"{room} left", f"{room} new"
    async with Raw(place.ws(0)) as raw:
        await raw.hello()
        for name in (room, left):
            await raw.follow(name)
        await raw.message({"unsubscribe": left})
        await raw.expect("unsubscribed", stream=left)
        raw.cut()
    async with again(raw, place.ws(1)) as second:
        welcome = await second.hello(last_seq_id=0)
        assert list(welcome["streams"]) == [room]
        # What it asked for is resent, for it heard of no acknowledgement; this is new.
        assert await second.ask({"subscribe": room}) == [room]
        assert second.all("subscribed") == []
        await second.follow(new)
        second.cut()
    await process.run(f"for name in {[room, left, new]!r}: publish(name, name)")
    async with again(second, place.ws(0)) as third:
        welcome = await third.hello(last_seq_id=0)
        assert sorted(welcome["streams"]) == sorted([room, new])
        assert await third.has(room, 1) == [(1, room)]
        assert await third.has(new, 1) == [(1, new)]
        assert await third.ask({"send": "own"}) == sorted([room, new])
        assert third.stream(left) == []
        await third.bye()


async def test_permission_is_asked_again_at_each_resume(
    place: Place, process: Outside, room: str
) -> None:
    secret = f"secret-{uuid4().hex[:8]}"
    async with Raw(place.ws(0)) as raw:
        await raw.hello()
        for name in (room, secret):
            await raw.follow(name)
        raw.cut()
    await process.run(f"publish({room!r}, 1); publish({secret!r}, 1)")
    with (place.book.directory / "denied").open("a") as denied:
        denied.write(f"{secret}\n")
    async with again(raw, place.ws(1)) as later:
        streams = (await later.hello(last_seq_id=0))["streams"]
        assert streams[secret] == {"state": "denied"}
        assert streams[room]["state"] == "new"
        assert await later.has(room, 1) == [(1, 1)]
        assert await later.ask({"send": "own"}) == [room]
        rows = "SELECT count(*) FROM graceful_ws_subscription WHERE stream = %s"
        await eventually(lambda: place.site.sql(rows, secret) == [(0,)], 10)
        later.cut()
    async with again(later, place.ws(0)) as third:
        assert list((await third.hello(last_seq_id=1))["streams"]) == [room]
        assert third.stream(secret) == later.stream(secret) == []
        await third.bye()


async def test_subscription_right_before_a_cut_counts_from_its_commit(
    place: Place, process: Outside, room: str
) -> None:
    await process.run(f"publish({room!r}, 'before')")
    async with Raw(place.ws(0)) as raw:
        await raw.hello()
        await raw.message({"subscribe": room})
        rows = "SELECT count(*) FROM graceful_ws_subscription WHERE stream = %s"
        await eventually(lambda: place.site.sql(rows, room) == [(1,)], 10)
        raw.cut()
    # Whatever was on its way, the client has not seen it: it knows no position.
    await process.run(f"publish({room!r}, 'meanwhile')")
    async with again(raw, place.ws(1)) as later:
        streams = (await later.hello(last_seq_id=0, pending_from=1))["streams"]
        assert (streams[room]["state"], streams[room]["head"]) == ("new", 1)
        assert await later.has(room, 2) == [(2, "meanwhile")]
        await process.run(f"publish({room!r}, 'after')")
        assert await later.has(room, 3) == [(2, "meanwhile"), (3, "after")]
        await later.bye()


async def test_session_follows_at_most_two_hundred_streams(place: Place, room: str) -> None:
    names = [f"{room[-6:-2]}{n}" for n in range(200)]
    query = "&".join(f"stream={name}" for name in names)
    async with Raw(place.ws(0, f"/room/?{query}")) as raw:
        await raw.hello()
        assert await raw.ask({"send": 1}) == sorted(names)
        await raw.message({"subscribe": room})
        await raw.expect("nack")
        # What it follows already is none more, with presence or without.
        assert await raw.ask({"subscribe": names[0]}) == sorted(names)
        assert await raw.ask({"subscribe": names[1], "presence": True}) == sorted(names)
        await raw.message({"unsubscribe": names[2]})
        await raw.expect("unsubscribed", stream=names[2])
        await raw.follow(room)
        await raw.bye()


# --- users ------------------------------------------------------------------------------------


async def test_message_for_a_user_reaches_every_session_of_the_user_once(
    place: Place, process: Outside
) -> None:
    name = f"user-{uuid4().hex[:8]}"
    code = f"""
from importlib import import_module
from django.conf import settings
from django.contrib.auth.models import User
user = User.objects.create_user({name!r}, password='x')
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
store = import_module(settings.SESSION_ENGINE).SessionStore()
store[SESSION_KEY] = str(user.pk)
store[BACKEND_SESSION_KEY] = 'django.contrib.auth.backends.ModelBackend'
store[HASH_SESSION_KEY] = user.get_session_auth_hash()
store.save()
open({str(place.book.directory / name)!r}, 'w').write(store.session_key)
"""
    await process.run(code)
    key = (place.book.directory / name).read_text()
    cookie = {"additional_headers": {"Cookie": f"sessionid={key}"}}
    async with (
        Raw(place.ws(0), **cookie) as tab,
        Raw(place.ws(1), **cookie) as other_tab,
        Raw(place.ws(1), **cookie) as away,
        Raw(place.ws(0)) as stranger,
    ):
        for raw in (tab, other_tab, away, stranger):
            await raw.hello()
        away.cut()
        await process.run(
            f"from django.contrib.auth.models import User\n"
            f"user = User.objects.get(username={name!r})\n"
            "send_to_user(user, 'one')\n"
            "with transaction.atomic(): send_to_user(user.pk, 'two')\n"
        )
        for raw in (tab, other_tab):
            await raw.got(2)
            await raw.ask({"send": "own"})
            assert raw.own == [(1, "one"), (2, "two"), (3, "own")]
        async with again(away, place.ws(0), **cookie) as back:
            assert (await back.hello(last_seq_id=0))["resumed"]
            await back.got(2)
            await back.ask({"send": "own"})
            assert back.own == [(1, "one"), (2, "two"), (3, "own")]
            await back.bye()
        await stranger.ask({"send": "own"})
        assert stranger.own == [(1, "own")]
        for raw in (tab, other_tab, stranger):
            await raw.bye()
