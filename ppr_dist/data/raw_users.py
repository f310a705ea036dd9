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
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.prepare_config import PrepareConfig
from ppr_dist.data.profiles import load_profiles, read_values, value_indices
from ppr_dist.data.sources import Source, connect, literal, named_errors, open_source, scalars
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
    values: dict[str, int]
    """Users whose value of an attribute is given, by attribute."""
    unknown_values: dict[str, int]
    """Those whose value the catalogue does not have."""


def read_raw_users(users: Path, interactions: Path | None, data: Path, manifest: Manifest) -> RawUsers:
    """Read profiles and clicks as ``prepare`` read those of ``data``: same columns, id types, order and buckets.

    Users may be new, and need no click. An attribute value that is null or was not seen by ``prepare`` is unknown
    (0). Clicks of users who are not in the users file are ignored.

    Raises :class:`UserError` of one line on a file or column that is missing or of the wrong type, a users file
    that is empty or names a user twice, and an interactions file that is empty.
    """
    config = PrepareConfig(**manifest.settings)
    with tempfile.TemporaryDirectory(prefix="ppr_dist-") as work, connect(f"{work}/tables.duckdb") as con:
        profiles = open_source(con, str(users))
        _require_ids(con, profiles, {config.user_column: manifest.user_id_type}, data, "users")
        kinds = {attribute.name: attribute.kind for attribute in manifest.attributes}
        load_profiles(con, profiles, config.user_column, manifest.user_id_type, kinds)
        read_values(con, data)
        con.execute(f"CREATE TABLE people AS {value_indices(manifest.attributes)} ORDER BY row")
        ids = _column(con, "SELECT user_id FROM people ORDER BY row")
        attributes = [_int64(con, f"SELECT a{k} FROM people ORDER BY row") for k in range(len(kinds))]
        given = ", ".join(f"count(a{k})" for k in range(len(kinds)))
        values = scalars(con, f"SELECT {given} FROM raw_profile") if kinds else ()
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
        values=dict(zip(kinds, values, strict=True)),
        unknown_values={
            name: given - int((index > 0).sum())
            for (name, given), index in zip(zip(kinds, values, strict=True), attributes, strict=True)
        },
    )


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
    owner, item = (_int64(con, f"SELECT {name} FROM clicks ORDER BY rowid") for name in ("owner", "item_index"))
    return owner, item


def _column(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Array:
    return con.sql(sql).to_arrow_table().column(0).combine_chunks()


def _int64(con: duckdb.DuckDBPyConnection, sql: str) -> Int64:
    return _column(con, sql).to_numpy().astype(np.int64)
