"""Hellos: who may attach, from which number on, and what a welcome promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graceful_ws.core.window import Arrival, Intake, Pending, Position, check_page

from .explorer import Broken, Process, Promise, Steps
from .model_rules import Rule, Scenario
from .model_values import Frozen, Map


@dataclass(frozen=True)
class Attempts:
    """The session's row has the greatest attempt and the socket that owns it."""

    attempt: int = 0  # the client's current one; older sockets are abandoned
    on_the_way: frozenset[int] = frozenset()  # hellos, in any order
    owner: int = 0
    row_attempt: int = 0
    welcomed: int = 0  # the attempt that the client knows to be welcomed


class AbandonedHello(Scenario[Attempts]):
    """A client gives up waiting for its welcome, up to twice, and tries on a new socket."""

    at_least = 15

    def start(self) -> Attempts:
        return Attempts()

    def processes(self) -> tuple[Process[Attempts], ...]:
        return self.client, self.server

    def faults(self) -> tuple[Process[Attempts], ...]:
        return (self.give_up,)

    def client(self, s: Attempts) -> Steps[Attempts]:
        if s.attempt == 0:
            yield "says hello, attempt 1", replace(s, attempt=1, on_the_way=frozenset({1}))

    def give_up(self, s: Attempts) -> Steps[Attempts]:
        if 0 < s.attempt < 3 and s.welcomed != s.attempt:
            n = s.attempt + 1
            hellos = s.on_the_way | {n}
            yield f"says hello, attempt {n}", replace(s, attempt=n, on_the_way=hellos)

    def server(self, s: Attempts) -> Steps[Attempts]:
        for n in sorted(s.on_the_way):
            after = replace(s, on_the_way=s.on_the_way - {n})
            if n <= s.row_attempt and self.on(Rule.GREATER_ATTEMPT_ONLY):
                yield f"refuses attempt {n}", after
            else:
                welcomed = n if n == s.attempt else s.welcomed
                yield (
                    f"attaches attempt {n}",
                    replace(after, owner=n, row_attempt=n, welcomed=welcomed),
                )

    def unfinished(self, s: Attempts) -> Broken | None:
        if s.owner != s.attempt:
            why = f"the client lives on socket {s.attempt}, the session belongs to {s.owner}"
            return Broken(Promise.G4, why)
        if s.welcomed != s.attempt:
            return Broken(Promise.NO_DEADLOCK, f"attempt {s.attempt} is never welcomed")
        return None


@dataclass(frozen=True)
class Tabs:
    """Two objects of one client, as a page and its reload: the same token, other instances."""

    old: Frozen[Pending] = Frozen(Pending())  # noqa: RUF009 - a value
    new: Frozen[Pending] | None = None
    owner: str = "old"
    intake: Frozen[Intake] = Frozen(Intake(9, 999))  # noqa: RUF009 - a value
    received: tuple[tuple[int, str], ...] = ()  # in the owner's socket
    handled: tuple[str, ...] = ()
    acked: frozenset[str] = frozenset()


class NewInstance(Scenario[Tabs]):
    """The page sends two messages and is reloaded at any moment; the reload sends one."""

    at_least = 18

    def start(self) -> Tabs:
        return Tabs()

    def processes(self) -> tuple[Process[Tabs], ...]:
        return self.page, self.server, self.reload

    def page(self, s: Tabs) -> Steps[Tabs]:
        pending = s.old.thaw()
        if s.owner == "old" and pending.next_seq <= 2:
            pending.add(f"old {pending.next_seq}")
            sent = tuple(pending.sendable())
            yield f"sends {sent}", replace(s, old=Frozen(pending), received=s.received + sent)

    def reload(self, s: Tabs) -> Steps[Tabs]:
        if s.owner == "old":
            done = s.intake.peek.done
            pending = Pending()
            pending.add("new")
            if self.on(Rule.NUMBER_FROM_DONE):
                pending.renumber(done)
            sent = tuple(pending.sendable())
            fresh = Frozen(Intake(9, 999, done=done, received=done))
            yield (
                f"takes over, {done} done; sends {sent}",
                replace(s, owner="new", new=Frozen(pending), intake=fresh, received=sent),
            )

    def server(self, s: Tabs) -> Steps[Tabs]:
        if s.received:
            (seq, text), *rest = s.received
            intake = s.intake.thaw()
            handled = s.handled
            if intake.receive(seq, 1) is Arrival.NEW:
                handled = (*handled, text)
                intake.complete(seq)
            after = replace(s, received=tuple(rest), intake=Frozen(intake), handled=handled)
            yield (
                f"takes {text!r} as number {seq}, acks {intake.done}",
                replace(after, acked=self.acked(s, intake.done)),
            )

    def acked(self, s: Tabs, done: int) -> frozenset[str]:
        pending = s.old if s.new is None else s.new
        return s.acked.union(text for seq, text in pending.peek.items.items() if seq <= done)

    def broken(self, s: Tabs) -> Broken | None:
        for text in s.acked.difference(s.handled):
            return Broken(Promise.G2, f"{text!r} was acknowledged, but never handled")
        return None

    def unfinished(self, s: Tabs) -> Broken | None:
        if "new" not in s.acked:
            return Broken(Promise.NO_DEADLOCK, "the new page's message has no outcome")
        return None


