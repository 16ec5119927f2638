"""What was accepted and what arrived, compared. Pure: lines and diaries in, violations out."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.system.chaos.halls import inside, is_hall
from tests.system.chaos.ledger import Line
from tests.system.chaos.visitors import Diary

Message = tuple[str, str, int]  # sequence, publisher, number
REPLY = "reply:"  # a publisher: the transactions of a client's handlers
SHOWN = 5  # of each kind of violation, by name


@dataclass
class Facts:
    """What the database holds when everything has come to rest."""

    last_seqs: dict[str, int] = field(default_factory=dict)  # of sessions, by id
    heads: dict[str, int] = field(default_factory=dict)  # of rooms
    kept: dict[str, dict[int, Any]] = field(default_factory=dict)  # room: number: data
    effects: list[tuple[str, str, int]] = field(default_factory=list)  # session, client, number
    online: dict[str, list[str]] = field(default_factory=dict)  # who is there, as online() says


@dataclass
class Verdict:
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def found(self, kind: str, what: Iterable[object], text: str) -> None:
        """Count what is wrong; the first few are named."""
        items = list(what)
        self.counts[kind] += len(items)
        if items:
            more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
            named = ", ".join(str(item) for item in items[:SHOWN])
            self.violations.append(f"{kind}: {text}: {named}{more}")


class Books:
    """``grace``: seconds that an absence may last before it is announced."""

    def __init__(
        self, lines: Sequence[Line], diaries: Sequence[Diary], facts: Facts, grace: float
    ) -> None:
        self.diaries = diaries
        self.facts = facts
        self.grace = grace
        self.verdict = Verdict()
        self._lines = lines
        self._attempted = {line.message for line in lines if line.kind == "attempted"}
        self._accepted = self._by_sequence("accepted")
        self._never = {line.message for line in lines if line.kind == "rolled_back"}
        self._take_effects()
        self.verdict.counts["accepted"] = sum(map(len, self._accepted.values()))

    def _by_sequence(self, kind: str) -> dict[str, set[Message]]:
        found: dict[str, set[Message]] = defaultdict(set)
        for line in self._lines:
            if line.kind == kind:
                found[line.sequence].add(line.message)
        return found

    def _take_effects(self) -> None:
        """A reply is accepted if and only if the effect of its handler is there."""
        sessions = set(self.facts.effects)
        anywhere = {(client, number) for _, client, number in sessions}
        replies = {
            line.message
            for line in self._lines
            if line.kind == "attempted" and line.publisher.startswith(REPLY)
        }
        kept: set[Message] = set()
        for message in replies:
            sequence, publisher, number = message
            client = publisher.removeprefix(REPLY)
            session = sequence.removeprefix("session:")
            if (session, client, number) in sessions or (
                session == sequence and (client, number) in anywhere
            ):
                kept.add(message)
                self._accepted[sequence].add(message)
        self._never |= replies - kept

    def compare(self) -> Verdict:
        for line in self._lines:
            if line.kind == "surprise":
                self.verdict.found("surprises", [line.publisher], line.sequence)
        for diary in self.diaries:
            self._own_sequence(diary)
            self._inbound(diary)
            self._told(diary)
        contents = self._contents()
        for room, messages in contents.items():
            self._sequence(room, messages.items(), whole=True)
        for diary in self.diaries:
            for room in diary.rooms:
                self._stream(diary, room)
            for hall in diary.halls:
                self._hall(diary, hall)
        self.presence(contents)
        return self.verdict

    def _told(self, diary: Diary) -> None:
        self.verdict.found("gaps", diary.gaps, diary.name)
        self.verdict.found("troubles", diary.troubles, diary.name)

    # --- sequences ----------------------------------------------------------------------------

    def _own_sequence(self, diary: Diary) -> None:
        sequence = f"session:{diary.session}"
        self._numbers(diary, "its own sequence", diary.own, 0, self._last_seq(diary))
        self._sequence(sequence, diary.own, whole=diary.stayed)
        self.verdict.counts["received"] += len(diary.own)

    def _last_seq(self, diary: Diary) -> int:
        return self.facts.last_seqs.get(diary.session, 0)

    def _numbers(
        self, diary: Diary, where: str, received: Sequence[tuple[int, Any]], start: int, head: int
    ) -> None:
        """Each number once, ascending, without a hole; to the end if the client stayed."""
        seqs = [seq for seq, _ in received]
        name = f"{diary.name}, {where}"
        copies = [seq for seq, count in Counter(seqs).items() if count > 1]
        self.verdict.found("duplicated", copies, f"{name}: numbers")
        swapped = [b for a, b in itertools.pairwise(seqs) if b < a]
        self.verdict.found("out_of_order", swapped, f"{name}: numbers")
        end = head if diary.stayed else max(seqs, default=start)
        missing = sorted(set(range(start + 1, end + 1)) - set(seqs))
        self.verdict.found("lost", missing, f"{name}: numbers")
        beyond = sorted(set(seqs) - set(range(start + 1, end + 1)))
        self.verdict.found("phantom", beyond, f"{name}: numbers before {start + 1} or over {end}")

    def _sequence(self, name: str, content: Iterable[tuple[int, Any]], *, whole: bool) -> None:
        """What was accepted for a sequence is in it once, by the order of each publisher, and
        nothing else is."""
        messages = [message for _, data in content for message in said(name, data)]
        found = set(messages)
        accepted = self._accepted.get(name, set())
        copies = [message for message, count in Counter(messages).items() if count > 1]
        self.verdict.found("duplicated", copies, "under two numbers")
        self.verdict.found("phantom", sorted(found & self._never), "rolled back, and arrived")
        self.verdict.found("phantom", sorted(found - self._attempted), "never sent, and arrived")
        if whole:
            self.verdict.found("lost", sorted(accepted - found), "accepted, and never arrived")
        swapped = []
        last: dict[str, int] = {}
        for message in messages:
            if message in accepted:
                _, publisher, number = message
                if number < last.get(publisher, 0):
                    swapped.append(message)
                last[publisher] = max(number, last.get(publisher, 0))
        self.verdict.found("out_of_order", swapped, "behind a later one of the same publisher")

    def _contents(self) -> dict[str, dict[int, Any]]:
        """What each room holds under each number; everybody has to agree on it."""
        contents: dict[str, dict[int, Any]] = {room: {} for room in self._rooms()}
        for room, kept in self.facts.kept.items():
            contents.setdefault(room, {}).update(kept)
        for diary in self.diaries:
            stays = [(hall, stay.messages) for hall, all_ in diary.halls.items() for stay in all_]
            for room, received in [*diary.streams.items(), *stays]:
                other = []
                for seq, data in received:
                    if contents.setdefault(room, {}).setdefault(seq, data) != data:
                        other.append(seq)
                self.verdict.found("differing", other, f"{diary.name} in {room}")
        return {room: dict(sorted(messages.items())) for room, messages in contents.items()}

    def _rooms(self) -> set[str]:
        return {room for diary in self.diaries for room in diary.rooms}

    def _stream(self, diary: Diary, room: str) -> None:
        received = diary.streams.get(room, [])
        self.verdict.counts["received"] += len(received)
        head = self.facts.heads.get(room, 0)
        if room not in diary.starts:
            if received or (diary.stayed and head):
                self.verdict.found("troubles", [room], f"{diary.name} was never subscribed to")
            return
        self._numbers(diary, room, received, diary.starts[room], head)

    def _hall(self, diary: Diary, hall: str) -> None:
        head = self.facts.heads.get(hall, 0)
        for stay in diary.halls[hall]:
            self.verdict.counts["received"] += len(stay.messages)
            seqs = [seq for seq, _ in stay.messages]
            end = max(seqs, default=stay.start) if stay.over else head
            self._numbers(diary, hall, stay.messages, stay.start, end)

    # --- from clients -------------------------------------------------------------------------

    def _inbound(self, diary: Diary) -> None:
        mine = [line for line in self._lines if line.sequence == diary.name]
        started = [line.number for line in mine if line.kind == "started"]
        done = {line.number for line in mine if line.kind == "handled"}
        effects = Counter(
            number for _, client, number in self.facts.effects if client == diary.name
        )
        if diary.atomic:
            done = set(effects)
            twice = [number for number, count in effects.items() if count > 1]
            self.verdict.found("duplicated", twice, f"{diary.name}: effects")
            kept = sorted(done & set(diary.nacked))
            self.verdict.found("phantom", kept, f"{diary.name}: nacked, and has its effect")
        else:
            often = [number for number, count in Counter(started).items() if count > 2]
            self.verdict.found("duplicated", often, f"{diary.name}: started more than twice")
        lost = sorted(set(diary.acked) - done)
        self.verdict.found("lost", lost, f"{diary.name}: acknowledged, and not handled")
        first = list(dict.fromkeys(started))
        swapped = [b for a, b in itertools.pairwise(first) if b < a]
        self.verdict.found("out_of_order", swapped, f"{diary.name}: started")
        wrong = [n for n, result in diary.acked.items() if result not in ({"handled": n}, None)]
        self.verdict.found("troubles", wrong, f"{diary.name}: results of another message")
        refused = [f"{n} {code}" for n, code in diary.nacked.items() if not excused(diary, code)]
        self.verdict.found("troubles", refused, f"{diary.name}: nacked")
        if diary.stayed:
            outcome = diary.acked.keys() | diary.nacked.keys()
            open_ = [number for number in range(1, diary.sent + 1) if number not in outcome]
            self.verdict.found("lost", open_, f"{diary.name}: sent, and no outcome")
        self.verdict.counts["sent"] += diary.sent

    # --- who came and went --------------------------------------------------------------------

    def presence(self, contents: Mapping[str, Mapping[int, Any]]) -> None:
        """Joins and exits of a session alternate in each room; at the end those who stayed are
        there and nobody else; an exit was due, or was allowed by a long absence."""
        known = {diary.session: diary for diary in self.diaries}
        for room, messages in contents.items():
            comings: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for data in messages.values():
                if is_presence(data):
                    comings[data["client_id"]].append(data)
            for diary in self.diaries:
                if (room in diary.starts or diary.halls.get(room)) and diary.session not in comings:
                    self._wrong_exit(f"{diary.name} in {room}: nobody was told that it came")
            if not is_hall(room):
                self._online(room)
            for client, said_of in comings.items():
                self._one_presence(room, client, known.get(client), said_of)

    def _online(self, room: str) -> None:
        there = {diary.session for diary in self.diaries if diary.stayed and room in diary.rooms}
        told = self.facts.online.get(room, [])
        if sorted(told) != sorted(there):
            self._wrong_exit(f"{len(told)} are online in {room} and not {len(there)}")

    def _one_presence(
        self, room: str, client: str, diary: Diary | None, said_of: list[dict[str, Any]]
    ) -> None:
        name = f"{diary.name if diary else client} in {room}"
        types = [data["type"] for data in said_of]
        self.verdict.counts["exits_told"] += types.count("client_exit")
        story = " ".join(
            f"exit({data.get('cause')})" if data["type"] == "client_exit" else "join"
            for data in said_of
        )
        if types != (["client_join", "client_exit"] * len(types))[: len(types)]:
            self._wrong_exit(f"{name}: {story}")
        stayed = diary is not None and diary.stayed and (not is_hall(room) or inside(diary, room))
        if stayed and types[-1] != "client_join":
            self._wrong_exit(f"{name} stayed, and is said to have left: {story}")
        if not stayed:
            self.verdict.counts["exits_expected"] += 1
            if types[-1] != "client_exit":
                self._wrong_exit(f"{name} left, and nobody was told: {story}")
        if diary is not None and not is_hall(room):
            allowed = sum(silence >= self.grace for silence in diary.silences) + (not stayed)
            if types.count("client_exit") > allowed:
                longest = max(diary.silences, default=0.0)
                self._wrong_exit(f"{name}: {story}, its longest absence was {longest:.1f} s")
            cause = said_of[-1].get("cause")
            # A bye is answered before it is kept: the node may have been killed between.
            known = cause in ("bye", "node_lost")
            if diary.said_bye and types[-1] == "client_exit" and not known:
                self._wrong_exit(f"{name} said bye: {story}")

    def _wrong_exit(self, text: str) -> None:
        self.verdict.found("exits_wrong", [text], "presence")


def is_presence(data: Any) -> bool:
    return isinstance(data, dict) and data.get("type") in ("client_join", "client_exit")


def said(sequence: str, data: Any) -> Iterator[Message]:
    """The message that data stands for; none for joins and exits."""
    if not is_presence(data):
        yield sequence, data["p"], data["n"]


def excused(diary: Diary, code: str) -> bool:
    """Whether a handler that may run twice at most can have ended in this nack."""
    return code == "outcome_unknown" and not diary.atomic
