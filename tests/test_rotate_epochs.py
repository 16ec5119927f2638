"""``manage.py rotate_epochs``: what it does, what it says, and what it says without tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import call_command

from graceful_ws.models import AuditEntry, Stream, StreamMessage, Subscription
from graceful_ws.publishing import publish
from graceful_ws.store import streams
from tests.support.commands import environment, run_django


def rotate(*arguments: str) -> str:
    out = io.StringIO()
    call_command("rotate_epochs", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.usefixtures("database")
def test_every_stream_gets_a_new_epoch_and_nothing_else_changes() -> None:
    for name in ("a", "b"):
        publish(name, 1)
    streams.leave("a", '"waits"')
    before = streams.tips(["a", "b"])
    rows = list(StreamMessage.objects.order_by("pk").values_list("stream", "seq", "data"))
    assert "2 streams have a new epoch" in rotate()
    after = streams.tips(["a", "b"])
    assert {name: tip.head for name, tip in after.items()} == {"a": 1, "b": 1}
    assert all(after[name].epoch != before[name].epoch for name in before)
    assert after["a"].epoch != after["b"].epoch
    now = StreamMessage.objects.order_by("pk").values_list("stream", "seq", "data")
    assert list(now) == rows
    assert not Subscription.objects.exists()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("count", "said"), [(0, "0 streams have"), (1, "1 stream has")])
def test_it_says_how_many_in_words_and_as_json(count: int, said: str) -> None:
    streams.create([f"room {n}" for n in range(count)])
    assert rotate().startswith(said)
    assert json.loads(rotate("--json")) == {"rotated": count}


@pytest.mark.usefixtures("database")
def test_it_is_written_down_in_the_audit_trail() -> None:
    streams.create(["a", "b", "c"])
    rotate()
    [entry] = AuditEntry.objects.all()
    assert (entry.event, entry.reason) == ("rotate_epochs", "3 streams")


@pytest.mark.usefixtures("database")
def test_more_streams_than_a_batch_are_all_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BATCH", 3)
    names = [f"room {n}" for n in range(7)]
    streams.create(names)
    before = streams.tips(names)
    assert json.loads(rotate("--json")) == {"rotated": 7}
    after = streams.tips(names)
    assert all(before[name].epoch != after[name].epoch for name in names)
    assert len(set(Stream.objects.values_list("epoch", flat=True))) == 7


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_without_tables_it_says_so_in_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    env = environment(f"sqlite://{tmp_path / 'empty.sqlite3'}")
    done = run_django("rotate_epochs", *arguments, env=env, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("CommandError: ")
    assert "manage.py migrate" in line
