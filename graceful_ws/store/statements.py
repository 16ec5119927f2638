"""The statements that ``sql`` runs: made of a model's columns once a process, and given values.

SQLite runs a statement once a row, in C. PostgreSQL gets each column as one array, so that many
rows are one plan and one round trip; the arrays are written out here as text, which costs less
than the driver's adaptation of lists and is the same for psycopg 2 and 3. One row alone is sent as
plain values there: that is planned faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

Values = Sequence[Any]
Rows = Sequence[tuple[Any, ...]]
Names = tuple[str, ...]
Make = Callable[[BaseDatabaseWrapper, Values], Any]  # of a column's values

# Fields whose values any driver takes as they are.
PLAIN = {
    *("AutoField", "BigAutoField", "SmallAutoField"),
    *("IntegerField", "BigIntegerField", "SmallIntegerField"),
    *("BooleanField", "CharField", "TextField"),
}


@dataclass(slots=True)
class Statement:
    """One for all connections to one kind of database."""

    many: str
    adapts: list[Make | None]  # for each column; None: its values stay as they are
    arrays: list[Make]
    one: str = ""
    order: Sequence[int] = ()  # of a row's values in ``one``

    def each(self, using: BaseDatabaseWrapper, rows: Rows) -> Rows:
        """Parameters for ``executemany``."""
        if not any(self.adapts):
            return rows
        columns = zip(self.adapts, zip(*rows, strict=True), strict=True)
        made = [values if adapt is None else adapt(using, values) for adapt, values in columns]
        return list(zip(*made, strict=True))

    def together(self, using: BaseDatabaseWrapper, rows: Rows) -> tuple[str, list[Any]]:
        """The statement for all rows, and its parameters."""
        if len(rows) == 1:
            [row] = self.each(using, rows)
            return self.one, [row[index] for index in self.order]
        columns = zip(self.arrays, zip(*rows, strict=True), strict=True)
        return self.many, [make(using, values) for make, values in columns]


_made: dict[tuple[Any, ...], Any] = {}


def once(make: Callable[..., Any], using: BaseDatabaseWrapper, *what: Any) -> Any:
    """What ``make`` says, for all connections to this kind of database."""
    key = (make, using.vendor, *what)
    found = _made.get(key)
    if found is None:
        found = _made[key] = make(using, *what)
    return found


# --- SQL ----------------------------------------------------------------------------------------


def reading(
    using: BaseDatabaseWrapper, model: type[Model], columns: Names
) -> tuple[str, list[tuple[int, Any]]]:
    """``SELECT … FROM …``, and the columns whose values the ORM would convert."""
    fields = _fields(model, columns)
    converted = []
    for index, field in enumerate(fields):
        expression = field.get_col(model._meta.db_table)
        if using.ops.get_db_converters(expression) or expression.get_db_converters(using):
            converted.append((index, expression))
    return f"SELECT {_columns(using, fields)} FROM {_table(using, model)}", converted


def inserting(using: BaseDatabaseWrapper, model: type[Model], columns: Names) -> Statement:
    fields = _fields(model, columns)
    into = f"INSERT INTO {_table(using, model)} ({_columns(using, fields)})"
    values = f"{into} VALUES ({', '.join([f'{{{name}}}' for name in columns])})"
    return _statement(using, fields, values, f"{into} SELECT * FROM {{}}")


def updating(
    using: BaseDatabaseWrapper,
    model: type[Model],
    columns: Names,
    keys: Names,
    sets: str,
    where: str,
) -> Statement:
    update = f"UPDATE {_table(using, model)} SET {sets or _equal(using, model, columns, ', ')}"
    where = where or _equal(using, model, keys, " AND ")
    fields = _fields(model, columns + keys)
    return _statement(using, fields, f"{update} WHERE {where}", f"{update} FROM {{}} WHERE {where}")


def deleting(using: BaseDatabaseWrapper, model: type[Model], keys: Names, where: str) -> Statement:
    delete = f"DELETE FROM {_table(using, model)}"
    where = where or _equal(using, model, keys, " AND ")
    return _statement(
        using, _fields(model, keys), f"{delete} WHERE {where}", f"{delete} USING {{}} WHERE {where}"
    )


def _statement(using: BaseDatabaseWrapper, fields: list[Any], one: str, many: str) -> Statement:
    """``{name}`` is a row's value; ``{}`` in ``many`` is where the rows come from."""
    names = [field.attname for field in fields]
    adapts = [_adapting(using, field) for field in fields]
    if using.vendor != "postgresql":
        numbered = {name: f"?{number}" for number, name in enumerate(names, 1)}
        return Statement(one.format_map(numbered), adapts, [])
    numbered = {name: f"v.n{number}" for number, name in enumerate(names)}
    arrays = ", ".join([f"%s::{_type(using, field)}[]" for field in fields])
    named = ", ".join([f"n{number}" for number, _ in enumerate(names)])
    return Statement(
        many.replace("{}", f"unnest({arrays}) AS v({named})").format_map(numbered),
        adapts,
        [_array(using, field) for field in fields],
        one.format_map(dict.fromkeys(names, "%s")),
        [names.index(name) for name in re.findall(r"\{(\w+)\}", one)],
    )


