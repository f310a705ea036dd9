"""Read profile columns, for ``prepare`` and for ``recommend`` alike: the same person has the same profile in both.

A value is read by what it says and not by how a file stores it: 3, 3.0 and CSV's ``3`` are one category; so are
``true`` and CSV's ``True``, a date and the same date at midnight UTC. What the files cannot tell one by one (is ``3``
an integer, or text among other text?) is found once, by ``prepare``, over the whole column, and kept in the manifest
as the column's :data:`Kind`. Times are read in UTC (:func:`ppr_dist.data.prepare.sources.connect`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from ppr_dist.data.manifest import Attribute, Kind
from ppr_dist.data.prepare.logs import FLOATS, INTEGERS, SQL_TYPES, TIMES, WHOLE
from ppr_dist.data.prepare.sources import Source, first_row, identifier, is_nan, literal, named_errors, scalars
from ppr_dist.data.remote import present
from ppr_dist.errors import UserError

DECIMAL_TEXT = r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"


def find_kinds(con: duckdb.DuckDBPyConnection, source: Source, columns: Sequence[str]) -> dict[str, Kind]:
    """Return what the values of each column are, over the whole file.

    Integers of any length, and floats that are all whole (pandas writes integers with a null among them so), are
    ``integer``; other floats ``number``. In text (all of a CSV is) the first of integer, number (CSV alone: text
    in a Parquet file was meant as text), boolean and time that every value is. Raises :class:`UserError` on a column
    that is missing, or of lists, structures or bytes.
    """
    return {name: _kind(con, source, name) for name in columns}


def _kind(con: duckdb.DuckDBPyConnection, source: Source, column: str) -> Kind:
    source.require(column)
    stored, x = source.columns[column], _given(source, column)
    if stored == "BOOLEAN":
        return "boolean"
    if stored.startswith(TIMES):
        return "time"
    if stored in INTEGERS:
        return "integer"
    checks: dict[Kind, str] = {}
    otherwise: Kind = "text"
    if stored.startswith(FLOATS):
        checks["integer"] = _is_whole(x)
        otherwise = "number"
    elif stored == "VARCHAR":
        checks["integer"] = _matches(x, WHOLE)
        if source.kind == "csv":
            checks["number"] = _matches(x, DECIMAL_TEXT)
            whole = f"{checks['number']} AND {_is_whole(f'TRY_CAST({x} AS DOUBLE)')}"
            checks["integer"] = f"{checks['integer']} OR {whole}"
        checks["boolean"] = f"lower({x}) IN ('true', 'false')"
        checks["time"] = f"TRY_CAST({x} AS TIMESTAMPTZ) IS NOT NULL"
    elif stored.endswith(("]", ")")) or stored in ("BLOB", "INTERVAL", "GEOMETRY", "VARIANT"):
        raise UserError(f"{source.path}: column {column!r} is {stored}; an attribute is a number, a string or a date")
    else:
        return "text"
    misfits = ", ".join(f"count(*) FILTER (NOT ({check}))" for check in checks.values())
    with named_errors(source.path):
        known, *counts = scalars(con, f"SELECT count({x}), {misfits} FROM {source.table} WHERE {x} IS NOT NULL")
    if not known:
        return "text"
    return next((kind for kind, count in zip(checks, counts, strict=True) if not count), otherwise)


def _given(source: Source, column: str) -> str:
    """SQL of a value as it is stored, null where it is unknown: null, NaN (also as text), or empty text."""
    x, stored = identifier(column), source.columns[column]
    if stored in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN NOT {is_nan(x)} THEN {x} END"
    return f"CASE WHEN {x} NOT IN ('', 'nan', 'NaN') THEN {x} END" if stored == "VARCHAR" else x


def _matches(x: str, pattern: str) -> str:
    return f"regexp_full_match({x}, {literal(pattern)})"


def _is_whole(x: str) -> str:
    return f"coalesce({x} = floor({x}) AND TRY_CAST({x} AS HUGEINT) IS NOT NULL, false)"


def category(source: Source, column: str, kind: Kind) -> str:
    """SQL of a column's value as the text that stands in attributes.parquet; null = unknown."""
    x, stored = _given(source, column), source.columns[column]
    plain = f"CAST({x} AS VARCHAR)"
    if stored == "VARCHAR":
        if kind == "integer":
            number = f"if({_matches(x, DECIMAL_TEXT)}, TRY_CAST({x} AS DOUBLE), NULL)"
            truth = f"CASE lower({x}) WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {x} END"
            return f"CASE WHEN {_matches(x, WHOLE)} THEN {x} ELSE {_whole_text(number, truth)} END"
        if kind == "boolean":
            number = f"CASE TRY_CAST({x} AS DOUBLE) WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {x} END"
            return f"coalesce(CAST(TRY_CAST({x} AS BOOLEAN) AS VARCHAR), {number})"
        return f"coalesce({_time_text(f'TRY_CAST({x} AS TIMESTAMPTZ)')}, {x})" if kind == "time" else x
    if stored.startswith(TIMES):
        return f"coalesce({_time_text(f'CAST({x} AS TIMESTAMPTZ)')}, {plain})"
    if stored == "BOOLEAN":
        return f"CAST(CAST({x} AS INTEGER) AS VARCHAR)" if kind == "integer" else plain
    if kind == "boolean":  # a database's 1 and 0; pandas writes them as floats where some are missing
        return f"CASE {x} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {plain} END"
    return _whole_text(x, plain) if stored.startswith(FLOATS) else plain


