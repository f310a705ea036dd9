"""Find and open click logs and profiles: Parquet or CSV; a file, a glob or a folder of them.

Every complaint is a :class:`UserError` of one line that names the file.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from ppr_dist.data.prepare.folder import work_folder
from ppr_dist.errors import UserError

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A log or profile file set that was found and opened."""

    path: str
    """As the user wrote it; errors name it."""
    kind: str
    """``parquet`` or ``csv``."""
    table: str
    """SQL table expression."""
    columns: dict[str, str]
    """Column name to DuckDB type; in a CSV all are VARCHAR."""

    def require(self, column: str) -> None:
        if column not in self.columns:
            raise UserError(f"{self.path}: no column {column!r}; it has {', '.join(self.columns)}")


def identifier(name: str) -> str:
    """Quote a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def is_name(name: str) -> bool:
    """Whether what the user names (``--labels.NAME``) can be part of a file's or a column's name."""
    return name.replace("_", "").replace("-", "").isalnum()


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def is_nan(x: str) -> str:
    """SQL of whether a FLOAT or DOUBLE is not a number.

    Not ``isnan``: Parquet's statistics leave such values out, and by them DuckDB 2.0 takes it for false throughout.
    """
    return f"(NOT isfinite({x}) AND NOT isinf({x}))"


def first_row(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...] | None:
    """Return the first row of ``sql``, or None; the result is read to its end, which frees the connection."""
    rows: list[tuple[Any, ...]] = con.execute(sql).fetchall()
    return rows[0] if rows else None


def scalars(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    """Return the integers in the first row of ``sql`` (null counts as 0)."""
    return tuple(int(value or 0) for value in first_row(con, sql) or ())


def has_table(con: duckdb.DuckDBPyConnection, name: str) -> bool:
    return scalars(con, f"SELECT count(*) FROM duckdb_tables() WHERE table_name = {literal(name)}") == (1,)


@contextlib.contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn DuckDB's complaints while reading ``path`` into a :class:`UserError`; not those of memory and disk."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and "Could not write" in str(error):
            raise  # a full disk is no fault of what is read
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # DuckDB goes on with advice on its own options; only the place (line, file) is of use here.
        said = list(itertools.takewhile(lambda line: not line.startswith("Possible fixes"), lines[:3]))
        place = [line for line in lines[len(said) :] if line.startswith("file =")]
        raise UserError(f"{path}: cannot be read: {'; '.join(said + place)}") from error


def connect(path: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """Open a database that keeps rows in the order of the file (rowid is the row) and reads times in UTC."""
    con = duckdb.connect(path)
    con.execute("SET preserve_insertion_order = true; SET TimeZone = 'UTC'")
    return con


def limit_memory(con: duckdb.DuckDBPyConnection, spill: Path, limit: str | None) -> None:
    """Let DuckDB hold no more than ``limit`` (None: its own default) in memory, and spill the rest to a folder."""
    con.execute(f"SET temp_directory = {literal(str(spill))}")
    if limit is not None:
        try:
            con.execute(f"SET memory_limit = {literal(limit)}")
        except duckdb.Error as error:
            raise UserError(f"memory_limit: {limit!r} is not a size such as 4GB") from error


@contextlib.contextmanager
def work_database(folder: Path, temp_dir: str | None, memory_limit: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a database file, beside its spills in a work folder that is gone afterwards.

    The work folder lies in ``temp_dir``, or in ``folder``. Raises :class:`UserError` where memory or disk do not
    suffice.
    """
    parent = folder if temp_dir is None else Path(temp_dir)
    try:
        with work_folder(parent) as work, connect(str(work / "tables.duckdb")) as con:
            limit_memory(con, work / "spill", memory_limit)
            yield con
    except duckdb.OutOfMemoryException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"out of memory or temporary space; raise memory_limit or name another temp_dir ({reason})"
        ) from error
    except duckdb.IOException as error:
        raise UserError(f"{parent}: {str(error).splitlines()[0]}") from error


