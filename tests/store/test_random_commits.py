"""Random rounds over commits that break at random: nothing is lost, doubled or renumbered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from graceful_ws.publishing import send_to_session
from graceful_ws.store.attach import Attached
from graceful_ws.store.base import forget_connection, is_outage
from graceful_ws.store.entries import Append, Entry, TakePending
from graceful_ws.store.rounds import claim, commit_all
from tests.store.kit import (
    AFTER,
    BEFORE,
    append,
    attached,
    breaking_commits,
    complete,
    done,
    messages,
    refused_by,
    row,
)
from tests.support.databases import Database

pytestmark = pytest.mark.usefixtures("database")


def handled(owner: Attached, seq: int, *replies: str) -> int:
    """A handler's own transaction takes a number meanwhile."""
    with transaction.atomic():
        return claim(owner.session, owner.generation, seq, replies, None, 64)


class Story:
    """Random rounds of random entries for two sessions over commits that break at random."""

    def __init__(self, seed: int, database: Database) -> None:
        self.random = random.Random(seed)
        self.database = database
        self.owners = [attached(instance=f"{seed}") for _ in range(2)]
        self.told: list[dict[int, str]] = [{}, {}]
        self.handled = [0, 0]
        self.left = [0, 0]  # messages of send_to_session: 100, 101, …
        self.text = 0

    def words(self, count: int) -> list[str]:
        # Few different ones: the same text twice must be told apart by more than itself.
        self.text += 1
        return [str(self.text % 3)] * count

    def faults(self) -> Iterator[str | None]:
        for _ in range(2):
            yield self.random.choice([None, BEFORE, AFTER])

    def entries(self) -> list[tuple[int, Entry]]:
        made: list[tuple[int, Entry]] = []
        for who in self.random.choices([0, 1], k=self.random.randint(1, 6)):
            owner = self.owners[who]
            kind = self.random.choice(["append", "append", "take", "complete", "bad"])
            if kind == "append":
                made.append((who, append(owner, *self.words(self.random.randint(1, 3)))))
            elif kind == "take":
                made.append((who, TakePending(owner.session, owner.generation)))
            elif kind == "bad":
                made.append((who, append(owner, "1", refused_by(self.database))))
            else:
                self.handled[who] += 1
                made.append((who, complete(owner, self.handled[who], '{"result":1}')))
        return made

    def interfere(self, busy: set[int]) -> None:
        """What other threads of the node do between the break and the next try."""
        for who, owner in enumerate(self.owners):
            if self.random.random() < 0.3:
                send_to_session(owner.uuid, 100 + self.left[who])
                self.left[who] += 1
            if self.random.random() < 0.3 and who not in busy:
                self.handled[who] += 1
                [text] = self.words(1)
                first = handled(owner, self.handled[who], text)
                assert first not in self.told[who]
                self.told[who][first] = text

    def round(self) -> None:
        """Every entry gets an outcome, given again after each break as the journal does it."""
        entries = self.entries()
        # Numbers of clients are taken in order: not by a handler while a completion waits.
        busy = {who for who, entry in entries if not isinstance(entry, Append | TakePending)}
        faults, left = self.faults(), entries
        while left:
            with breaking_commits(self.database, faults):
                outcomes = commit_all([entry for _, entry in left])
            again = []
            for (who, entry), outcome in zip(left, outcomes, strict=True):
                if is_outage(outcome):
                    again.append((who, entry))
                else:
                    self.note(who, entry, outcome)
            left = again
            if left:
                forget_connection()
                self.interfere(busy)

    def note(self, who: int, entry: Entry, outcome: Any) -> None:
        if isinstance(entry, Append):
            if isinstance(outcome, Exception):
                assert len(entry.data) == 2, outcome
                return
            for seq, text in enumerate(entry.data, outcome):
                assert seq not in self.told[who], "a number was told twice"
                self.told[who][seq] = text
        elif isinstance(entry, TakePending):
            first, taken = outcome
            self.told[who].update(enumerate(taken, first))
        else:
            assert outcome is True


def test_random_stories_lose_and_double_nothing(database: Database) -> None:
    for seed in range(20):
        story = Story(seed, database)
        for _ in range(4):
            story.round()
        for who, owner in enumerate(story.owners):
            [(first, taken)] = done(TakePending(owner.session, owner.generation))
            story.told[who].update(enumerate(taken, first))
            kept = dict(messages(owner))
            assert list(kept) == list(range(1, len(kept) + 1)), f"seed {seed}"
            assert story.told[who].items() <= kept.items(), f"seed {seed}"
            assert row(owner).last_seq == len(kept), f"seed {seed}"
            left = [text for text in kept.values() if int(text) >= 100]
            assert left == [str(100 + n) for n in range(story.left[who])], f"seed {seed}"