def _whole_text(number: str, otherwise: str) -> str:
    """SQL of a whole float as an integer's text."""
    return f"CASE WHEN {_is_whole(number)} THEN CAST(TRY_CAST({number} AS HUGEINT) AS VARCHAR) ELSE {otherwise} END"


def _time_text(time: str) -> str:
    """SQL of a TIMESTAMPTZ as text in UTC, to the microsecond; midnight is the date alone."""
    return f"regexp_replace(CAST(make_timestamp(epoch_us({time})) AS VARCHAR), ' 00:00:00$', '')"


def load_profiles(
    con: duckdb.DuckDBPyConnection, source: Source, user_column: str, user_type: str, kinds: Mapping[str, Kind]
) -> None:
    """Fill ``raw_profile(user_id, a0, a1, …)``, rows as in the source; of kind ``number`` DOUBLE, others VARCHAR.

    Args:
        kinds: the attributes in order. ``number`` is one that is cut into buckets, whatever :func:`find_kinds` says.

    Raises :class:`UserError` on a missing column, a user who is null or there twice, and in a column of numbers on
    text that is no number and on infinity.
    """
    columns = [f"CAST({identifier(user_column)} AS {SQL_TYPES[user_type]}) AS user_id"]
    for k, (name, kind) in enumerate(kinds.items()):
        source.require(name)
        if kind == "number":
            _require_numbers(con, source, name)
        columns.append(f"{category(source, name, kind) if kind != 'number' else _number(source, name)} AS a{k}")
    with named_errors(source.path):
        con.execute(f"CREATE OR REPLACE TABLE raw_profile AS SELECT {', '.join(columns)} FROM {source.table}")
    rows, known = scalars(con, "SELECT count(*), count(user_id) FROM raw_profile")
    if known < rows:
        raise UserError(f"{source.path}: column {user_column!r} is null in {rows - known:,} of {rows:,} rows")
    twice = first_row(
        con,
        "SELECT user_id, count(*) FROM raw_profile GROUP BY user_id HAVING count(*) > 1 ORDER BY user_id LIMIT 1",
    )
    if twice is not None:
        raise UserError(f"{source.path}: user {twice[0]!r} has {twice[1]} rows; a user has one profile")


def _number(source: Source, column: str) -> str:
    x = _given(source, column)
    if source.columns[column] == "FLOAT":
        # By its digits: as a double, 0.1 of 32 bits lies above an edge at 0.1 and 0.7 below one at 0.7.
        x = f"CAST({x} AS VARCHAR)"
    return f"TRY_CAST({x} AS DOUBLE)"


def _require_numbers(con: duckdb.DuckDBPyConnection, source: Source, column: str) -> None:
    x, number = _given(source, column), _number(source, column)
    with named_errors(source.path):
        wrong = first_row(
            con,
            f"SELECT CAST({x} AS VARCHAR) FROM {source.table} WHERE {x} IS NOT NULL"
            f" AND ({number} IS NULL OR isinf({number})) LIMIT 1",
        )
    if wrong is not None:
        what = "a finite number" if "inf" in wrong[0].lower() else "a number"
        raise UserError(f"{source.path}: column {column!r} holds {wrong[0]!r}, which is not {what}")


def read_values(con: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Fill ``attribute_values(attribute, value_index, value)`` from a prepared folder."""
    table = present(data / "attributes.parquet")
    with named_errors(str(table)):
        con.execute(
            "CREATE OR REPLACE TABLE attribute_values AS SELECT attribute, value_index, value"
            f" FROM read_parquet({literal(str(table))})"
        )


def value_indices(attributes: Sequence[Attribute], table: str = "raw_profile") -> str:
    """SQL of ``(row, user_id, a0, a1, …)``: the rows of ``table`` with value indices (BIGINT, 0 = unknown) for values.

    ``row`` is the rowid. Reads ``attribute_values`` (which :func:`read_values` fills).
    """
    columns, joins = ["p.rowid AS row", "p.user_id"], ""
    for k, attribute in enumerate(attributes):
        if attribute.buckets is not None:
            steps = "".join(f" + (p.a{k} >= {edge!r}::DOUBLE)::BIGINT" for edge in attribute.buckets)
            columns.append(f"CASE WHEN p.a{k} IS NULL THEN 0 ELSE 1{steps} END AS a{k}")
        else:
            columns.append(f"coalesce(v{k}.value_index, 0) AS a{k}")
            joins += (
                f" LEFT JOIN (SELECT value, value_index FROM attribute_values WHERE attribute ="
                f" {literal(attribute.name)}) v{k} ON p.a{k} = v{k}.value"
            )
    return f"SELECT {', '.join(columns)} FROM {table} p{joins}"
