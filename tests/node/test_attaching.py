"""From the hello to the welcome: which hooks run, and what was left for the session."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest

from graceful_ws.consumers import GracefulConsumer
from graceful_ws.models import Session, Subscription
from graceful_ws.node.node import Node
from graceful_ws.publishing import asend_to_session
from graceful_ws.store import pending, streams
from graceful_ws.store.attach import Attached, attach, hash_token
from tests.node.kit import store, writer_held
from tests.node.kit_peer import Peer, running_node
from tests.store.kit import WITHIN, append, attached, detach, done, hello, row
from tests.support.databases import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("database")


class Hooks:
    """Notes every hook of the life-cycle that is called."""

    called: ClassVar[list[str]]

    async def connect(self) -> None:
        self.called.append("connect")
        await self.accept()  # type: ignore[attr-defined]

    async def session_started(self) -> None:
        self.called.append("session_started")

    async def resumed(self) -> None:
        self.called.append("resumed")

    async def disconnect(self, code: int) -> None:
        self.called.append("disconnect")

    async def session_ended(self) -> None:
        self.called.append("session_ended")

    async def may_subscribe(self, stream: str) -> bool:
        self.called.append(f"may_subscribe {stream}")
        return stream != "denied"

    async def exit_audience(self) -> list[str]:
        self.called.append("exit_audience")
        return []


class Mixed(Hooks, GracefulConsumer):
    called: ClassVar[list[str]] = []


class Inherited(Mixed):
    called: ClassVar[list[str]] = []


OWN = {name: hook for name, hook in vars(Hooks).items() if not name.startswith("__")}
Own = type("Own", (GracefulConsumer,), {**OWN, "called": []})


class Plainest(GracefulConsumer):
    """Overrides nothing."""


@pytest.fixture
async def node(database: Database, limits: Callable[..., None]) -> AsyncIterator[Node]:
    # What is found, is found without a poll.
    limits(poll_interval=60.0, round_interval=60.0)
    async with running_node() as node:
        yield node


@pytest.mark.parametrize("consumer", [Mixed, Own, Inherited])
@pytest.mark.usefixtures("node")
async def test_every_hook_that_an_application_has_is_called(consumer: Any) -> None:
    consumer.called.clear()
    peer = Peer(consumer)
    await peer.connect()
    first = ["connect", "exit_audience", "session_started"]
    await eventually(lambda: len(consumer.called) == 3, WITHIN, "the hooks have run")
    await peer.cut()
    await peer.connect()
    await eventually(lambda: "resumed" in consumer.called, WITHIN, "resumed() has run")
    await peer.bye()
    again = ["connect", "exit_audience", "resumed", "disconnect", "session_ended"]
    await eventually(lambda: "session_ended" in consumer.called, WITHIN, "the session has ended")
    assert consumer.called == [*first, "disconnect", *again]


@pytest.mark.usefixtures("node")
async def test_a_hook_may_be_given_to_one_consumer() -> None:
    called = []

    class Dressed(GracefulConsumer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.session_started = self.started  # type: ignore[method-assign]

        async def started(self) -> None:
            called.append("started")

    await Peer(Dressed).connect()
    await eventually(lambda: bool(called), WITHIN, "the hook has run")


@pytest.mark.usefixtures("node")
async def test_without_hooks_a_session_begins_goes_on_and_ends() -> None:
    peer = Peer(Plainest)
    begun = await peer.connect()
    await peer.cut()
    resumed = await peer.connect()
    assert (begun["resumed"], resumed["resumed"]) == (False, True)
    assert begun["session_id"] == resumed["session_id"]
    await peer.bye()
    assert peer.closed is not None
    assert peer.closed["code"] == 1000
    assert not (await Peer(Plainest).connect())["resumed"]


# --- streams --------------------------------------------------------------------------------------


async def following(peer: Peer, *names: str) -> None:
    """The session follows these streams the next time that it comes."""

    def follow() -> None:
        streams.create(names)
        tips = streams.tips(names)
        for name in names:
            Subscription.objects.create(
                session_id=pk_of(peer), stream=name, epoch=tips[name].epoch, from_seq=0
            )

    await store(follow)


def pk_of(peer: Peer) -> int:
    return int(Session.objects.get(uuid=uuid.UUID(peer.welcome["session_id"])).pk)


@pytest.mark.parametrize("consumer", [Mixed, Plainest])
@pytest.mark.usefixtures("node")
async def test_permission_is_asked_again_where_an_application_gives_it(consumer: Any) -> None:
    peer = Peer(consumer)
    await peer.connect()
    await peer.cut()
    await following(peer, "free", "denied")
    Mixed.called.clear()
    told = (await peer.connect())["streams"]
    asked = consumer is Mixed
    assert told["free"]["state"] == "new"
    assert told["denied"]["state"] == ("denied" if asked else "new")
    assert [one for one in Mixed.called if one.startswith("may")] == (
        ["may_subscribe free", "may_subscribe denied"] if asked else []
    )


@pytest.mark.usefixtures("node")
async def test_streams_of_the_class_are_followed_also_by_a_session_from_before_they_were() -> None:
    class Before(GracefulConsumer):
        @classmethod
        def label(cls) -> str:
            return "the.same"

    class After(Before):
        streams = ("one", "two")

    peer = Peer(Before)
    await peer.connect()
    await peer.cut()
    peer.calls(After)
    for _ in range(2):
        streams_told = (await peer.connect())["streams"]
        if not streams_told:
            await eventually(
                lambda: [one["type"] for one in peer.frames].count("subscribed") == 2,
                WITHIN,
                "both are followed",
            )
        await peer.cut()
    assert set(streams_told) == {"one", "two"}


# --- what was left ------------------------------------------------------------------------------


@pytest.mark.usefixtures("node")
async def test_what_was_left_while_nobody_was_there_comes_with_the_resume() -> None:
    peer = Peer(Plainest)
    session = (await peer.connect())["session_id"]
    await peer.cut()
    await asend_to_session(session, "left")
    await peer.connect()
    assert (await peer.gets("message"))["data"] == "left"


async def test_what_is_left_before_the_node_hears_of_its_attach_comes_without_a_poll(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(Plainest)
    session = (await peer.connect())["session_id"]
    await peer.cut()
    run = node.journal.threads.run

    async def leaving(*args: Any) -> Any:
        outcomes = await run(*args)
        if isinstance(outcomes, list) and isinstance(outcomes[0], Attached):
            assert not outcomes[0].pending
            await asend_to_session(session, "left")
            await asyncio.sleep(0.1)  # nobody can wait for what has no effect yet
        return outcomes

    monkeypatch.setattr(node.journal.threads, "run", leaving)
    await peer.connect()
    assert (await peer.gets("message"))["data"] == "left"


@pytest.mark.parametrize("end", ["not begun", "under way", "over meanwhile"])
async def test_what_is_told_to_the_connection_before_comes_over_the_next_without_a_poll(
    end: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client moves, or comes back while its disconnect() still runs: the registry has the old
    connection until the node hears of the attach."""
    gate = asyncio.Event()

    class Slow(GracefulConsumer):
        async def disconnect(self, code: int) -> None:
            await gate.wait()

    peer = Peer(Slow)
    session = (await peer.connect())["session_id"]
    [before] = node.connections
    second = peer.next_of_the_same_client()
    cut = None if end == "not begun" else asyncio.create_task(peer.cut())
    await eventually(lambda: before.is_open is (cut is None), WITHIN, "its end has begun")
    run = node.journal.threads.run

    async def leaving(*args: Any) -> Any:
        outcomes = await run(*args)
        if isinstance(outcomes, list) and isinstance(outcomes[0], Attached):
            await asend_to_session(session, "left")
            await asyncio.sleep(0.1)  # nobody can wait for what has no effect yet
            if end == "over meanwhile":
                gate.set()
                await eventually(lambda: before not in node.connections, WITHIN, "it is over")
        return outcomes

    monkeypatch.setattr(node.journal.threads, "run", leaving)
    try:
        await second.connect()
        assert (await second.gets("message"))["data"] == "left"
    finally:
        gate.set()
        if cut is not None:
            await cut


