"""``manage.py check_delivery``: every message that was kept and that nobody can account for."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError

from graceful_ws.management.operators import OperatorCommand, ago, refused, seconds, session_id
from graceful_ws.store.delivery import Audit, Finding, Summary

LINES = 1000  # findings that are listed, unless --limit says otherwise

HELP = """\
Lists every message that was kept for a session and was neither acknowledged by its client nor
reported to it as a gap: with its numbers, and why. A message that still waits for a client who may
come back is not lost, and only counted; with --waiting it is listed when it is old.

It reads, and changes nothing. Acknowledgements are written every ten seconds or so: what was
delivered just now counts as waiting."""


class Command(OperatorCommand):
    help = HELP
    examples = """\
examples:
  manage.py check_delivery                   what is lost without anybody having been told
  manage.py check_delivery --waiting 600     and what has waited for ten minutes
  manage.py check_delivery --session 6f0c…   one session
  manage.py check_delivery --json            one JSON object, for a monitor

exit status:
  0  every message is accounted for
  1  some are not; they are listed"""

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--waiting", metavar="S", help="list what has waited for so many seconds, too")
        add("--session", metavar="ID", help="this session alone")
        add("--limit", metavar="N", help=f"list so many findings at most (default: {LINES})")
        add("--json", action="store_true", help="nothing but one JSON object, at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        limit = options["limit"] if options["limit"] is not None else LINES
        try:
            limit = int(limit)
        except ValueError:
            raise CommandError(f"--limit has to be a whole number, not {limit!r}.") from None
        audit = Audit(
            waiting=seconds("--waiting", options["waiting"]),
            session=session_id(options["session"]),
        )
        listed: list[Finding] = []
        findings = messages = 0
        try:
            for finding in audit.findings():
                findings += 1
                messages += finding.count
                if findings <= limit:
                    listed.append(finding)
                    if not options["json"]:
                        self.stdout.write(_line(finding))
        except DatabaseError as error:
            raise refused(error) from error
        if options["json"]:
            self._print_json(listed, findings, messages, audit.summary)
        else:
            if findings > limit:
                self.stdout.write(f"… and {findings - limit} more; --limit lists them")
            self.stdout.write(_last(findings, messages, audit.summary))
        if findings:
            sys.exit(1)

    def _print_json(
        self, listed: list[Finding], findings: int, messages: int, summary: Summary
    ) -> None:
        answer = {
            "unaccounted": messages,
            "findings": findings,
            "listed": [asdict(finding) for finding in listed],
            "sessions": summary.sessions,
            "waiting": summary.waiting,
            "oldest_waiting": summary.oldest,
            "unnumbered": summary.unnumbered,
        }
        self.stdout.write(json.dumps(answer, cls=DjangoJSONEncoder))


def _line(finding: Finding) -> str:
    numbers = f"{finding.first}-{finding.last}" if finding.first else "no number yet"
    if finding.first == finding.last != 0:
        numbers = str(finding.first)
    where = f" of {finding.stream!r}" if finding.stream is not None else ""
    who = f"user {finding.user}" if finding.user is not None else "anonymous"
    since = f", since {ago(finding.since)}" if finding.since is not None else ""
    if not finding.count:
        numbers = "unknown numbers"
    return f"{finding.session} ({who}, {finding.consumer}): {numbers}{where}: {finding.why}{since}"


def _last(findings: int, messages: int, summary: Summary) -> str:
    waiting = f"{summary.waiting} wait for their clients"
    if summary.waiting:
        waiting += f", the oldest since {ago(summary.oldest)}"
    if summary.unnumbered:
        waiting += f"; {summary.unnumbered} published and without a number yet"
    verdict = (
        f"{messages} messages are unaccounted for" if findings else "every message is accounted for"
    )
    return f"{verdict}; {summary.sessions} sessions looked at; {waiting}."
