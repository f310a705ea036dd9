"""Vectors of items or of users from a file: the id column, and a column of lists or columns of numbers."""

from __future__ import annotations

from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt

from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.sources import Source, first_row, identifier, named_errors, open_source, scalars
from ppr_dist.errors import UserError

Of = Literal["item", "user"]


def load_vectors(con: duckdb.DuckDBPyConnection, path: str, table: str, column: str, id_type: str, of: Of) -> int:
    """Fill ``table(OF_id, vector FLOAT[])`` of a file, ``column`` being the id's; return the numbers of a vector.

    Raises :class:`UserError` naming the file, where ids are missing, twice or of another type than in the log
    (``id_type``), and where vectors are not all of one length.
    """
    source = open_source(con, path)
    types = logs.id_types(con, source, column)
    if id_type not in types:
        raise UserError(f"{path}: {of} ids are {types[0]}, but {id_type} in the log")
    named = f"CAST({identifier(column)} AS {logs.SQL_TYPES[id_type]})"
    with named_errors(path):
        con.execute(
            f"CREATE TABLE {table} AS SELECT {named} AS {of}_id, {_vector(source, column)} AS vector"
            f" FROM {source.table}"
        )
    check_ids(con, table, path, of)
    rows, vectors, shortest, longest = scalars(
        con, f"SELECT count(*), count(vector), min(len(vector)), max(len(vector)) FROM {table}"
    )
    if vectors < rows:
        raise UserError(f"{path}: {rows - vectors:,} of {rows:,} rows have no vector")
    if shortest != longest or not longest:
        raise UserError(f"{path}: vectors are of {shortest} to {longest} numbers; all must be of one length")
    if scalars(con, f"SELECT count(*) FROM {table} WHERE list_count(vector) < len(vector)")[0]:
        raise UserError(f"{path}: a vector holds null")
    return longest


def check_ids(con: duckdb.DuckDBPyConnection, table: str, path: str, of: Of = "item") -> None:
    """Raise :class:`UserError` naming the file where ``table`` has nobody, a row without an id, or an id twice."""
    rows, ids = scalars(con, f"SELECT count(*), count({of}_id) FROM {table}")
    if not rows:
        raise UserError(f"{path}: no {of}s in it")
    if ids < rows:
        raise UserError(f"{path}: {rows - ids:,} of {rows:,} rows have no id")
    twice = first_row(con, f"SELECT {of}_id FROM {table} GROUP BY {of}_id HAVING count(*) > 1 LIMIT 1")
    if twice:
        raise UserError(f"{path}: {of} {twice[0]!r} stands there more than once")


def in_half_precision(numbers: npt.NDArray[np.generic], path: str) -> npt.NDArray[np.float16]:
    """Raises :class:`UserError` naming the file on numbers that are not finite then."""
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{path}: a number that is not finite in half precision (beyond 65,504, or NaN)")
    return half


def _vector(source: Source, column: str) -> str:
    """SQL of the vector: the one column of lists, or all columns but the id, which must be numbers."""
    others = {name: kind for name, kind in source.columns.items() if name != column}
    lists = [name for name, kind in others.items() if kind.endswith("]")]
    if len(lists) > 1:
        raise UserError(f"{source.path}: columns {', '.join(lists)} all hold lists; leave one")
    if lists:
        return f"CAST({identifier(lists[0])} AS FLOAT[])"
    if not others:
        raise UserError(f"{source.path}: no column beside {column!r}")
    text = [name for name, kind in others.items() if kind == "VARCHAR"] if source.kind == "parquet" else []
    if text:
        raise UserError(f"{source.path}: column {text[0]!r} is text; features are a column of lists, or numbers")
    return f"[{', '.join(f'CAST({identifier(name)} AS FLOAT)' for name in others)}]"
