"""Users from raw files, in the indices of a prepared catalogue: what ``recommend`` serves.

Shapes: n users, E clicks, A attributes.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from ppr_dist.data.manifest import VECTOR, Manifest
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.profiles import load_profiles, read_values, value_indices
from ppr_dist.data.prepare.sources import Source, connect, limit_memory, literal, named_errors, open_source, scalars
from ppr_dist.data.prepare.times import SECONDS, all_have_times
from ppr_dist.data.prepare.user_vectors import RawVectors
from ppr_dist.data.remote import present
from ppr_dist.data.stream.users import Users, attribute_names, to_users
from ppr_dist.errors import UserError

BLOCK = 16_384
"""Users of one record batch."""


@dataclasses.dataclass(frozen=True)
class RawUsers:
    """The users of a file, in its order, on disk: an Arrow file that every rank reads a part of."""

    path: Path
    """Record batches of BLOCK users: user (raw id), items (of the catalogue, oldest first), their times if any, a
    column per attribute, a vector if any."""
    attributes: tuple[str, ...]
    times: bool
    """Whether the file holds the time of each click."""
    users: int
    """Rows of the users file."""
    clicks: int
    """Clicks of these users in the log."""
    unknown_clicks: int
    """Those on items that the catalogue does not have; they are left out."""
    clickless: int
    """Users with no click left."""
    values: dict[str, int]
    """Users whose value of an attribute is given, by attribute."""
    unknown_values: dict[str, int]
    """Those whose value the catalogue does not have."""

    def read(self, start: int, stop: int) -> tuple[pa.Array, Users]:
        """Raw ids and clicks of users ``start`` … ``stop`` − 1; a user's index is the row in the users file."""
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            numbers = range(start // BLOCK, -(-stop // BLOCK)) if start < stop else range(1)
            table = pa.Table.from_batches([reader.get_batch(n) for n in numbers])
        table = table.slice(start - numbers.start * BLOCK, stop - start).combine_chunks()
        ids = table.column("user").combine_chunks()
        numbered = table.set_column(0, "user", pa.array(np.arange(start, stop)))
        return ids, to_users(numbered, self.attributes, times=self.times)


def load_raw_users(
    users: Path,
    interactions: Path | None,
    data: Path,
    manifest: Manifest,
    work: Path,
    memory_limit: str | None = None,
    user_vectors: Path | None = None,
) -> RawUsers:
    """Read profiles and clicks as ``prepare`` read those of ``data``: same columns, id types, order and buckets.

    Users may be new, and need no click. An attribute value that is null or was not seen by ``prepare`` is unknown
    (0). Clicks of users who are not in the users file are ignored. Where ``data`` has times, so have these clicks, of
    the same column in the same unit; if one of them is null, none has a time, and a warning says so.

    Args:
        work: folder for the result and for what DuckDB keeps on the way; memory_limit: DuckDB's, such as 4GB;
        user_vectors: file of vectors of users, where ``data`` has some.

    Raises :class:`UserError` of one line on a file or column that is missing or of the wrong type, a users file
    that is empty or names a user twice, an interactions file that is empty, and too little memory or disk.
    """
    config = PrepareConfig(**manifest.settings)
    work.mkdir(parents=True, exist_ok=True)
    database = work / "tables.duckdb"
    try:
        with connect(str(database)) as con:
            limit_memory(con, work / "spill", memory_limit)
            profiles = open_source(con, str(users))
            _require_ids(con, profiles, {config.user_column: manifest.user_id_type}, data, "users")
            kinds = {attribute.name: attribute.kind for attribute in manifest.attributes}
            load_profiles(con, profiles, config.user_column, manifest.user_id_type, kinds)
            read_values(con, data)
            con.execute(f"CREATE TABLE people AS {value_indices(manifest.attributes)} ORDER BY row")
            con.execute("CREATE TABLE clicks(user_row BIGINT, item_index BIGINT, time BIGINT)")
            if interactions is not None:
                log = open_source(con, str(interactions))
                ids_of = {config.user_column: manifest.user_id_type, config.item_column: manifest.item_id_type}
                _require_ids(con, log, ids_of, data, "interactions")
                logs.load_interactions(con, log, config, manifest.user_id_type, manifest.item_id_type)
                _load_clicks(con, data)
            known = "(SELECT time FROM clicks WHERE item_index >= 0)"
            times = manifest.times and all_have_times(con, known, config.time_column or "", str(interactions))
            vectors = None
            if user_vectors is not None:
                vectors = _load_vectors(con, user_vectors, config.user_column, manifest, data)
            return _write(con, work / "users.arrow", manifest, times, vectors)
    except (duckdb.OutOfMemoryException, duckdb.IOException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{work}: out of memory or disk; raise --memory-limit or make room ({reason})") from error
    finally:
        database.unlink(missing_ok=True)
        shutil.rmtree(work / "spill", ignore_errors=True)


def _load_vectors(
    con: duckdb.DuckDBPyConnection, path: Path, column: str, manifest: Manifest, data: Path
) -> RawVectors:
    """Raises :class:`UserError` where they are of another width than those of ``data``."""
    vectors = RawVectors(con, str(path), column, manifest.user_id_type)
    found = manifest.user_vectors.columns if manifest.user_vectors else 0
    if vectors.columns != found:
        raise UserError(f"{path}: vectors of {vectors.columns} numbers, and {data} has {found or 'none'}")
    vectors.index("row")
    return vectors


def _write(
    con: duckdb.DuckDBPyConnection, path: Path, manifest: Manifest, times: bool, vectors: RawVectors | None
) -> RawUsers:
    """Write ``people`` and ``clicks`` as record batches, a range of users at a time."""
    names = attribute_names(manifest)
    integer = pa.int64()
    schema = pa.schema(
        [
            ("user", pa.large_string() if manifest.user_id_type == "string" else integer),
            ("items", pa.large_list(integer)),
            *([("times", pa.large_list(integer))] if times else []),
            *((name, integer) for name in names),
            *([(VECTOR, pa.list_(pa.float16(), vectors.columns))] if vectors else []),
        ]
    )
    (count,) = scalars(con, "SELECT count(*) FROM people")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for low in range(0, count, BLOCK):
            ranges = f">= {low} AND {{0}} < {low + BLOCK}"
            people = _fetch(con, f"SELECT * FROM people WHERE row {ranges.format('row')} ORDER BY row")
            clicks = _fetch(
                con,
                f"SELECT user_row, item_index, time FROM clicks WHERE user_row {ranges.format('user_row')}"
                " AND item_index >= 0 ORDER BY rowid",
            )
            counts = np.bincount(clicks["user_row"].to_numpy() - low, minlength=people.num_rows)
            offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]))
            of_clicks = {"items": "item_index", "times": "time"} if times else {"items": "item_index"}
            columns = {"user": people["user_id"]}
            for name, column in of_clicks.items():
                columns[name] = pa.LargeListArray.from_arrays(offsets, clicks[column].combine_chunks())
            columns |= {name: people[f"a{k}"] for k, name in enumerate(names)}
            if vectors:
                columns[VECTOR] = vectors.of(np.arange(low, low + people.num_rows))
            writer.write_table(pa.table(columns).cast(schema))
    clicks, unknown, clicking = scalars(
        con,
        "SELECT count(*), count(*) FILTER (item_index < 0), count(DISTINCT user_row) FILTER (item_index >= 0)"
        " FROM clicks",
    )
    given = scalars(con, f"SELECT {', '.join(f'count(a{k})' for k in range(len(names))) or 0} FROM raw_profile")
    found = ", ".join(f"count(*) FILTER (a{k} > 0)" for k in range(len(names)))
    known = scalars(con, f"SELECT {found or 0} FROM people")
    return RawUsers(
        path=path,
        attributes=names,
        times=times,
        users=count,
        clicks=clicks,
        unknown_clicks=unknown,
        clickless=count - clicking,
        values=dict(zip(names, given, strict=False)),
        unknown_values={name: all_ - some for name, all_, some in zip(names, given, known, strict=False)},
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


def _load_clicks(con: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Fill ``clicks``: row of the user, item or −1, Unix seconds or null; user after user, oldest first."""
    table = present(data / "items.parquet")
    with named_errors(str(table)):
        con.execute(
            "INSERT INTO clicks SELECT p.row AS user_row, coalesce(i.item_index, -1) AS item_index,"
            f" {SECONDS} AS time"
            " FROM log JOIN people p ON log.user_id = p.user_id"
            f" LEFT JOIN read_parquet({literal(str(table))}) i ON log.item_id = i.item_id"
            " ORDER BY p.row, log.nth"
        )


def _fetch(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    return con.sql(sql).to_arrow_table()
