"""``manage.py purge_sessions``: retention by hand."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from graceful_ws.conf import settings
from graceful_ws.core.close_codes import CloseCode, cut_reason
from graceful_ws.management.operators import (
    OperatorCommand,
    refused,
    seconds,
    session_id,
    user_name,
)
from graceful_ws.node.reaper import windows_of
from graceful_ws.store import nodes, retention

HELP = """\
Removes what nodes remove by themselves every purge_interval, at once and until nothing is left:
sessions that ended long ago with all that belongs to them, messages older than journal_age, what is
over the caps of a session or stream, samples, old entries of the audit trail. For a database that
has grown while no node ran, or when ages were lowered. It works in small batches, beside nodes that
serve.

Sessions whose time to resume is over are left to the nodes, which call session_ended() for them;
--expired ends them here, without that call. A client of a message that goes is told of a gap when
it comes back."""


class Command(OperatorCommand):
    help = HELP
    examples = """\
examples:
  manage.py purge_sessions --dry-run          how much would go
  manage.py purge_sessions                    what the settings say
  manage.py purge_sessions --ended-age 0      every session that has ended
  manage.py purge_sessions --session 6f0c…    end this session (close code 4506), and remove it"""

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--ended-age", metavar="S", help=f"not ended_age ({settings.ended_age:g} s)")
        add("--journal-age", metavar="S", help=f"not journal_age ({settings.journal_age:g} s)")
        add("--expired", action="store_true", help="end sessions that were not resumed in time")
        add("--session", metavar="ID", help="end this session if it lives, and remove it")
        add("--dry-run", action="store_true", help="count, and remove nothing")
        add("--yes", action="store_true", help="do not ask")
        add("--json", action="store_true", help="nothing but one JSON object, at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        ended_age = seconds("--ended-age", options["ended_age"])
        journal_age = seconds("--journal-age", options["journal_age"])
        chosen = session_id(options["session"])
        try:
            if chosen is not None:
                self._one(chosen, options)
            else:
                self._all(ended_age, journal_age, options)
        except DatabaseError as error:
            raise refused(error) from error

    def _one(self, chosen: uuid.UUID, options: dict[str, Any]) -> None:
        there = retention.count_session(chosen)
        if there is None:
            raise CommandError(f"There is no session {chosen}; it may have been removed already.")
        if options["dry_run"]:
            self._say(options, {"rows": there}, f"{there} rows would go.")
            return
        self._ask(options, f"End session {chosen}, and remove its {there} rows?")
        reason = cut_reason("removed by an operator")
        nodes.end_session(chosen, CloseCode.CLOSED_BY_OPERATOR, reason, actor=user_name())
        removed = retention.remove_session(chosen)
        self._say(options, {"rows": removed}, f"{removed} rows removed.")

    def _all(
        self, ended_age: float | None, journal_age: float | None, options: dict[str, Any]
    ) -> None:
        if options["dry_run"]:
            counts = retention.counts(journal_age, ended_age)
            lines = [f"{count:>10,}  {name}" for name, count in counts.items()]
            self._say(options, counts, "\n".join(["would go, before the caps:", *lines]))
            return
        if ended_age is not None or journal_age is not None:
            self._ask(options, "Remove more than the settings say?")
        expired = 0
        windows = windows_of(retention.consumers()) if options["expired"] else {}
        while options["expired"] and (some := len(retention.expire(windows))):
            expired += some
            self._progress(options, f"{expired:,} sessions ended")
        removed = 0
        while True:
            some = retention.purge(journal_age, ended_age) + retention.trim_streams()
            removed += some
            self._progress(options, f"{removed:,} rows removed")
            if not some:
                break
        nodes.audit("purge_sessions", actor=user_name(), reason=f"{removed} rows")
        told = f"{removed:,} rows removed."
        if options["expired"]:
            told = f"{expired:,} sessions ended, {told}"
        self._say(options, {"expired": expired, "rows": removed}, told)

    # --- talking ------------------------------------------------------------------------------

    def _say(self, options: dict[str, Any], answer: dict[str, Any], text: str) -> None:
        if not options["json"] and self.stdout.isatty():
            self.stdout.write("\r\033[K", ending="")
        self.stdout.write(json.dumps(answer) if options["json"] else text)

    def _progress(self, options: dict[str, Any], text: str) -> None:
        if not options["json"] and self.stdout.isatty():
            self.stdout.write(f"\r\033[K{text}", ending="")
            self.stdout.flush()

    def _ask(self, options: dict[str, Any], question: str) -> None:
        if options["yes"] or not (sys.stdin and sys.stdin.isatty()):
            return
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was removed.")
