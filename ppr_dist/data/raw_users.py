"""Users from raw files, in the indices of a prepared catalogue: what ``recommend`` serves.

Shapes: n users, E clicks, A attributes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from ppr_dist.data import logs
from ppr_dist.data.manifest import Attribute, Manifest
from ppr_dist.data.prepare_config import PrepareConfig
from ppr_dist.data.sources import Source, first_row, identifier, literal, named_errors, open_source, scalars
from ppr_dist.data.users import Int64, Users
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class RawUsers:
    """The users of a file, in its order."""

    ids: pa.Array
    """Raw user ids, [n]."""
    users: Users
    """Their clicks on items of the catalogue, oldest first, and profiles; ``index`` is the row in the file."""
    clicks: int
    """Clicks of these users in the log."""
    unknown_clicks: int
    """Those on items that the catalogue does not have; they are left out of ``users``."""


def read_raw_users(users: Path, interactions: Path | None, data: Path, manifest: Manifest) -> RawUsers:
    """Read profiles and clicks as ``prepare`` read those of ``data``: same columns, id types, order and buckets.

    Users may be new, and need no click. An attribute value that is null or was not seen by ``prepare`` is unknown
    (0). Clicks of users who are not in the users file are ignored.

    Raises :class:`UserError` of one line on a file or column that is missing or of the wrong type, a users file
    that is empty or names a user twice, and an interactions file that is empty.
    """
    config = PrepareConfig(**manifest.settings)
    with tempfile.TemporaryDirectory(prefix="ppr_dist-") as work, duckdb.connect(f"{work}/tables.duckdb") as con:
        con.execute("SET preserve_insertion_order = true")  # rowid is the row in the file
        _load_people(con, open_source(con, str(users)), config, data, manifest)
        ids = _column(con, "SELECT user_id FROM raw_profile ORDER BY rowid")
        attributes = [_value_indices(con, k, a, str(users), data) for k, a in enumerate(manifest.attributes)]
        owner = item = np.zeros(0, np.int64)
        if interactions is not None:
            log = open_source(con, str(interactions))
            ids_of = {config.user_column: manifest.user_id_type, config.item_column: manifest.item_id_type}
            _require_ids(con, log, ids_of, data, "interactions")
            logs.load_interactions(con, log, config, manifest.user_id_type, manifest.item_id_type)
            owner, item = _clicks(con, data)
    known = item >= 0
    counts = np.bincount(owner[known], minlength=len(ids))
    return RawUsers(
        ids=ids,
        users=Users(
            index=np.arange(len(ids), dtype=np.int64),
            items=item[known],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            attributes=np.stack(attributes) if attributes else np.zeros((0, len(ids)), np.int64),
        ),
        clicks=len(item),
        unknown_clicks=int((~known).sum()),
    )


def _load_people(
    con: duckdb.DuckDBPyConnection, source: Source, config: PrepareConfig, data: Path, manifest: Manifest
) -> None:
    """Fill ``raw_profile(user_id, a0, a1, …)``: numbers for bucketed attributes, text for the others."""
    for attribute in manifest.attributes:
        source.require(attribute.name)
    _require_ids(con, source, {config.user_column: manifest.user_id_type}, data, "users")
    columns = [f"CAST({identifier(config.user_column)} AS {logs.SQL_TYPES[manifest.user_id_type]}) AS user_id"]
    for k, attribute in enumerate(manifest.attributes):
        kind = "VARCHAR" if attribute.buckets is None else "DOUBLE"
        value = f"TRY_CAST({identifier(attribute.name)} AS {kind})"
        columns.append(f"{value} AS a{k}")
        if attribute.buckets is not None:
            sql = f"SELECT {identifier(attribute.name)} AS value FROM {source.table} WHERE {value} IS NULL"
            with named_errors(source.path):
                wrong = first_row(con, f"SELECT value FROM ({sql}) WHERE value IS NOT NULL LIMIT 1")
            if wrong is not None:
                raise UserError(f"{source.path}: column {attribute.name!r} holds {wrong[0]!r}, which is not a number")
    with named_errors(source.path):
        con.execute(f"CREATE TABLE raw_profile AS SELECT {', '.join(columns)} FROM {source.table}")
    logs.require_one_row_each(con, source, config.user_column)


def _require_ids(con: duckdb.DuckDBPyConnection, source: Source, types: dict[str, str], data: Path, rows: str) -> None:
    """Raise :class:`UserError` where the source has no rows, or id columns of other types than the catalogue."""
    for column in types:
        source.require(column)
    with named_errors(source.path):
        if scalars(con, f"SELECT count(*) FROM (SELECT 1 FROM {source.table} LIMIT 1)") == (0,):
            raise UserError(f"{source.path}: no {rows} in it")
    for column, wanted in types.items():
        found = logs.id_types(con, source, column)
        if wanted not in found:
            raise UserError(f"{source.path}: column {column!r} is {found[0]}, but {wanted} in {data}")


def _value_indices(con: duckdb.DuckDBPyConnection, k: int, attribute: Attribute, path: str, data: Path) -> Int64:
    """Value index of attribute ``k`` for every user, 0 = unknown, [n]."""
    if attribute.buckets is not None:
        steps = "".join(f" + (a{k} >= {edge!r}::DOUBLE)::BIGINT" for edge in attribute.buckets)
        sql = f"SELECT if(a{k} IS NULL OR isnan(a{k}), 0, 1{steps}) FROM raw_profile ORDER BY rowid"
        return _column(con, sql).to_numpy().astype(np.int64)
    table = data / "attributes.parquet"
    sql = f"SELECT value, value_index FROM read_parquet({literal(str(table))}) WHERE attribute = "
    with named_errors(str(table)):
        con.execute(f"CREATE OR REPLACE TEMP TABLE known AS {sql}{literal(attribute.name)}")
    # pandas writes integers with a null among them as floats: where all known values are integers, 3.0 is 3.
    whole = scalars(con, "SELECT count(*) FROM known WHERE NOT regexp_full_match(value, '-?[0-9]+')") == (0,)
    key = rf"regexp_replace(a{k}, '\.0*$', '')" if whole else f"a{k}"
    sql = f"SELECT coalesce(v.value_index, 0) FROM raw_profile p LEFT JOIN known v ON {key} = v.value ORDER BY p.rowid"
    return _column(con, sql).to_numpy().astype(np.int64)


def _clicks(con: duckdb.DuckDBPyConnection, data: Path) -> tuple[Int64, Int64]:
    """(row of the user, item index or −1) of every click of the users, user after user, oldest first, each [E]."""
    table = data / "items.parquet"
    with named_errors(str(table)):
        con.execute(
            "CREATE TABLE clicks AS SELECT p.rowid AS owner, coalesce(i.item_index, -1) AS item_index"
            " FROM log JOIN raw_profile p ON log.user_id = p.user_id"
            f" LEFT JOIN read_parquet({literal(str(table))}) i ON log.item_id = i.item_id"
            " ORDER BY p.rowid, log.nth"
        )
    columns = (_column(con, f"SELECT {name} FROM clicks ORDER BY rowid") for name in ("owner", "item_index"))
    owner, item = (column.to_numpy().astype(np.int64) for column in columns)
    return owner, item


def _column(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Array:
    return con.sql(sql).to_arrow_table().column(0).combine_chunks()
