"""Every message exactly once and in order, both ways, whatever happens to the connections."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graceful_ws.client.events import (
    CloseNeeded,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
)
from graceful_ws.client.session import ClientSession

from .model import ModelServer, Wire

wires = st.integers(min_value=0, max_value=2)


class Resuming(RuleBasedStateMachine):
    """A client and a server with up to three connections at a time between them: one that works,
    one that the server still believes in, and a successor that is not welcomed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.server = ModelServer()
        self.session = ClientSession()
        self.wires: list[Wire] = []
        self.sent: list[str] = []
        self.appended: list[str] = []
        self.unread: list[MessageReceived] = []
        self.delivered: list[str] = []
        self.outcomes: dict[str, str] = {}
        # Without a token there is nothing to resume: the first welcome has to arrive.
        self.wires.append(Wire(self.session, self.server))
        self.wires[0].up()
        self.hear(self.wires[0].down(self.now))

    # --- what applications do -----------------------------------------------------------------

    @rule(pad=st.integers(min_value=0, max_value=300))
    def client_sends(self, pad: int) -> None:
        data = f"c{len(self.sent)} " + "x" * pad
        self.sent.append(data)
        self.session.send(data)

    @rule()
    def server_sends(self) -> None:
        data = f"s{len(self.appended)}"
        self.appended.append(data)
        self.server.append(data)

    @rule(many=st.booleans())
    def application_takes(self, many: bool) -> None:
        for message in self.unread[: None if many else 1]:
            self.session.handed(message, self.now)
            self.delivered.append(message.data)
        del self.unread[: None if many else 1]

    # --- what networks and processes do -------------------------------------------------------

    @precondition(lambda self: len(self.wires) < 3)
    @rule()
    def client_dials(self) -> None:
        self.wires.append(Wire(self.session, self.server))

    @rule(wire=wires)
    def client_writes(self, wire: int) -> None:
        for found in self.wires[wire : wire + 1]:
            found.flush(self.now)

    @rule(wire=wires, texts=st.integers(min_value=1, max_value=6))
    def texts_arrive_at_the_server(self, wire: int, texts: int) -> None:
        for found in self.wires[wire : wire + 1]:
            for _ in range(texts):
                found.up()

    @rule(wire=wires, texts=st.integers(min_value=1, max_value=6))
    def texts_arrive_at_the_client(self, wire: int, texts: int) -> None:
        for found in self.wires[wire : wire + 1]:
            for _ in range(texts):
                self.hear(found.down(self.now))

    @rule(wire=wires, how=st.sampled_from(["result", "result", "result", "nack", "retry"]))
    def handler_runs(self, wire: int, how: str) -> None:
        for found in self.wires[wire : wire + 1]:
            if found.server.closed is None:
                found.server.handle(how)

    @rule(wire=wires, most=st.integers(min_value=1, max_value=5), again=st.booleans())
    def server_writes(self, wire: int, most: int, again: bool) -> None:
        for found in self.wires[wire : wire + 1]:
            if found.server.cursor is not None and found.server.owns:
                found.server.replay(most)
            if again:
                found.server.repeat()

    @rule(seconds=st.sampled_from([0.0, 1.1]), handlers=st.integers(min_value=0, max_value=4))
    def newest_connection_works_for_a_while(self, seconds: float, handlers: int) -> None:
        self.now += seconds
        for wire in self.wires[-1:]:
            self.carry(wire, handlers)

    def carry(self, wire: Wire, handlers: int) -> None:
        wire.flush(self.now)
        while wire.upward and wire.server.closed is None:
            wire.up()
        if wire.server.owns:
            wire.server.replay()
            for _ in range(handlers):
                wire.server.handle("result")
        while wire.server.outbox and not wire.client_closed:
            self.hear(wire.down(self.now))

    @rule(wire=wires)
    def connection_is_cut(self, wire: int) -> None:
        for found in self.wires[wire : wire + 1]:
            self.hear(found.cut(self.now))

    @rule(wire=wires)
    def server_forgets_the_connection(self, wire: int) -> None:
        for found in self.wires[wire : wire + 1]:
            if found.client_closed:
                self.wires.remove(found)

    @precondition(lambda self: self.session.link is None)
    @rule()
    def client_has_no_room(self) -> None:
        self.unread = self.session.forget(self.unread)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- what must be true --------------------------------------------------------------------

    def hear(self, events: list[Event]) -> None:
        for event in events:
            assert not isinstance(event, CloseNeeded | GapTold), event
            if isinstance(event, MessageReceived):
                self.unread.append(event)
            elif isinstance(event, MessageAcknowledged):
                assert event.result == event.message.data[1:-1]
                self.outcome(event.message.data[1:-1], "result")
            elif isinstance(event, MessageNacked) and not event.retry:
                self.outcome(event.message.data[1:-1], "nack")

    def outcome(self, data: str, outcome: str) -> None:
        assert data not in self.outcomes, "told twice"
        assert data in self.server.effects, "told before it was done"
        self.outcomes[data] = outcome

    @invariant()
    def handlers_see_every_message_once_and_in_order(self) -> None:
        assert self.server.effects == self.sent[: len(self.server.effects)]

    @invariant()
    def application_gets_every_message_once_and_in_order(self) -> None:
        got = self.delivered + [message.data for message in self.unread]
        assert got == self.appended[: len(got)]

    def teardown(self) -> None:
        """The network stays up for once: everything arrives."""
        working = [w for w in self.wires if w.client.is_current and w.server.owns]
        for wire in self.wires:
            if wire not in working:
                self.hear(wire.cut(self.now))
        wire = working[0] if working else Wire(self.session, self.server)
        for _ in range(4 * (len(self.sent) + len(self.appended)) + 20):
            self.now += 0.6
            self.carry(wire, 1)
            self.application_takes(many=True)
        assert self.delivered == self.appended
        assert self.server.effects == self.sent
        assert set(self.outcomes) == set(self.sent)
        assert self.session.waiting == 0 and self.session.quiet


TestResuming = Resuming.TestCase
TestResuming.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
