"""Turn profile columns into value indices: 0 = unknown, 1 … = the known values in order (or the buckets)."""

from __future__ import annotations

import itertools

import duckdb
import pyarrow as pa

from ppr_dist.data.manifest import Attribute, Kind
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.content import ids_sha256
from ppr_dist.data.prepare.profiles import find_kinds, load_profiles, value_indices
from ppr_dist.data.prepare.sources import Source, first_row, literal, scalars
from ppr_dist.data.prepare.splits import SPLITS
from ppr_dist.errors import UserError, warn

RESERVED = ("user", "items", "times")
"""A shard's own columns: an attribute of that name would make the record batch ambiguous."""
NEARLY_EACH = 0.5
"""Values of a column per user who has one, beyond which most users share theirs with nobody or one other."""
FEW_USERS = 100
"""Fewer users say nothing of a column's values."""


def load(con: duckdb.DuckDBPyConnection, source: Source, config: PrepareConfig, user_type: str) -> dict[str, Kind]:
    """Fill ``raw_profile`` (:func:`ppr_dist.data.prepare.profiles.load_profiles`); return the attributes' kinds.

    Raises :class:`UserError` on columns that cannot be attributes, buckets for what is none, and fractions or
    infinities without buckets.
    """
    names = config.attribute_names()
    if names is None:
        names = [name for name in source.columns if name != config.user_column]
    for name in names:
        if names.count(name) > 1 or name in (*RESERVED, config.user_column):
            raise UserError(f"{source.path}: column {name!r} cannot be an attribute (named twice, or a reserved name)")
    for name in config.buckets:
        if name not in names:
            raise UserError(f"buckets.{name}: no such attribute; they are {', '.join(names) or 'none'}")
    kinds: dict[str, Kind] = find_kinds(con, source, names)
    for name in config.buckets:
        if kinds[name] in ("boolean", "time"):
            raise UserError(f"buckets.{name}: column {name!r} of {source.path} is not numeric")
    kinds |= dict.fromkeys(config.buckets, "number")
    load_profiles(con, source, config.user_column, user_type, kinds)
    for k, (name, kind) in enumerate(kinds.items()):
        if kind == "number" and name not in config.buckets:
            wrong = first_row(con, f"SELECT a{k} FROM raw_profile WHERE a{k} <> floor(a{k}) LIMIT 1")
            example = f"fractions (such as {wrong[0]})" if wrong is not None else "whole numbers beyond 10^38"
            raise UserError(
                f"{source.path}: column {name!r} holds {example}: give it buckets (--buckets.{name} 10) or leave it"
                " out (--attributes)"
            )
    return kinds


def encode(
    con: duckdb.DuckDBPyConnection, kinds: dict[str, Kind], config: PrepareConfig, path: str
) -> tuple[Attribute, ...]:
    """Fill ``profile(user_id, a0 BIGINT, …)`` and ``attribute_values(attribute, value_index, value)``.

    Reads ``raw_profile`` for the users in ``users`` alone. A category that fewer than ``min_attribute_count``
    tune-train users have (of all users, where tune-train is empty) is unknown: its embedding would hardly be trained.
    An attribute that is unknown for all keeps cardinality 1. That, and a column with nearly a value of its own for
    each user, is said on stderr.
    """
    con.execute("CREATE TABLE clicked AS SELECT p.*, u.split FROM raw_profile p JOIN users u ON p.user_id = u.user_id")
    tuning = scalars(con, f"SELECT count(*) FROM users WHERE split = {SPLITS.index('tune-train')}") != (0,)
    counted = f"split = {SPLITS.index('tune-train')}" if tuning else "true"
    con.execute("CREATE TABLE attribute_values(attribute VARCHAR, value_index BIGINT, value VARCHAR)")
    result = []
    for k, (name, kind) in enumerate(kinds.items()):
        edges = None
        if kind == "number":
            edges = tuple(_edges(con, k, config.buckets[name]))
            bounds = [float("-inf"), *edges, float("inf")]
            labels = [f"[{a:g}, {b:g})" for a, b in itertools.pairwise(bounds)]
            rows = ", ".join(f"({literal(name)}, {i}, {literal(label)})" for i, label in enumerate(labels, 1))
            con.execute(f"INSERT INTO attribute_values VALUES {rows}")
        else:
            by_size = f"TRY_CAST(a{k} AS HUGEINT), " if kind == "integer" else ""
            con.execute(
                f"INSERT INTO attribute_values SELECT {literal(name)}, row_number() OVER (ORDER BY {by_size}a{k}), a{k}"
                f" FROM clicked WHERE a{k} IS NOT NULL GROUP BY a{k}"
                f" HAVING count(*) FILTER ({counted}) >= {config.min_attribute_count} ORDER BY ALL"
            )
            distinct, known = scalars(con, f"SELECT count(DISTINCT a{k}), count(a{k}) FROM clicked")
            if known >= FEW_USERS and distinct > known * NEARLY_EACH:
                warn(
                    f"{path}: column {name!r} has {distinct:,} values for {known:,} users: nearly each has its"
                    " own, which teaches nothing of others; give it fewer (numbers: --buckets; dates: the"
                    " year) or leave it out (--attributes)"
                )
        sql = f"SELECT value FROM attribute_values WHERE attribute = {literal(name)} ORDER BY value_index"
        values = con.sql(sql).to_arrow_table().column(0)
        digest = ids_sha256([*values.chunks, pa.array([repr(edges)])])  # labels alone are rounded
        result.append(Attribute(name=name, kind=kind, cardinality=1 + len(values), buckets=edges, values=digest))
        if scalars(con, f"SELECT count(a{k}) FROM clicked") == (0,):
            warn(f"{path}: column {name!r} is null for every user")
        elif not len(values):
            warn(
                f"{path}: no value of column {name!r} is had by {config.min_attribute_count} users"
                " (min_attribute_count): it is unknown for every user"
            )
    con.execute(f"CREATE TABLE profile AS SELECT * EXCLUDE row FROM ({value_indices(result, 'clicked')})")
    con.execute("DROP TABLE raw_profile; DROP TABLE clicked")
    return tuple(result)


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
