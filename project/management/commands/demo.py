"""``manage.py demo``: see that nothing is lost; ``manage.py demo --check``: count it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from project.demo.check import check, complaints
from project.demo.run import run
from project.demo.supervisor import DemoError


class Command(BaseCommand):
    help = "Runs two nodes to hurt, with a page that counts what is lost, or counts it by itself."
    requires_system_checks: list[str] = []  # the nodes check; this process uses no database

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
            "--check",
            action="store_true",
            help="no browser: ten clients, faults, and one line of JSON that says what was lost",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if sys.platform == "win32":
            raise CommandError("the demo needs signals of Linux or macOS (WSL will do)")
        port = options["port"]
        directory = options["directory"] or settings.BASE_DIR / ".demo" / str(port)
        try:
            if options["check"]:
                self.check_counts()
            else:
                asyncio.run(run(directory, options["host"], port, self._say))
        except DemoError as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            raise CommandError("interrupted", returncode=130) from None

    def check_counts(self) -> None:
        """One line of JSON on stdout, progress on stderr."""
        began = time.monotonic()

        def say(line: str) -> None:
            self.stderr.write(f"{time.monotonic() - began:5.1f} s  {line}", self.style.NOTICE)

        result = asyncio.run(check(say))
        self.stdout.write(json.dumps(result))
        if wrong := complaints(result):
            raise CommandError("; ".join(wrong))

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()  # a file or a pipe would hear of it only at the end
