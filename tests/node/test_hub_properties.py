"""Anything at once: news lost, late, twice and in any order; connections that come and go."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful_ws.node.hub import LINGER
from graceful_ws.store.streams import Numbered, Tip
from tests.node.kit_hub import ROOM, Listener, Site
from tests.support.waiting import eventually

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

        await eventually(complete, 10, "everything arrives")
        for client in self.clients:
            assert client.listener is not None
            assert client.listener.seqs == sorted(set(client.listener.seqs))
            self.disconnect(client)
            assert client.got == list(range(client.first + 1, head + 1))
        site.hub.drop_unfollowed(asyncio.get_running_loop().time() + LINGER)
        await site.quiet()
        assert site.hub.sources == {}
        site.check()


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 9))
def test_every_subscription_is_one_unbroken_run_of_numbers(
    steps: list[tuple[str, int]], seed: int
) -> None:
    async def run(monkeypatch: pytest.MonkeyPatch) -> None:
        play = Play()
        play.site.stored.use(monkeypatch)
        for what, n in steps:
            await play.step(what, n)
        await play.end()

    random.seed(seed)
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            asyncio.run(run(monkeypatch))
        finally:
            logging.disable(logging.NOTSET)