def open_source(con: duckdb.DuckDBPyConnection, path: str) -> Source:
    """Find the file, glob or folder ``path`` and read its columns."""
    files = _files(path)
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise UserError(f"{path}: holds both Parquet and CSV; name one kind with a glob")
    kind = kinds.pop()
    names = "[" + ", ".join(literal(str(file)) for file in files) + "]"
    if kind == "parquet":
        table = f"read_parquet({names}, union_by_name = true, hive_partitioning = false)"
    else:
        # Nothing is guessed from the first rows: comma-separated, with a header, every value text.
        types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in csv_header(path, files))
        table = (
            f"read_csv({names}, auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"',"
            f" hive_partitioning = false, columns = {{{types}}})"
        )
    with named_errors(path):
        rows = con.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    if kind == "parquet":
        _refuse_case_alone(str(files[0]), pq.read_schema(files[0]).names)
    return Source(path=path, kind=kind, table=table, columns={row[0]: row[1] for row in rows})


def _refuse_case_alone(file: str, names: list[str]) -> None:
    """Raise :class:`UserError` on columns that SQL does not tell apart (Parquet's second would become ``age_1``)."""
    for first, second in itertools.combinations(names, 2):
        if first.lower() == second.lower():
            raise UserError(f"{file}: columns {first!r} and {second!r} differ in case alone; rename one")


def _files(path: str) -> list[Path]:
    """Return the files of a file, folder or glob; parts below a folder that begin with . or _ are not data."""
    place = Path(path)
    if place.is_dir():
        found = [p for p in place.rglob("*") if p.is_file() and _kind(p) and not _hidden(p.relative_to(place))]
        root = place
    elif place.is_file():
        if not _kind(place):
            raise UserError(f"{path}: not a .parquet or .csv file")
        return [place]
    else:
        named = list(itertools.takewhile(lambda part: not glob.has_magic(part), place.parts))
        root = Path(*named)
        # A glob that spells such a part itself means it.
        spelt = any(part[0] in "._" for part in place.parts[len(named) :])
        found = [p for p in map(Path, glob.glob(path, recursive=True)) if _kind(p)]
        found = [p for p in found if spelt or not _hidden(p.relative_to(root))]
    for folder in sorted({root, *(parent for p in found for parent in p.parents if parent.is_relative_to(root))}):
        _refuse_table_format(folder)
    if not found:
        reason = "holds no .parquet or .csv file" if place.is_dir() else "no such file"
        raise UserError(f"{path}: {reason}")
    return sorted(found)


def _hidden(path: Path) -> bool:
    """Whether writers mean a part to be passed over: begins with . or _, and is no partition (``_day=3``)."""
    *folders, name = path.parts
    return name[0] in "._" or any(part[0] == "." or (part[0] == "_" and "=" not in part) for part in folders)


def _refuse_table_format(folder: Path) -> None:
    """Raise :class:`UserError` on a Delta or Iceberg table: its log says which of its files are current."""
    kind = "Delta" if (folder / "_delta_log").is_dir() else ""
    if any((folder / "metadata").glob("*.metadata.json")):
        kind = "Iceberg"
    if kind:
        raise UserError(
            f"{folder}: is a table of {kind}, whose files are not all current; export it as plain Parquet first"
        )


def csv_header(path: str, files: list[Path]) -> list[str]:
    """Return the column names, which every file must state in the same order."""
    headers = {}
    for file in files:
        opened = gzip.open if file.name.lower().endswith(".gz") else open
        try:
            with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
                headers[file] = next(csv.reader(text), [])
        except (OSError, csv.Error) as error:
            raise UserError(f"{file}: cannot be read: {error}") from error
        header = headers[file]
        if not header or "" in header or len(set(header)) < len(header):
            raise UserError(f"{file}: line 1 must name the columns, each once; it reads {','.join(header)!r}")
        _refuse_case_alone(str(file), header)
        if header != headers[files[0]]:
            raise UserError(f"{file}: its columns {', '.join(header)} differ from those of {files[0]}")
    return headers[files[0]]


def _kind(file: Path) -> str:
    name = file.name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "")
