"""``manage.py check_delivery`` and ``purge_sessions``: what they say, and what they leave."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from graceful_ws.models import (
    AuditEntry,
    Node,
    OutboundMessage,
    Presence,
    Sample,
    Session,
    StreamMessage,
    Subscription,
)
from graceful_ws.store import nodes, retention
from graceful_ws.store.hello import Attached
from tests.store.kit import append, attached, detach, done, node
from tests.support.commands import environment, run_django


def run(command: str, *arguments: str) -> tuple[int, str]:
    """Its exit status and what it wrote."""
    out = io.StringIO()
    try:
        call_command(command, *arguments, stdout=out)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def away(count: int = 2, *, since: float = 86_400.0) -> Attached:
    """A session with messages whose client left so many seconds ago."""
    owner = attached()
    done(append(owner, *(f'"{n}"' for n in range(count))), detach(owner))
    then = timezone.now() - timedelta(seconds=since)
    Session.objects.filter(pk=owner.session).update(left_at=then)
    OutboundMessage.objects.filter(session=owner.session).update(created_at=then)
    return owner


# --- check_delivery -------------------------------------------------------------------------------


@pytest.mark.usefixtures("database")
def test_all_is_well_when_everything_is_accounted_for() -> None:
    away(since=100)
    status, said = run("check_delivery")
    assert status == 0
    assert said == (
        "every message is accounted for; 1 sessions looked at; 2 wait for their clients, the oldest"
        " since 100 s.\n"
    )


@pytest.mark.usefixtures("database")
def test_what_is_lost_is_listed_and_the_status_says_so() -> None:
    owner = away()
    retention.expire()
    status, said = run("check_delivery")
    line, last = said.splitlines()
    assert status == 1
    assert line.startswith(
        f"{owner.uuid} (anonymous, tests.consumers.Echo): 1-2: the session ended"
    )
    assert last.startswith("2 messages are unaccounted for; 1 sessions looked at; 0 wait")


@pytest.mark.usefixtures("database")
def test_what_waits_too_long_is_listed_when_it_is_asked_for() -> None:
    away(since=100)
    assert run("check_delivery", "--waiting", "200")[0] == 0
    status, said = run("check_delivery", "--waiting", "50")
    assert status == 1
    assert "1-2: waits for its client, since 100 s" in said


@pytest.mark.usefixtures("database")
def test_machines_get_one_object() -> None:
    owners = [away(), away()]
    retention.expire()
    status, said = run("check_delivery", "--json", "--limit", "1")
    answer = json.loads(said)
    assert status == 1
    assert (answer["unaccounted"], answer["findings"], answer["waiting"]) == (4, 2, 0)
    [listed] = answer["listed"]
    assert listed["session"] == str(owners[0].uuid)
    assert (listed["first"], listed["last"], listed["stream"]) == (1, 2, None)


@pytest.mark.usefixtures("database")
def test_a_long_list_ends_with_what_it_leaves_out() -> None:
    for _ in range(3):
        away()
    retention.expire()
    _, said = run("check_delivery", "--limit", "1")
    assert "… and 2 more; --limit lists them" in said
    assert "6 messages are unaccounted for" in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--waiting", "soon"], "--waiting has to be a number"),
        (["--waiting", "-1"], "--waiting has to be a number"),
        (["--session", "mine"], "as the admin shows it"),
        (["--limit", "all"], "--limit has to be a whole number"),
    ],
)
def test_a_wrong_option_is_answered_in_a_line(arguments: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        run("check_delivery", *arguments)


@pytest.mark.parametrize("command", ["check_delivery", "purge_sessions"])
def test_without_tables_the_error_is_one_line_with_the_remedy(command: str, tmp_path: Path) -> None:
    env = environment(f"sqlite:///{tmp_path}/empty.sqlite3")
    result = run_django(command, env=env, check=False)
    assert result.returncode == 1
    assert "manage.py migrate" in result.stderr
    assert "Traceback" not in result.stderr


# --- purge_sessions -------------------------------------------------------------------------------


def old_rows() -> dict[str, Any]:
    """One of everything that may go, and one of each that stays."""
    then = timezone.now() - timedelta(days=365)
    keeps, gone, waits = attached(), attached(), away()
    done(append(keeps, '"stays"'), append(gone, '"goes"'), detach(gone, end=True))
    Session.objects.filter(pk=gone.session).update(left_at=then, ended_at=then)
    OutboundMessage.objects.filter(session=gone.session).update(created_at=then)
    Subscription.objects.create(session_id=gone.session, stream="s", epoch="e", from_seq=0)
    Presence.objects.create(session_id=gone.session, stream="s")
    for at in (then, timezone.now()):
        AuditEntry.objects.create(at=at, event="x")
        Sample.objects.create(at=at, node_id=node(), figures="{}")
    Node.objects.update(state="stopped", beat_at=then)
    return {"keeps": keeps, "gone": gone, "waits": waits}


@pytest.mark.usefixtures("database")
def test_everything_old_goes_and_nothing_else() -> None:
    rows = old_rows()
    status, said = run("purge_sessions")
    assert status == 0
    assert "rows removed" in said
    left = set(Session.objects.values_list("pk", flat=True))
    assert left == {rows["keeps"].session, rows["waits"].session}
    assert not OutboundMessage.objects.filter(session=rows["gone"].session).exists()
    assert OutboundMessage.objects.filter(session=rows["keeps"].session).count() == 1
    assert not Subscription.objects.exists()
    assert not Presence.objects.exists()
    assert AuditEntry.objects.filter(event="x").count() == 1
    assert Sample.objects.count() == 1
    assert not Node.objects.exists()
    assert AuditEntry.objects.filter(event="purge_sessions").count() == 1


@pytest.mark.usefixtures("database")
def test_a_dry_run_counts_and_removes_nothing() -> None:
    old_rows()
    before = (Session.objects.count(), OutboundMessage.objects.count(), Sample.objects.count())
    counts = json.loads(run("purge_sessions", "--dry-run", "--json")[1])
    assert counts == {
        "sessions": 1,
        "messages": 3,
        "stream messages": 0,
        "audit entries": 1,
        "samples": 1,
        "nodes": 2,
    }
    after = (Session.objects.count(), OutboundMessage.objects.count(), Sample.objects.count())
    assert before == after


@pytest.mark.usefixtures("database")
def test_more_than_a_batch_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(7):
        away()
    answer = json.loads(run("purge_sessions", "--expired", "--ended-age", "0", "--json")[1])
    assert answer["expired"] == 7
    assert not Session.objects.exists()
    assert not OutboundMessage.objects.exists()


@pytest.mark.usefixtures("database")
def test_sessions_that_may_be_resumed_stay_unless_their_time_is_over() -> None:
    early, late = away(since=10), away()
    run("purge_sessions", "--ended-age", "0")
    assert Session.objects.count() == 2
    run("purge_sessions", "--expired", "--ended-age", "0")
    assert [one.pk for one in Session.objects.all()] == [early.session]
    del late


@pytest.mark.usefixtures("database")
def test_one_session_is_ended_and_removed() -> None:
    owner, other = attached(), attached()
    done(append(owner, '"1"', '"2"'), append(other, '"x"'))
    assert "3 rows would go" in run("purge_sessions", "--session", str(owner.uuid), "--dry-run")[1]
    assert "3 rows removed" in run("purge_sessions", "--session", str(owner.uuid))[1]
    assert [one.pk for one in Session.objects.all()] == [other.session]
    assert OutboundMessage.objects.count() == 1
    [entry] = AuditEntry.objects.filter(session=owner.uuid)
    assert (entry.event, entry.code) == ("close_session", 4506)
    with pytest.raises(CommandError, match="There is no session"):
        run("purge_sessions", "--session", str(owner.uuid))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("answer", "goes"), [("n", False), ("", False), ("y", True)])
def test_whoever_sits_at_a_terminal_is_asked(
    answer: str, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = attached()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if goes:
        run("purge_sessions", "--session", str(owner.uuid))
    else:
        with pytest.raises(CommandError, match="Nothing was removed"):
            run("purge_sessions", "--session", str(owner.uuid))
    assert Session.objects.exists() is not goes
    if not goes:
        assert nodes.end_session(owner.uuid, 4506, "")
    assert not StreamMessage.objects.exists()
