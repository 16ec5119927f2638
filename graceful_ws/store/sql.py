"""Plain SQL for what runs all the time: the ORM would build, compile and convert it anew each time.

Columns have the names of the models' fields (``session_id``), which are those of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from .statements import (
    Rows,
    Statement,
    Values,
    array_of_plain,
    deleting,
    inserting,
    once,
    reading,
    updating,
)

BETWEEN = ";\n"  # statements of one message to PostgreSQL


def select(using: BaseDatabaseWrapper, sql: str, params: Values = ()) -> list[Any]:
    """The rows of the last statement of ``sql``, as the driver gives them: on SQLite a boolean is 0
    or 1, and a datetime is text."""
    with using.cursor() as cursor:
        cursor.execute(sql, params)
        if hasattr(using.connection, "pgconn"):  # psycopg 2 has the rows of the last one only
            for _ in range(sql.count(BETWEEN)):
                cursor.nextset()
        found: list[Any] = cursor.fetchall()
        return found


def read(
    using: BaseDatabaseWrapper,
    model: type[Model],
    columns: tuple[str, ...],
    rest: str,
    params: Values = (),
) -> list[Any]:
    """``SELECT columns FROM the model's table rest``, with the values that the ORM would give.
    ``columns`` are names of fields, such as ``node_id``."""
    sql, converted = once(reading, using, model, columns)
    found = select(using, f"{sql} {rest}", params)
    if not found or not converted:
        return found
    values: list[Any] = list(zip(*found, strict=True))
    for index, expression in converted:
        column = values[index]
        converters = using.ops.get_db_converters(expression)
        for convert in (*converters, *expression.get_db_converters(using)):
            column = list(map(convert, column, repeat(expression), repeat(using)))
        values[index] = column
    return list(zip(*values, strict=True))


def among(using: BaseDatabaseWrapper, values: Iterable[int]) -> tuple[str, list[Any]]:
    """A condition to put behind the name of a column of integers, and its parameters."""
    if using.vendor == "postgresql":
        return " = ANY(%s::bigint[])", [array_of_plain(list(values))]
    return f" IN ({','.join(map(str, map(int, values)))})", []


def insert_many(
    using: BaseDatabaseWrapper, model: type[Model], columns: tuple[str, ...], rows: Rows
) -> None:
    """``Batch.insert``, alone and at once."""
    Batch(using).insert(model, columns, rows).run()


def update_many(
    using: BaseDatabaseWrapper,
    model: type[Model],
    columns: tuple[str, ...],
    keys: tuple[str, ...],
    rows: Rows,
) -> None:
    """``Batch.update``, alone and at once."""
    Batch(using).update(model, columns, keys, rows).run()


def delete_many(
    using: BaseDatabaseWrapper, model: type[Model], keys: tuple[str, ...], rows: Rows
) -> None:
    """``Batch.delete``, alone and at once."""
    Batch(using).delete(model, keys, rows).run()


class Batch:
    """Writes that belong together. SQLite runs each of them once a row; PostgreSQL gets all of them
    in one message, unless its connection binds parameters on the server."""

    def __init__(self, using: BaseDatabaseWrapper) -> None:
        self._using = using
        self._writes: list[tuple[Statement, Rows]] = []

    def insert(self, model: type[Model], columns: tuple[str, ...], rows: Rows) -> Batch:
        """Inserts rows of ``columns``: names of fields, all but the primary key (the database knows
        no defaults). The primary keys have the order of the rows."""
        if rows:
            self._writes.append((once(inserting, self._using, model, columns), rows))
        return self

    def update(
        self,
        model: type[Model],
        columns: tuple[str, ...],
        keys: tuple[str, ...],
        rows: Rows,
        sets: str = "",
        where: str = "",
    ) -> Batch:
        """Sets ``columns`` where ``keys`` are equal; a row has values for the columns, then for the
        keys. Of rows with the same keys the last one counts.

        ``sets`` and ``where`` are for more than that: ``{name}`` in them is a value of the row, a
        bare name is a column of the table.
        """
        if len(rows) > 1:
            # PostgreSQL would take any of them.
            count = len(columns)
            rows = list({row[count:]: row for row in rows}.values())
        if rows:
            made = once(updating, self._using, model, columns, keys, sets, where)
            self._writes.append((made, rows))
        return self

    def delete(
        self, model: type[Model], keys: tuple[str, ...], rows: Rows, where: str = ""
    ) -> Batch:
        """Deletes where ``keys`` are equal to those of a row; ``where`` as for ``update``."""
        if rows:
            self._writes.append((once(deleting, self._using, model, keys, where), rows))
        return self

    def run(self, *, last: bool = False) -> None:
        """``last``: the transaction of ``writing`` has nothing to do after it but to commit, which
        then needs no round trip of its own."""
        writes, self._writes = self._writes, []
        if not writes:
            return
        using = self._using
        with using.cursor() as cursor:
            if using.vendor != "postgresql":
                for statement, rows in writes:
                    cursor.executemany(statement.many, statement.each(using, rows))
                return
            made = [statement.together(using, rows) for statement, rows in writes]
            if takes_many(using):
                params = [value for _, values in made for value in values]
                end = ["COMMIT"] if last and is_whole(using) else []
                made = [(BETWEEN.join([sql for sql, _ in made] + end), params)]
            for sql, params in made:
                cursor.execute(sql, params)


def takes_many(using: BaseDatabaseWrapper) -> bool:
    """Whether a connection takes several statements in one message."""
    return using.vendor == "postgresql" and not using.settings_dict["OPTIONS"].get(
        "server_side_binding"
    )


def is_whole(using: BaseDatabaseWrapper) -> bool:
    """Whether BEGIN and COMMIT can ride along with the statements of the transaction under way: not
    where it belongs to somebody else. Only psycopg 3 asks the server, and not itself, whether there
    is one; its ``commit`` and ``rollback`` do nothing when there is none."""
    return (
        takes_many(using)
        and len(using.atomic_blocks) == 1
        and using.commit_on_exit
        and hasattr(using.connection, "pgconn")
    )