@dataclass(frozen=True)
class Replay:
    journal: Map[int, str] = Map({1: "a", 2: "b"})  # noqa: RUF009 - immutable
    head: int = 2
    socket: tuple[tuple[int, str], ...] | None = None  # None: not connected
    position: Frozen[Position] = Frozen(Position())  # noqa: RUF009 - a value
    delivered: tuple[str, ...] = ()
    cuts: int = 2


class Resume(Scenario[Replay]):
    """Two messages wait; the replay may be cut off twice."""

    at_least = 15

    def start(self) -> Replay:
        return Replay()

    def processes(self) -> tuple[Process[Replay], ...]:
        return self.resume, self.client

    def faults(self) -> tuple[Process[Replay], ...]:
        return (self.cut,)

    def resume(self, s: Replay) -> Steps[Replay]:
        if s.socket is None:
            position = s.position.peek.seq
            page = [(seq, text) for seq, text in sorted(s.journal.items()) if seq > position]
            journal = s.journal
            if self.on(Rule.RESUME_READS):
                check_page(position, s.head, [seq for seq, _ in page])
            else:
                journal = Map()
            yield f"replays {page}", replace(s, socket=tuple(page), journal=journal)

    def client(self, s: Replay) -> Steps[Replay]:
        if s.socket:
            (seq, text), *rest = s.socket
            position = s.position.thaw()
            delivered = (*s.delivered, text) if position.receive(seq) else s.delivered
            s = replace(s, socket=tuple(rest), position=Frozen(position), delivered=delivered)
            yield f"receives {text!r}", s

    def cut(self, s: Replay) -> Steps[Replay]:
        if s.socket is not None and s.cuts:
            yield "the connection", replace(s, socket=None, cuts=s.cuts - 1)

    def unfinished(self, s: Replay) -> Broken | None:
        if s.delivered != ("a", "b"):
            return Broken(Promise.G1, f"accepted ('a', 'b'), delivered {s.delivered}")
        return None


@dataclass(frozen=True)
class First:
    row: str = "none"  # none, committed
    alive: bool = True
    client: str = "waits"  # waits, welcomed, resumed, unknown


class FirstHello(Scenario[First]):
    """A new session; its node may be killed at any moment, and then the client resumes."""

    at_least = 6

    def start(self) -> First:
        return First()

    def processes(self) -> tuple[Process[First], ...]:
        return self.node, self.resume

    def faults(self) -> tuple[Process[First], ...]:
        return (self.kill,)

    def node(self, s: First) -> Steps[First]:
        commit = self.on(Rule.ROW_BEFORE_WELCOME)
        if s.alive and s.row == "none" and (commit or s.client != "waits"):
            yield "commits the session's row", replace(s, row="committed")
        if s.alive and s.client == "waits" and (s.row == "committed" or not commit):
            yield "sends the welcome", replace(s, client="welcomed")

    def kill(self, s: First) -> Steps[First]:
        if s.alive:
            yield "the node", replace(s, alive=False)

    def resume(self, s: First) -> Steps[First]:
        if not s.alive and s.client == "welcomed":
            known = "resumed" if s.row == "committed" else "unknown"
            yield f"another node answers: {known}", replace(s, client=known)

    def broken(self, s: First) -> Broken | None:
        if s.client == "unknown":
            return Broken(Promise.G1, "a welcomed session cannot be resumed within its window")
        return None


@dataclass(frozen=True)
class Storm:
    queue: tuple[tuple[int, int], ...] = ()  # (client, how many ticks it has waited)
    to_come: frozenset[int] = frozenset(range(4))
    welcomed: frozenset[int] = frozenset()


class ReconnectStorm(Scenario[Storm]):
    """Four clients reconnect at once. One attach takes the database one tick; who is not welcomed
    after two hangs up and says hello anew."""

    at_least = 150
    patience = 2

    def start(self) -> Storm:
        return Storm()

    def processes(self) -> tuple[Process[Storm], ...]:
        return self.clients, self.database

    def clients(self, s: Storm) -> Steps[Storm]:
        for client in sorted(s.to_come):
            queue = (*s.queue, (client, 0))
            yield f"{client} says hello", replace(s, queue=queue, to_come=s.to_come - {client})

    def database(self, s: Storm) -> Steps[Storm]:
        """One tick: one attach; then those who waited too long hang up."""
        if s.to_come or not s.queue:
            return
        queue, welcomed = s.queue, s.welcomed
        if self.on(Rule.DROP_WHO_IS_GONE):
            queue = tuple(hello for hello in queue if hello[1] < self.patience)
        if queue:
            client, waited = queue[0]
            if waited < self.patience:
                welcomed = welcomed | {client}
        left = tuple((client, min(waited + 1, self.patience)) for client, waited in queue[1:])
        hang_up = frozenset(c for c, waited in queue[1:] if waited + 1 == self.patience)
        words = f"{sorted(welcomed)} are welcomed, {sorted(hang_up)} hang up"
        yield words, Storm(left, hang_up, welcomed)

    def unfinished(self, s: Storm) -> Broken | None:
        if len(s.welcomed) < 4:
            return Broken(Promise.NO_DEADLOCK, f"only {sorted(s.welcomed)} are welcomed")
        return None
