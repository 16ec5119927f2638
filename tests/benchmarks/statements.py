"""How many SQL statements a server has run so far, to be read from outside, also after its end."""

from __future__ import annotations

import mmap
import os
import struct
from itertools import count
from pathlib import Path
from typing import Any

VARIABLE = "GRACEFUL_BENCHMARK_STATEMENTS"  # path of the file that holds the number
FILE = "statements"
_NUMBER = struct.Struct("=Q")


def count_if_asked() -> None:
    """In the server: counts what all its threads run, transactions aside; executemany is one."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    from django.db.backends.signals import connection_created

    Path(path).write_bytes(_NUMBER.pack(0))
    with Path(path).open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _NUMBER.size)
    numbers = count(1)

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        _NUMBER.pack_into(shared, 0, next(numbers))
        return execute(sql, params, many, context)

    def created(connection: Any, **kwargs: Any) -> None:
        if note not in connection.execute_wrappers:
            connection.execute_wrappers.append(note)

    connection_created.connect(created, weak=False)


def counted(directory: Path) -> int:
    """In the load generator."""
    (found,) = _NUMBER.unpack((directory / FILE).read_bytes())
    return int(found)
