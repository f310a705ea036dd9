"""Turn profile columns into value indices: 0 = unknown, 1 … = the known values in order (or the buckets)."""

from __future__ import annotations

import itertools
import sys

import duckdb
from tqdm import tqdm

from ppr_dist.data.manifest import Attribute
from ppr_dist.data.prepare_config import PrepareConfig
from ppr_dist.data.sources import first_row, literal, scalars
from ppr_dist.errors import UserError


def encode(
    con: duckdb.DuckDBPyConnection, types: dict[str, str], config: PrepareConfig, path: str
) -> tuple[Attribute, ...]:
    """Fill ``profile(user_id, a0 BIGINT, …)`` and ``attribute_values(attribute, value_index, value)``.

    Reads ``raw_profile`` (columns a0, a1, … of the given ``types``) for the users in ``users`` alone: a value
    that only users without clicks have would be an embedding that no click trains. An attribute that is null
    for all of them keeps cardinality 1 (everyone unknown) and is said on stderr. Raises :class:`UserError` on
    buckets for a column that is no attribute or no number, and on fractions without buckets.
    """
    for column in config.buckets:
        if column not in types:
            raise UserError(f"buckets.{column}: no such attribute; they are {', '.join(types) or 'none'}")
        if types[column] == "VARCHAR":
            raise UserError(f"buckets.{column}: column {column!r} of {path} is not numeric")
    con.execute("CREATE TABLE clicked AS SELECT p.* FROM raw_profile p SEMI JOIN users u ON p.user_id = u.user_id")
    con.execute("CREATE TABLE attribute_values(attribute VARCHAR, value_index BIGINT, value VARCHAR)")
    result, columns, joins = [], ["p.user_id"], []
    for k, (name, kind) in enumerate(types.items()):
        if name in config.buckets:
            edges = _edges(con, k, config.buckets[name])
            steps = "".join(f" + (a{k} >= {edge!r}::DOUBLE)::BIGINT" for edge in edges)
            columns.append(f"CASE WHEN a{k} IS NULL THEN 0 ELSE 1{steps} END AS a{k}")
            bounds = [float("-inf"), *edges, float("inf")]
            labels = [f"[{a:g}, {b:g})" for a, b in itertools.pairwise(bounds)]
            rows = ", ".join(f"({literal(name)}, {i}, {literal(label)})" for i, label in enumerate(labels, 1))
            con.execute(f"INSERT INTO attribute_values VALUES {rows}")
            result.append(Attribute(name=name, cardinality=len(labels) + 1, buckets=tuple(edges)))
        else:
            cardinality = 1 + _categories(con, k, name, kind, path)
            columns.append(f"coalesce(v{k}.value_index, 0) AS a{k}")
            joins.append(f" LEFT JOIN values_{k} v{k} ON a{k} = v{k}.value")
            result.append(Attribute(name=name, cardinality=cardinality))
        if scalars(con, f"SELECT count(a{k}) FROM clicked") == (0,):
            tqdm.write(f"warning: {path}: column {name!r} is null for every user", file=sys.stderr)
    con.execute(f"CREATE TABLE profile AS SELECT {', '.join(columns)} FROM clicked p{''.join(joins)}")
    con.execute("DROP TABLE raw_profile; DROP TABLE clicked")
    return tuple(result)


def _categories(con: duckdb.DuckDBPyConnection, k: int, name: str, kind: str, path: str) -> int:
    """Fill ``values_k(value, value_index)``; return the number of known values."""
    if kind == "DOUBLE":
        # pandas writes integers with a null among them as floats: whole numbers are taken for integers.
        broken = first_row(con, f"SELECT a{k} FROM clicked WHERE a{k} <> floor(a{k}) OR isinf(a{k}) LIMIT 1")
        if broken is not None:
            raise UserError(
                f"{path}: column {name!r} holds fractions (such as {broken[0]}): give it buckets"
                f" (--buckets.{name} 10) or leave it out (--attributes)"
            )
        con.execute(f"ALTER TABLE clicked ALTER a{k} TYPE BIGINT")
    con.execute(
        f"CREATE TABLE values_{k} AS SELECT value, row_number() OVER (ORDER BY value) AS value_index"
        f" FROM (SELECT DISTINCT a{k} AS value FROM clicked WHERE a{k} IS NOT NULL)"
    )
    con.execute(
        f"INSERT INTO attribute_values SELECT {literal(name)}, value_index, CAST(value AS VARCHAR)"
        f" FROM values_{k} ORDER BY value_index"
    )
    return scalars(con, f"SELECT count(*) FROM values_{k}")[0]


def _edges(con: duckdb.DuckDBPyConnection, k: int, buckets: int | list[float]) -> list[float]:
    """Return the edges between buckets: those given, or the quantiles i / buckets of the known values.

    Equal quantiles (a frequent value) become one edge, so there may be fewer buckets than asked.
    """
    if isinstance(buckets, list):
        return [float(edge) for edge in buckets]
    con.execute(
        "CREATE OR REPLACE TEMP TABLE cumulative AS SELECT value, sum(n) OVER (ORDER BY value) AS seen FROM"
        f" (SELECT CAST(a{k} AS DOUBLE) AS value, count(*) AS n FROM clicked WHERE a{k} IS NOT NULL"
        " GROUP BY 1)"
    )
    # The i-th edge is the smallest value with more than i / buckets of the users at or below it.
    found = [
        first_row(
            con,
            f"SELECT min(value) FROM cumulative WHERE seen * {buckets} > {i} * (SELECT max(seen) FROM cumulative)",
        )
        for i in range(1, buckets)
    ]
    edges = sorted({float(row[0]) for row in found if row is not None and row[0] is not None})
    lowest = first_row(con, "SELECT min(value) FROM cumulative")
    # An edge at the smallest value would open with a bucket that no user is in.
    return [edge for edge in edges if lowest is not None and edge > lowest[0]]
