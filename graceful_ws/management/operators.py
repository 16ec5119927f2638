"""What commands for operators have in common: help as it is written, errors with their remedy."""

from __future__ import annotations

import getpass
import os
import uuid
from argparse import RawDescriptionHelpFormatter
from datetime import datetime
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.utils import timezone

from graceful_ws.validation import number_problem


class HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of the options, and the lines of the text as they are."""


class OperatorCommand(BaseCommand):
    """``examples`` stand below the options."""

    examples = ""
    # An unrelated mistake in the settings must not stand between an operator and the tables.
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=self.examples, formatter_class=HelpFormatter, **kwargs
        )


def refused(error: Exception) -> CommandError:
    """One line that says what the database said, and what to do."""
    return CommandError(
        f"the database refused: {str(error).strip().splitlines()[0]}. Is it up, and has"
        " 'manage.py migrate' been run?"
    )


def seconds(name: str, value: Any) -> float | None:
    """An option in seconds. Raises CommandError."""
    if value is None:
        return None
    try:
        number: Any = float(value)
    except ValueError:
        number = value
    problem = number_problem(number, zero=True)
    if problem is not None:
        raise CommandError(f"{name} {problem}.")
    return float(number)


def session_id(value: str | None) -> uuid.UUID | None:
    """The public id of a session. Raises CommandError."""
    if value is None:
        return None
    try:
        return uuid.UUID(value)
    except ValueError:
        raise CommandError(
            f"--session has to be the id of a session, as the admin shows it, not {value!r}."
        ) from None


def ago(moment: datetime | None) -> str:
    """ "412 s", or "?"."""
    return "?" if moment is None else f"{(timezone.now() - moment).total_seconds():.0f} s"


def user_name() -> str:
    """Who runs the command, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run users that have no name
        return str(os.getuid())
