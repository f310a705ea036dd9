"""When a click was: SQL of what orders a user's clicks, and of their time; whether the data can keep it."""

from __future__ import annotations

import duckdb

from ppr_dist.data.manifest import TIME_END
from ppr_dist.data.prepare.sources import Source, first_row, identifier, is_nan, named_errors, scalars
from ppr_dist.errors import UserError, warn

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of a numeric time. One before 1970 or from TIME_END on is in another unit, or no time."""
SECONDS = f"time // {PER_SECOND['ns']}"
"""SQL of the Unix seconds in which shards keep a ``time``: the nanoseconds of :func:`nanoseconds`, rounded down."""


def place(con: duckdb.DuckDBPyConnection, source: Source, column: str, kind: str) -> str:
    """Return SQL of a column to order by, at the precision of the file; NaN is null.

    ``kind`` is what :func:`~ppr_dist.data.prepare.logs.column_type` says. Parquet keeps its own type: a cast to
    microseconds would tie times that differ in nanoseconds.
    """
    name = identifier(column)
    if source.kind == "parquet":
        floating = source.columns[column] in ("FLOAT", "DOUBLE")
        return f"CASE WHEN {is_nan(name)} THEN NULL ELSE {name} END" if floating else name
    if kind == "BIGINT":
        return f"CAST({name} AS BIGINT)"
    if kind == "TIMESTAMP":
        return f"CAST({name} AS TIMESTAMPTZ_NS)"
    # 20 digits before the point and 18 behind it, where that holds every number: a double ties 2^53 and 2^53 + 1.
    number = f"CASE WHEN lower({name}) = 'nan' THEN NULL ELSE {name} END"
    exact = f"TRY_CAST({number} AS DECIMAL(38, 18))"
    with named_errors(source.path):
        lost = scalars(con, f"SELECT count(*) FROM {source.table} WHERE {number} IS NOT NULL AND {exact} IS NULL")
    return exact if lost == (0,) else f"CAST({number} AS DOUBLE)"


def nanoseconds(con: duckdb.DuckDBPyConnection, source: Source, column: str, kind: str, unit: str) -> str:
    """Return SQL of a column of times as nanoseconds since 1970 (BIGINT); numbers are in ``unit``.

    Raises :class:`UserError` on a column that holds text, and on a time outside 1970 to 2100.
    """
    name, value = identifier(column), place(con, source, column, kind)
    if kind == "VARCHAR":
        raise UserError(f"{source.path}: column {column!r} is text; a time is a number or a timestamp")
    if kind == "TIMESTAMP":
        zoned = source.kind == "csv" or source.columns[column].startswith(("TIMESTAMPTZ", "TIMESTAMP WITH"))
        number = f"epoch({f'TRY_CAST({name} AS TIMESTAMPTZ)' if zoned else name})"  # there is none for TIMESTAMPTZ_NS
        _require_range(con, source, column, number, None)
        return f"epoch_ns({value})"
    _require_range(con, source, column, value, unit)
    factor = PER_SECOND["ns"] // PER_SECOND[unit]
    if kind == "BIGINT":
        return f"CAST({value} AS BIGINT) * {factor}"
    # Whole units apart from the rest: their product with the factor would not fit the digits of a double.
    return f"CAST(floor({value}) AS BIGINT) * {factor} + CAST(round(({value} - floor({value})) * {factor}) AS BIGINT)"


def _require_range(con: duckdb.DuckDBPyConnection, source: Source, column: str, number: str, unit: str | None) -> None:
    """Raise :class:`UserError` where ``number`` is outside 1970 to 2100; ``unit`` None = seconds of a timestamp."""
    name = identifier(column)
    known = f"FROM {source.table} WHERE {name if unit is None else number} IS NOT NULL"
    end = TIME_END * PER_SECOND[unit or "s"]
    with named_errors(source.path):
        wrong = first_row(
            con,
            f"SELECT CAST({name} AS VARCHAR) {known}"
            f" AND NOT coalesce({number} >= 0 AND {number} < {end}, false) LIMIT 1",
        )
        if wrong is None:
            return
        low, high = first_row(con, f"SELECT CAST(min({number}) AS DOUBLE), CAST(max({number}) AS DOUBLE) {known}") or (
            None,
            None,
        )
    advice = "prepare's --time-column names another column, '' none"
    if unit is not None and low is not None and low >= 0:
        fits = [other for other, per_second in PER_SECOND.items() if high < TIME_END * per_second]
        advice = f"{fits[0]} would fit (prepare's --time-unit)" if fits else advice
    raise UserError(
        f"{source.path}: column {column!r} holds {wrong[0]}, outside 1970 to 2100"
        f"{f' as a time in {unit}' if unit else ''}; {advice}"
    )


def all_have_times(con: duckdb.DuckDBPyConnection, clicks: str, column: str, path: str) -> bool:
    """Whether every row of the table ``clicks`` (SQL) has a ``time``: only then are times kept.

    No time is invented for a click without one, and models read the times of all clicks or of none. Where ``column``
    of the log at ``path`` should have said them, a warning says how many it does not; '' = no column.
    """
    count, untimed = scalars(con, f"SELECT count(*), count(*) FILTER (time IS NULL) FROM {clicks}")
    if untimed and column:
        warn(f"{path}: column {column!r} is null for {untimed:,} of {count:,} clicks, so that none keeps its time")
    return untimed == 0
