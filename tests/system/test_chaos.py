"""Short runs of the chaos suite, and its books: what they have to find, and what not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.redis import RedisServer
from tests.system.chaos import halls
from tests.system.chaos.books import Books, Facts, Verdict
from tests.system.chaos.ledger import Line
from tests.system.chaos.options import FAULTS, Options, chosen, possible
from tests.system.chaos.place import Place
from tests.system.chaos.run import Outcome, Run, table
from tests.system.chaos.visitors import Diary

# --- the books ------------------------------------------------------------------------------

GRACE = 3.0
JOIN = "client_join"
EXIT = "client_exit"


class Story:
    """Two visitors in one room, to whom nothing bad has happened yet."""

    def __init__(self) -> None:
        own = [(1, {"p": "tick", "n": 1}), (2, {"p": "tick", "n": 2})]
        room: list[tuple[int, Any]] = [
            (1, {"type": JOIN, "client_id": "one"}),
            (2, {"type": JOIN, "client_id": "two"}),
            (3, {"p": "p", "n": 1}),
            (4, {"p": "p", "n": 2}),
        ]
        self.one = Diary("one", False, ("room",), session="one", own=own)
        self.two = Diary("two", True, ("room",), session="two")
        for diary in (self.one, self.two):
            diary.starts["room"] = 0
            diary.streams["room"] = room[:]
            diary.sent = 2
            diary.acked = {1: {"handled": 1}, 2: None}
        self.facts = Facts({"one": 2, "two": 0}, {"room": 4}, {"room": dict(room)})
        self.facts.online = {"room": ["one", "two"]}
        self.facts.effects = [("two", "two", 1), ("two", "two", 2)]
        self.lines: list[Line] = []
        for number in (1, 2):
            self.lines += [Line(kind, "one", "c", number) for kind in ("started", "handled")]
            for kind in ("attempted", "accepted"):
                self.lines += [Line(kind, "session:one", "tick", number)]
                self.lines += [Line(kind, "room", "p", number)]

    def say_in_room(self, *messages: Any) -> None:
        for data in messages:
            self.facts.heads["room"] += 1
            for diary in (self.one, self.two):
                if diary.stayed:
                    diary.streams["room"].append((self.facts.heads["room"], data))

    def verdict(self) -> Verdict:
        return Books(self.lines, [self.one, self.two], self.facts, GRACE).compare()

    def found(self) -> set[str]:
        """The kinds of violations."""
        return {violation.partition(":")[0] for violation in self.verdict().violations}


@pytest.fixture
def story() -> Story:
    return Story()


def test_books_find_nothing_when_nothing_is_wrong(story: Story) -> None:
    verdict = story.verdict()
    assert verdict.violations == []
    assert (verdict.counts["sent"], verdict.counts["received"]) == (4, 10)


def test_message_that_was_accepted_and_is_nowhere_is_lost(story: Story) -> None:
    story.lines += [Line(kind, "room", "p", 3) for kind in ("attempted", "accepted")]
    assert story.found() == {"lost"}


def test_message_that_one_member_did_not_get_is_lost(story: Story) -> None:
    del story.two.streams["room"][2]
    assert story.found() == {"lost"}


def test_last_message_of_the_own_sequence_that_did_not_come_is_lost(story: Story) -> None:
    del story.one.own[-1]
    assert story.found() == {"lost"}


def test_message_handed_over_twice_is_duplicated(story: Story) -> None:
    story.one.streams["room"].append(story.one.streams["room"][-1])
    assert story.found() == {"duplicated"}


def test_message_under_two_numbers_is_duplicated(story: Story) -> None:
    story.say_in_room({"p": "p", "n": 2})
    assert story.found() == {"duplicated"}


def test_numbers_that_changed_places_are_out_of_order(story: Story) -> None:
    room = story.two.streams["room"]
    room[2], room[3] = room[3], room[2]
    assert story.found() == {"out_of_order"}


def test_publications_of_one_publisher_that_changed_places_are_out_of_order(story: Story) -> None:
    for diary in (story.one, story.two):
        diary.streams["room"][2:] = [(3, {"p": "p", "n": 2}), (4, {"p": "p", "n": 1})]
    story.facts.kept.clear()
    assert story.found() == {"out_of_order"}


def test_two_members_who_got_different_messages_under_one_number_are_found(story: Story) -> None:
    story.lines.append(Line("attempted", "room", "q", 1))
    story.two.streams["room"][3] = (4, {"p": "q", "n": 1})
    assert story.found() == {"differing"}


@pytest.mark.parametrize("kinds", [["attempted", "rolled_back"], []])
def test_message_that_was_rolled_back_or_never_sent_is_a_phantom(
    story: Story, kinds: list[str]
) -> None:
    story.lines += [Line(kind, "room", "q", 1) for kind in kinds]
    story.say_in_room({"p": "q", "n": 1})
    assert story.found() == {"phantom"}


def test_message_whose_outcome_is_unknown_may_arrive_or_not(story: Story) -> None:
    for number in (1, 2):
        story.lines += [Line(kind, "room", "q", number) for kind in ("attempted", "withdrawn")]
    story.say_in_room({"p": "q", "n": 1})
    assert story.found() == set()


def test_reply_arrives_if_and_only_if_the_effect_is_there(story: Story) -> None:
    story.lines += [Line("attempted", "room", "reply:two", number) for number in (2, 3)]
    assert story.found() == {"lost"}  # 2 has its effect
    story.say_in_room({"p": "reply:two", "n": 2})
    assert story.found() == set()
    story.say_in_room({"p": "reply:two", "n": 3})
    assert story.found() == {"phantom"}


def test_effect_that_is_missing_or_there_twice_is_found(story: Story) -> None:
    effect = story.facts.effects.pop()
    assert story.found() == {"lost"}
    story.facts.effects += [effect, effect]
    assert story.found() == {"duplicated"}


def test_handler_may_start_twice_and_not_three_times(story: Story) -> None:
    story.lines.append(Line("started", "one", "d", 2))
    assert story.found() == set()
    story.lines.append(Line("started", "one", "e", 2))
    assert story.found() == {"duplicated"}


def test_message_without_outcome_is_lost_and_a_nack_needs_an_excuse(story: Story) -> None:
    story.one.sent = 3
    assert story.found() == {"lost"}
    story.one.nacked[3] = "outcome_unknown"
    assert story.found() == set()
    story.one.nacked[3] = "error"
    assert story.found() == {"troubles"}


def test_gaps_and_lost_sessions_are_found(story: Story) -> None:
    story.one.gaps.append("room: trimmed")
    story.two.troubles.append("lost its session")
    assert story.found() == {"gaps", "troubles"}


def leave(story: Story, **exit_: Any) -> None:
    story.two.departure = "bye"
    story.facts.online["room"].remove("two")
    story.say_in_room({"type": EXIT, "client_id": "two", **exit_})


def test_exit_of_one_who_left_is_expected_once(story: Story) -> None:
    leave(story, cause="bye")
    assert story.verdict().counts["exits_expected"] == 1
    assert story.found() == set()
    story.say_in_room({"type": EXIT, "client_id": "two", "cause": "timeout"})
    assert story.found() == {"exits_wrong"}


def test_exit_that_never_came_is_found(story: Story) -> None:
    story.two.departure = "cut"
    story.facts.online["room"].remove("two")
    assert story.found() == {"exits_wrong"}


def test_exit_with_another_cause_than_the_bye_is_found(story: Story) -> None:
    story.two.said_bye = True
    leave(story, cause="timeout")
    assert story.found() == {"exits_wrong"}


def test_exit_after_a_short_absence_is_wrong_and_after_a_long_one_allowed(story: Story) -> None:
    story.two.silences = [GRACE - 1]
    for kind in (EXIT, JOIN):
        story.say_in_room({"type": kind, "client_id": "two"})
    assert story.found() == {"exits_wrong"}
    story.two.silences = [GRACE + 1]
    assert story.found() == set()


def test_return_that_nobody_was_told_of_is_found(story: Story) -> None:
    story.two.silences = [GRACE + 1]
    story.say_in_room({"type": EXIT, "client_id": "two", "cause": "timeout"})
    assert story.found() == {"exits_wrong"}


def test_one_who_is_online_and_should_not_be_is_found(story: Story) -> None:
    story.facts.online["room"].append("stranger")
    assert story.found() == {"exits_wrong"}


def test_stranger_who_came_and_never_left_is_found(story: Story) -> None:
    story.say_in_room({"type": JOIN, "client_id": "stranger"})
    assert story.found() == {"exits_wrong"}
    story.say_in_room({"type": EXIT, "client_id": "stranger", "cause": "timeout"})
    assert story.found() == set()


def test_hall_is_compared_from_each_entry_on_and_until_it_is_left(story: Story) -> None:
    halls.enter(story.one, "hall-1", 4)
    for number in (5, 6, 7):
        story.lines.append(Line("attempted", "hall-1", "p", number))
        halls.hear(story.one, "hall-1", number, {"p": "p", "n": number})
    told = {"type": JOIN, "client_id": "one"}
    story.facts.kept["hall-1"] = {4: told}
    story.facts.heads["hall-1"] = 8
    assert story.found() == {"lost"}  # 8, for who is still in
    halls.leave(story.one, "hall-1")
    assert story.found() == {"exits_wrong"}  # nobody was told
    story.facts.kept["hall-1"][8] = told | {"type": EXIT}
    assert story.found() == set()
    del story.one.halls["hall-1"][0].messages[1]
    assert story.found() == {"lost"}
    halls.hear(story.one, "hall-1", 9, {"p": "p", "n": 9})
    assert story.one.troubles == ["heard hall-1 from outside: 9"]


def test_hall_that_was_left_and_entered_unheard_is_another_stay(story: Story) -> None:
    halls.enter(story.one, "hall-1", 4)
    halls.hear(story.one, "hall-1", 5, "data")
    halls.enter_again(story.one, "hall-1", 4)  # the same one: its head has been passed
    assert len(story.one.halls["hall-1"]) == 1
    halls.enter_again(story.one, "hall-1", 9)
    assert [stay.start for stay in story.one.halls["hall-1"]] == [4, 9]
    assert [stay.over for stay in story.one.halls["hall-1"]] == [True, False]


# --- the command line -----------------------------------------------------------------------


def test_faults_are_chosen_by_name() -> None:
    assert chosen("all") == tuple(FAULTS)
    assert chosen("none") == ()
    assert chosen("cut,redis") == ("cut", "redis")
    with pytest.raises(ValueError, match="no fault 'fire'"):
        chosen("cut,fire")


def test_faults_that_need_what_is_not_there_are_left_out() -> None:
    assert "postgres" not in possible(Options(database="sqlite"))
    assert not {"redis", "drop"} & set(possible(Options(layer="none")))


def test_outcome_is_shown_with_every_violation() -> None:
    outcome = Outcome(Options(seed=7), violations=["lost: a message"])
    assert "lost: a message" in table(outcome)
    assert json.loads(json.dumps(outcome.as_dict()))["violations"] == ["lost: a message"]


def test_command_runs_ends_with_0_and_prints_one_json_line(tmp_path: Path) -> None:
    arguments = ["--seconds=3", "--clients=6", "--nodes=2", "--faults=cut,sigterm", "--json"]
    arguments += ["--database=sqlite", "--layer=none", f"--directory={tmp_path / 'chaos'}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.chaos", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    outcome = json.loads(line)
    assert outcome["violations"] == []
    assert outcome["sent"] > 20
    assert outcome["received"] > 20
    assert set(outcome["faults"]) <= {"cut", "sigterm"}


# --- runs -----------------------------------------------------------------------------------


async def course(
    options: Options, directory: Path, postgres: PostgresServer, redis: RedisServer
) -> Outcome:
    """Runs it; what happened when is shown if the test fails."""
    place = Place(options, directory, postgres=postgres, redis=redis)
    try:
        await asyncio.to_thread(place.start)
        return await Run(options, place, print).go()
    finally:
        await asyncio.to_thread(place.close)


async def test_everything_at_once_loses_duplicates_and_reorders_nothing(
    tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    options = Options(seconds=12.0, seed=3)
    outcome = await course(options, tmp_path / "chaos", postgres_server, redis_server)
    assert outcome.violations == [], table(outcome)
    assert outcome.counts["resumes"] > 5


@pytest.mark.parametrize(
    ("faults", "layer"), [("sigkill,postgres", "pubsub"), ("cut,redis,drop", "core")]
)
async def test_a_few_faults_in_quick_succession_do_no_harm(
    tmp_path: Path,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    faults: str,
    layer: str,
) -> None:
    options = Options(seconds=6.0, seed=2, clients=6, nodes=2, faults=chosen(faults), layer=layer)
    outcome = await course(options, tmp_path / "chaos", postgres_server, redis_server)
    assert outcome.violations == [], table(outcome)
    assert set(outcome.faults) == set(options.faults)
