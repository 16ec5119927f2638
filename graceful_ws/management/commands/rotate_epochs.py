"""``manage.py rotate_epochs``: after a restore from a backup, numbers mean something else."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError

from graceful_ws.management.operators import refused, user_name
from graceful_ws.store import nodes, streams


class Command(BaseCommand):
    help = (
        "Run this after every restore of the database from a backup, before the nodes start again."
        " The restored streams give out numbers that clients have seen with other messages; with a"
        " new epoch a client that comes back is told of a gap instead of missing them in silence."
        " Nothing else changes: numbers go on, subscriptions and sessions stay."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object: {rotated: N}")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = streams.rotate_all()
            nodes.audit("rotate_epochs", actor=user_name(), reason=f"{count} streams")
        except DatabaseError as error:
            raise refused(error) from error
        if options["json"]:
            self.stdout.write(json.dumps({"rotated": count}))
        else:
            plural = "stream has" if count == 1 else "streams have"
            self.stdout.write(f"{count} {plural} a new epoch; clients are told when they resume.")
