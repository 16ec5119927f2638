"""Every message exactly once and in order, both ways, whatever happens to the connections."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graceful_ws.client.events import (
    CloseNeeded,
    Event,
    GapTold,
    MessageAcknowledged,
    MessageNacked,
    MessageReceived,
    Outgoing,
)
from graceful_ws.client.session import ClientSession

from .model import ModelServer, Wire


class World:
    """A client and a server with up to three connections between them: one that works, one that
    the server still believes in, and a successor that is not welcomed yet.

    Each method is something that may happen; ``n`` says how much of it, ``wire`` to which
    connection, the newest being 0.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.server = ModelServer()
        self.session = ClientSession()
        self.wires: list[Wire] = []  # the newest first
        self.sent: list[str] = []  # and not taken back
        self.messages: dict[str, Outgoing] = {}
        self.appended: list[str] = []
        self.unread: list[MessageReceived] = []
        self.delivered: list[str] = []
        self.outcomes: dict[str, str] = {}
        # Without a token there is nothing to resume: the first welcome has to arrive.
        self.dial(0, 0)
        self.wires[0].up()
        self.hear(self.wires[0].down(self.now))

    # --- what applications do -----------------------------------------------------------------

    def client_sends(self, wire: int, n: int) -> None:
        data = f"c{len(self.messages)} " + "x" * 60 * n
        self.sent.append(data)
        self.messages[data] = self.session.send(data)

    def client_requests(self, wire: int, n: int) -> None:
        """A message that is given up by itself when the server is too busy too often."""
        data = f"r{len(self.messages)}"
        self.sent.append(data)
        self.messages[data] = self.session.send(data, tries=1 + n % 2)

    def client_gives_up(self, wire: int, n: int) -> None:
        for data in [data for data in self.sent if data not in self.outcomes][n : n + 1]:
            if self.session.withdraw(self.messages[data]):
                self.withdrawn(data)

    def withdrawn(self, data: str) -> None:
        assert data not in self.server.effects, "taken back, and handled"
        self.sent.remove(data)

    def server_sends(self, wire: int, n: int) -> None:
        data = f"s{len(self.appended)}"
        self.appended.append(data)
        self.server.append(data)

    def application_takes(self, wire: int, n: int) -> None:
        for message in self.unread[:n]:
            self.session.handed(message, self.now)
            self.delivered.append(message.data)
        del self.unread[:n]

    # --- what networks and processes do -------------------------------------------------------

    def dial(self, wire: int, n: int) -> None:
        if len(self.wires) < 3:
            self.wires.insert(0, Wire(self.session, self.server))

    def time_passes(self, wire: int, n: int) -> None:
        self.now += 0.3 * n

    def client_writes(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            found.flush(self.now)

    def texts_go_up(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            for _ in range(n):
                found.up()

    def texts_go_down(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            for _ in range(n):
                self.hear(found.down(self.now), found)

    def handler_runs(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            if found.server.closed is None:
                found.server.handle(("result", "result", "result", "nack", "retry")[n])

    def server_writes(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            if found.server.owns:
                found.server.replay(n)

    def server_repeats(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            found.server.repeat()

    def works_for_a_while(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            found.flush(self.now)
            while found.upward and found.server.closed is None:
                found.up()
            if found.server.owns:
                found.server.replay()
                for _ in range(n):
                    found.server.handle("result")
            while found.server.outbox and not found.client_closed:
                self.hear(found.down(self.now), found)

    def cut(self, wire: int, n: int) -> None:
        for found in self.wires[wire : wire + 1]:
            self.hear(found.cut(self.now))
            if n:  # the server notices
                self.wires.remove(found)

    def client_has_no_room(self, wire: int, n: int) -> None:
        if all(wire.client_closed for wire in self.wires):
            self.unread = self.session.forget(self.unread)

    # --- what must be true --------------------------------------------------------------------

    def hear(self, events: list[Event], wire: Wire | None = None) -> None:
        for event in events:
            assert not isinstance(event, GapTold), event
            if isinstance(event, CloseNeeded):
                assert wire is not None, event
                assert wire.client.attempt < self.session.last_welcomed, event
                wire.cut(self.now)
            elif isinstance(event, MessageReceived):
                self.unread.append(event)
            elif isinstance(event, MessageAcknowledged):
                assert event.result == event.message.data[1:-1]
                self.outcome(event.message.data[1:-1], "result")
            elif isinstance(event, MessageNacked) and not event.retry:
                if event.code == "try_again":
                    self.withdrawn(event.message.data[1:-1])
                else:
                    self.outcome(event.message.data[1:-1], "nack")

    def outcome(self, data: str, outcome: str) -> None:
        assert data not in self.outcomes, "told twice"
        assert data in self.server.effects, "told before it was done"
        self.outcomes[data] = outcome

    def check(self) -> None:
        assert self.server.effects == self.sent[: len(self.server.effects)]
        got = self.delivered + [message.data for message in self.unread]
        assert got == self.appended[: len(got)]

    def settle(self) -> None:
        """The network stays up for once: everything arrives."""
        working = [w for w in self.wires if w.client.is_current and w.server.owns]
        for wire in self.wires:
            if wire not in working:
                self.hear(wire.cut(self.now))
        self.wires = working
        if not working:
            self.dial(0, 0)
        for _ in range(2 * (len(self.sent) + len(self.appended)) + 10):
            self.time_passes(0, 4)
            self.works_for_a_while(0, 1)
            self.application_takes(0, 100)
        assert self.delivered == self.appended
        assert self.server.effects == self.sent
        assert set(self.outcomes) == set(self.sent)
        assert self.session.waiting == 0 and self.session.quiet


HAPPENINGS = {
    World.client_sends: 6,
    World.client_requests: 4,
    World.client_gives_up: 5,
    World.server_sends: 6,
    World.application_takes: 3,
    World.dial: 3,
    World.time_passes: 3,
    World.client_writes: 5,
    World.texts_go_up: 5,
    World.texts_go_down: 6,
    World.handler_runs: 5,
    World.server_writes: 5,
    World.server_repeats: 1,
    World.works_for_a_while: 3,
    World.cut: 2,
    World.client_has_no_room: 1,
}
happenings = st.tuples(
    st.sampled_from([what for what, weight in HAPPENINGS.items() for _ in range(weight)]),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.integers(min_value=0, max_value=4),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(happenings, min_size=30, max_size=100))
def test_every_message_arrives_once_and_in_order(
    story: list[tuple[object, int, int]],
) -> None:
    world = World()
    for what, wire, n in story:
        what(world, wire, n)  # type: ignore[operator]
        world.check()
    world.settle()
