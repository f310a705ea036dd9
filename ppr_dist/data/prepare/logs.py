"""Check click logs and load them into DuckDB.

Every complaint is a :class:`UserError` of one line that names the file and the column. A CSV column is typed
here, over the whole file: a guess from its first rows turns ``00501`` into 501.
"""

from __future__ import annotations

import duckdb

from ppr_dist.data.prepare import times
from ppr_dist.data.prepare.clicks import Clicks, order_clicks
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.sources import Source, first_row, identifier, named_errors, scalars
from ppr_dist.errors import UserError

INTEGERS = {f"{u}{t}INT" for u in ("", "U") for t in ("TINY", "SMALL", "BIG", "HUGE")} | {
    "INTEGER",
    "UINTEGER",
}
WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT")
"""Integers that may not fit int64."""
WHOLE = "-?(0|[1-9][0-9]*)"
"""An integer in canonical form, as text: 007 is a code, not a 7."""
FLOATS = ("FLOAT", "DOUBLE", "DECIMAL")
TIMES = ("DATE", "TIMESTAMP")
SQL_TYPES = {"int64": "BIGINT", "string": "VARCHAR"}
"""How DuckDB calls the types of an id."""


def id_types(con: duckdb.DuckDBPyConnection, source: Source, column: str) -> tuple[str, ...]:
    """Return the types (``int64``, ``string``) that ids in ``column`` can be read as, the preferred first.

    Wider integers, and decimals without a fraction, are int64 where every value fits (in a CSV else text); a UUID is
    text.
    """
    source.require(column)
    kind, name = source.columns[column], identifier(column)
    if source.kind == "csv":
        kind = _text_type(con, source, column)
        if kind == "BIGINT":
            return ("int64", "string")
        if kind == "DOUBLE":
            other = f"NOT regexp_full_match({name}, '{WHOLE}')"
            with named_errors(source.path):
                if scalars(con, f"SELECT count(*) FROM {source.table} WHERE {other}") == (0,):
                    return ("string",)
    if kind in WIDE or (kind.startswith("DECIMAL") and kind.endswith(",0)")):
        with named_errors(source.path):
            wide = first_row(
                con, f"SELECT {name} FROM {source.table} WHERE {name} NOT BETWEEN {-(2**63)} AND {2**63 - 1} LIMIT 1"
            )
        if wide is not None:
            raise UserError(f"{source.path}: column {column!r} holds {wide[0]}, beyond int64; write such ids as text")
        return ("int64",)
    if kind in INTEGERS:
        return ("int64",)
    if kind in ("VARCHAR", "UUID"):
        return ("string",)
    raise UserError(f"{source.path}: column {column!r} is {kind}; an id must be int64 or string, never a float")


def shared_id_types(
    first: Source, first_types: tuple[str, ...], second: Source, types: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the types in which user ids of both files can be compared, the preferred first."""
    shared = tuple(each for each in first_types if each in types)
    if not shared:
        raise UserError(f"{second.path}: user ids are {types[0]}, but {first_types[0]} in {first.path}")
    return shared


def _text_type(con: duckdb.DuckDBPyConnection, source: Source, column: str) -> str:
    """Return BIGINT, DOUBLE, TIMESTAMP or VARCHAR: the first type every text in a CSV column is."""
    name = identifier(column)
    checks = (
        f"regexp_full_match({name}, '{WHOLE}') AND TRY_CAST({name} AS BIGINT) IS NOT NULL",
        f"regexp_full_match({name}, '-?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][-+]?[0-9]+)?|nan|NaN') "
        f"AND NOT regexp_full_match({name}, '-?0[0-9]+')",
        f"TRY_CAST({name} AS TIMESTAMP) IS NOT NULL",
    )
    wanted = ", ".join(f"count(*) FILTER (NOT ({check}))" for check in checks)
    with named_errors(source.path):
        counts = scalars(con, f"SELECT count({name}), {wanted} FROM {source.table} WHERE {name} IS NOT NULL")
    if counts[0] == 0:
        return "VARCHAR"
    types = ("BIGINT", "DOUBLE", "TIMESTAMP")
    return next((kind for kind, misfits in zip(types, counts[1:], strict=True) if misfits == 0), "VARCHAR")


def column_type(con: duckdb.DuckDBPyConnection, source: Source, column: str) -> str:
    """Return BIGINT, DOUBLE, TIMESTAMP or VARCHAR (anything else): how a column that orders is to be read."""
    source.require(column)
    kind = _text_type(con, source, column) if source.kind == "csv" else source.columns[column]
    if kind in INTEGERS:
        return "BIGINT"
    if kind.startswith(FLOATS):
        return "DOUBLE"
    if kind.startswith(TIMES):
        return "TIMESTAMP"
    return "VARCHAR"


def load_interactions(
    con: duckdb.DuckDBPyConnection, source: Source, config: PrepareConfig, user_type: str, item_type: str
) -> Clicks:
    """Fill table ``log(user_id, item_id, time, nth)``, its rows in order; return what was seen.

    ``time`` is in nanoseconds since 1970, null where there is none.
    """
    order = config.order_column
    if order is None:
        order = next((name for name in ("position", "timestamp") if name in source.columns), None)
        if order is None:
            columns = ", ".join(source.columns)
            raise UserError(
                f"{source.path}: no column 'position' or 'timestamp' to order by (--order-column names another);"
                f" it has {columns}"
            )
    kind = column_type(con, source, order)
    names = (config.user_column, config.item_column, order)
    with named_errors(source.path):
        rows, *known = scalars(
            con, f"SELECT count(*), {', '.join(f'count({identifier(name)})' for name in names)} FROM {source.table}"
        )
    if rows == 0:
        raise UserError(f"{source.path}: no interactions in it")
    for name, number in zip(names, known, strict=True):
        if number < rows:
            raise UserError(f"{source.path}: column {name!r} is null in {rows - number:,} of {rows:,} rows")
    if kind == "VARCHAR":
        raise UserError(f"{source.path}: column {order!r} is text; interactions are ordered by a number or a time")
    time_column = config.time_column
    if time_column is None:
        time_column = "timestamp" if "timestamp" in source.columns else order if kind == "TIMESTAMP" else ""
    time = "CAST(NULL AS BIGINT)"
    if time_column:
        time_kind = kind if time_column == order else column_type(con, source, time_column)
        with named_errors(source.path):
            if scalars(con, f"SELECT count({identifier(time_column)}) FROM {source.table}") == (0,):
                time_column = "" if time_column != order else time_column
            else:
                time = times.nanoseconds(con, source, time_column, time_kind, config.time_unit)
    user = f"CAST({identifier(config.user_column)} AS {SQL_TYPES[user_type]})"
    item = f"CAST({identifier(config.item_column)} AS {SQL_TYPES[item_type]})"
    place = times.place(con, source, order, kind)
    with named_errors(source.path):
        con.execute(
            f"CREATE TABLE raw_log AS SELECT {user} AS user_id, {item} AS item_id, {place} AS place, {time} AS time"
            f" FROM {source.table} ORDER BY user_id, place, item_id, time"
        )
    (lost,) = scalars(con, "SELECT count(*) FROM raw_log WHERE place IS NULL")
    if lost:
        raise UserError(f"{source.path}: column {order!r} is NaN in {lost:,} of {rows:,} rows")
    return Clicks(order_column=order, time_column=time_column, counts=order_clicks(con, config))
