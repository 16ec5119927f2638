"""Lines that several processes append to one file, so that they outlive each of them.

A line is a JSON array: kind, sequence, publisher, number. The sequence is a room's name or
``session:`` and a session's id; for what a client sent it is the client's name.

    attempted     a message is about to be sent          accepted      and is kept
    rolled_back   it must never arrive                   withdrawn     its outcome is not known
    started       a handler begins with a number         handled       and has done it
    surprise      something was raised that nobody expects
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "GRACEFUL_TEST_LEDGER"  # of the environment: the directory


class Line(NamedTuple):
    kind: str
    sequence: str
    publisher: str
    number: int

    @property
    def message(self) -> tuple[str, str, int]:
        return self.sequence, self.publisher, self.number


def directory() -> Path:
    return Path(os.environ[VARIABLE])


@cache
def _file() -> int:
    return os.open(directory() / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def write(kind: str, sequence: str, publisher: str, number: int) -> None:
    """In one call of the system, so that neither a kill nor another process splits a line."""
    os.write(_file(), (json.dumps([kind, sequence, publisher, number]) + "\n").encode())


def stopping() -> bool:
    """Whether the run has told everybody to send nothing new."""
    return (directory() / "stop").exists()


def read(where: Path) -> list[Line]:
    path = where / "lines"
    if not path.exists():
        return []
    return [Line(*json.loads(line)) for line in path.read_text().splitlines()]
