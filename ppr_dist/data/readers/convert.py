"""Run a reader: published files → a folder of what ``prepare`` reads, whole or not at all.

Out of core in DuckDB, straight from the published files into Parquet; what was written is checked before the folder
appears.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import duckdb

from ppr_dist.data.prepare.folder import new_folder, work_folder
from ppr_dist.data.prepare.sources import first_row, identifier, literal, named_errors, scalars, work_database
from ppr_dist.data.readers.base import Log, Raw, Reader
from ppr_dist.errors import UserError

SUMMARY = "converted.json"
"""Beside the tables: which data set it was, its terms, and what was read and left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written; the file ``converted.json``."""

    reader: str
    """Its name."""
    page: str
    """Where the data is published."""
    terms: str
    """Under which terms; they hold for what was written too."""
    clicks: int
    """Rows of interactions.parquet."""
    users: int
    """Users with a click."""
    items: int
    """Items with a click."""
    tables: dict[str, int]
    """Rows of every file, by name."""
    columns: dict[str, list[str]]
    """Columns of every file, by name."""
    left_out: dict[str, int]
    """What of the files is in none of these, in rows."""


def convert(
    name: str,
    reader: Reader,
    raw: Path,
    out: Path,
    *,
    min_rating: float | None = None,
    overwrite: bool = False,
    memory_limit: str | None = None,
    temp_dir: str | None = None,
) -> Converted:
    """Write what ``reader`` reads in ``raw`` to the folder ``out``.

    Args:
        min_rating: leave out clicks with a lower rating; None = keep all. For data sets with ratings.
        overwrite: replace a folder that was converted before.
        memory_limit: what DuckDB may hold in memory, such as 4GB; None = its own default.
        temp_dir: folder for spills and unpacked files; None = in ``out``.

    Raises :class:`UserError` on wrong or missing files, in one line that says where the data is published; then
    nothing is left behind.
    """
    if Path(os.path.realpath(raw)).is_relative_to(os.path.realpath(out)):
        raise UserError(f"{raw}: lies inside --out {out}, which would be replaced")
    with (
        new_folder(out, overwrite=overwrite, marker=SUMMARY) as folder,
        work_folder(folder if temp_dir is None else Path(temp_dir)) as unpacked,
        work_database(folder, temp_dir, memory_limit) as con,
    ):
        try:
            log = reader.read(Raw(raw, con, unpacked))
            if min_rating is not None:
                log = _rated(con, log, raw, min_rating)
            result = _write(con, name, reader, log, raw, folder)
        except UserError as error:
            raise UserError(f"{error}; {reader.published()}") from error
        (folder / SUMMARY).write_text(json.dumps(dataclasses.asdict(result), indent=2, ensure_ascii=False) + "\n")
    return result


def _write(
    con: duckdb.DuckDBPyConnection,
    name: str,
    reader: Reader,
    log: Log,
    raw: Path,
    folder: Path,
) -> Converted:
    tables, columns = {}, {}
    queries = {"interactions": log.interactions, "users": log.users, "items": log.items, **log.more}
    for table, query in queries.items():
        if query is None:
            continue
        file = folder / f"{table}.parquet"
        with named_errors(str(raw)):
            con.execute(f"COPY ({query}) TO {literal(str(file))} (FORMAT parquet)")
        con.execute(f"CREATE VIEW {identifier(table)} AS SELECT * FROM read_parquet({literal(str(file))})")
        columns[table] = [row[0] for row in con.execute(f"DESCRIBE {identifier(table)}").fetchall()]
        (tables[table],) = scalars(con, f"SELECT count(*) FROM {identifier(table)}")
    _check_clicks(con, raw, columns["interactions"], tables["interactions"])
    for table, key in (("users", "user_id"), ("items", "item_id")):
        if table in tables:
            _check_keys(con, raw, table, key)
    users, items = scalars(con, "SELECT count(DISTINCT user_id), count(DISTINCT item_id) FROM interactions")
    counts = {}
    for said, query in log.left_out.items():
        with named_errors(str(raw)):
            (counts[said],) = scalars(con, query)
    return Converted(
        reader=name,
        page=reader.page,
        terms=reader.terms,
        clicks=tables["interactions"],
        users=users,
        items=items,
        tables=tables,
        columns=columns,
        left_out={said: count for said, count in counts.items() if count},
    )


def _rated(con: duckdb.DuckDBPyConnection, log: Log, raw: Path, least: float) -> Log:
    """Return ``log`` without the clicks rated below ``least``, which it counts."""
    with named_errors(str(raw)):
        names = [row[0] for row in con.execute(f"DESCRIBE {log.interactions}").fetchall()]
    if "rating" not in names:
        raise UserError("--min-rating: the data set has no ratings")
    kept, clicks = f"coalesce(rating >= {least}, false)", f"FROM ({log.interactions})"
    lower = {f"clicks not rated {least:g} or more": f"SELECT count(*) {clicks} WHERE NOT {kept}"}
    return dataclasses.replace(log, interactions=f"SELECT * {clicks} WHERE {kept}", left_out={**log.left_out, **lower})


def _check_clicks(con: duckdb.DuckDBPyConnection, raw: Path, names: list[str], rows: int) -> None:
    """Raise :class:`UserError` where there is no click, or one without a user, an item or a place in the order."""
    if not rows:
        raise UserError(f"{raw}: no click in it")
    order = "position" if "position" in names else "timestamp"
    known = scalars(con, f"SELECT count(user_id), count(item_id), count({order}) FROM interactions")
    for column, count in zip(("user_id", "item_id", order), known, strict=True):
        if count < rows:
            raise UserError(f"{raw}: {rows - count:,} of {rows:,} clicks have no {column}")


def _check_keys(con: duckdb.DuckDBPyConnection, raw: Path, table: str, key: str) -> None:
    """Raise :class:`UserError` where a user or item has no id, or several rows."""
    wrong = first_row(
        con,
        f"SELECT {key}, count(*) FROM {table} GROUP BY {key} HAVING {key} IS NULL OR count(*) > 1 ORDER BY 1 LIMIT 1",
    )
    if wrong is not None:
        said = f"{key} {wrong[0]!r} has {wrong[1]} rows" if wrong[0] is not None else f"{wrong[1]:,} rows have no {key}"
        raise UserError(f"{raw}: among the {table} {said}")