def _table(using: BaseDatabaseWrapper, model: type[Model]) -> str:
    return str(using.ops.quote_name(model._meta.db_table))


def _fields(model: type[Model], names: Names) -> list[Any]:
    known = {field.attname: field for field in model._meta.concrete_fields}
    return [known[name] for name in names]


def _columns(using: BaseDatabaseWrapper, fields: list[Any]) -> str:
    return ", ".join([using.ops.quote_name(field.column) for field in fields])


def _equal(using: BaseDatabaseWrapper, model: type[Model], names: Names, between: str) -> str:
    fields = zip(names, _fields(model, names), strict=True)
    return between.join([f"{_columns(using, [field])} = {{{name}}}" for name, field in fields])


def _type(using: BaseDatabaseWrapper, field: Any) -> str:
    """Without a length: a cast to varchar(5) cuts what is too long, an assignment refuses it."""
    return re.sub(r"\(.*?\)", "", str(field.cast_db_type(using)))


# --- values -------------------------------------------------------------------------------------


def _is_one_of(field: Any, kinds: set[str]) -> bool:
    """Not for what an application derived from them."""
    own = type(field).__module__.startswith("django.db.models.fields")
    return own and field.get_internal_type() in kinds


def _target(field: Any) -> Any:
    while field.remote_field is not None:
        field = field.target_field
    return field


def _adapting(using: BaseDatabaseWrapper, field: Any) -> Make | None:
    """Makes of a column's values what the driver takes; None: it takes them as they are."""
    field = _target(field)
    native = {"DateTimeField", "UUIDField"} if using.vendor == "postgresql" else set()
    if _is_one_of(field, PLAIN | native):
        return None

    def adapt(using: BaseDatabaseWrapper, values: Values) -> list[Any]:
        made: list[Any] = []
        last: Any = None
        for value in values:
            if value is None:
                made.append(None)
            elif value is last:  # the rows of a round have one time
                made.append(made[-1])
            else:
                made.append(field.get_db_prep_save(value, using))
            last = value
        return made

    return adapt


def _array(using: BaseDatabaseWrapper, field: Any) -> Make:
    """Makes of a column's values an array as PostgreSQL reads it."""
    adapt = _adapting(using, field)
    if adapt is not None:
        return adapt  # the driver makes an array of a list
    text = _is_one_of(_target(field), {"CharField", "TextField"})
    make = _array_of_text if text else array_of_plain
    return lambda using, values: make(values)


def array_of_plain(values: Values) -> str:
    """Of numbers, booleans, times and UUIDs: nothing in them means anything to an array."""
    return f"{{{','.join(map(str, values))}}}".replace("None", "NULL")


def _array_of_text(values: Values) -> str:
    quoted = [
        "NULL" if one is None else '"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for one in values
    ]
    return f"{{{','.join(quoted)}}}"