async def test_the_attach_says_whether_something_waits() -> None:
    def check() -> None:
        owner, other = attached(), attached(instance="two")
        done(append(owner, "numbered"), detach(owner), detach(other))
        assert not attached(token=owner.token, attempt=2).pending
        pending.leave(owner.uuid, "left")
        assert attached(token=owner.token, attempt=3).pending
        assert not attached(token=other.token, instance="two", attempt=2).pending
        assert not attached(instance="three").pending

    await store(check)


async def test_sessions_of_one_round_keep_their_tokens_apart() -> None:
    def check() -> None:
        owners = attach([hello(instance=str(n)) for n in range(200)])
        assert len({one.uuid for one in owners}) == len({one.session for one in owners}) == 200
        assert {one.uuid.version for one in owners} == {4}
        for n, one in enumerate(owners):
            kept = row(one)
            assert (kept.uuid, kept.instance) == (one.uuid, str(n))
            assert bytes(kept.token_hash) == hash_token(one.token) == one.token_hash

    await store(check)


# --- refusals -----------------------------------------------------------------------------------


async def test_an_attach_that_fails_closes_its_connection_only(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = RuntimeError("a defect")
    outcomes = node.journal._outcomes

    async def answer(function: Any, entries: Any) -> Any:
        found = await outcomes(function, entries)
        return [wrong if isinstance(one, Attached) else one for one in found]

    monkeypatch.setattr(node.journal, "_outcomes", answer)
    peer = Peer(Plainest)
    await peer.dial()
    await eventually(lambda: peer.closed is not None, WITHIN, "it is closed")
    assert peer.closed is not None
    assert peer.closed["code"] == 1011
    await peer.cut()
    monkeypatch.undo()
    assert await Peer(Plainest).connect()


async def test_an_attach_in_which_something_raises_is_closed_and_waits_for_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(live: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(node, "own", wrong)
    peer = Peer(Plainest)
    await peer.dial()
    await eventually(lambda: peer.closed is not None, WITHIN, "it is closed")
    assert peer.closed is not None
    assert peer.closed["code"] == 1011
    await peer.cut()


async def test_a_connection_that_goes_while_its_hello_waits_leaves_nothing_behind(
    node: Node,
) -> None:
    peer = Peer(Plainest)
    async with writer_held(node.journal):
        await peer.dial()
        await eventually(
            lambda: any(not one.hello_due for one in node.connections), WITHIN, "it says hello"
        )
        gone = asyncio.create_task(peer.cut())
        await eventually(lambda: all(one.over for one in node.connections), WITHIN, "it is over")
    await gone
    assert not node.connections
    assert not node.sessions
    assert not any(frame["type"] == "welcome" for frame in peer.frames)
    states = await store(lambda: list(Session.objects.values_list("state", flat=True)))
    assert states in (["detached"], [])
