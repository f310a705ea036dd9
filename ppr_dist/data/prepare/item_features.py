"""Vectors of items from any source, put in the order of item indices.

A Parquet file with the id column and a column of lists (or numeric columns), or a .npy array whose row n is of item n.
Shapes: N items of the catalogue, F numbers of a vector.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt

from ppr_dist.data.manifest import CODES, TOKENS, ItemData, item_data_file
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.sources import Source, first_row, identifier, named_errors, open_source, scalars
from ppr_dist.errors import UserError

AT_ONCE = 65_536
"""Rows held in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemFeatures:
    """Vectors of items that were found and checked; ``features_of_NAME(item_id, vector)`` in DuckDB, or a file."""

    name: str
    path: str
    columns: int
    """F."""
    array: npt.NDArray[np.generic] | None = None
    """Memory map of a .npy file."""

    @property
    def ids(self) -> str:
        """SQL of the items that have a vector."""
        if self.array is not None:
            return f"SELECT range AS item_id FROM range({len(self.array)})"
        return f"SELECT item_id FROM {self.table}"

    @property
    def table(self) -> str:
        return identifier(f"features_of_{self.name}")

    def write(self, con: duckdb.DuckDBPyConnection, folder: Path, items: int) -> ItemData:
        """Write ``item_data.NAME.npy`` for the ``items`` of the table ``items``; a vector of zeros where there is none.

        Raises :class:`UserError` on numbers that are not finite in half precision.
        """
        shape = (items, self.columns)
        out = np.lib.format.open_memmap(folder / item_data_file(self.name), mode="w+", dtype=np.float16, shape=shape)
        vector = "i.item_id" if self.array is not None else "f.vector"
        join = f"JOIN {self.table} f ON i.item_id = f.item_id" if self.array is None else ""
        reader = con.sql(f"SELECT i.item_index, {vector} FROM items i {join}").to_arrow_reader(AT_ONCE)
        for batch in reader:
            rows = batch.column(0).to_numpy()
            if self.array is not None:
                ids = batch.column(1).to_numpy()
                there = (ids >= 0) & (ids < len(self.array))
                rows, found = rows[there], np.asarray(self.array[ids[there]])
            else:
                found = batch.column(1).flatten().to_numpy(zero_copy_only=False).reshape(-1, self.columns)
            with np.errstate(over="ignore"):
                half = found.astype(np.float16)
            if not np.isfinite(half).all():
                raise UserError(f"{self.path}: a number that is not finite in half precision (beyond 65,504, or NaN)")
            out[rows] = half
        out.flush()
        return describe(out, "features")


def describe(array: npt.NDArray[np.float16], kind: Literal["features", "codes", "tokens"], values: int = 0) -> ItemData:
    """What the manifest says of what is known of items, [N, F]."""
    digest, known = hashlib.sha256(), 0
    for start in range(0, len(array), AT_ONCE):
        part = np.ascontiguousarray(array[start : start + AT_ONCE])
        digest.update(part.tobytes())
        known += int((part != 0).any(axis=1).sum())
    return ItemData(kind=kind, columns=array.shape[1], known=known, sha256=digest.hexdigest(), values=values)


def open_features(con: duckdb.DuckDBPyConnection, name: str, path: str, column: str, item_type: str) -> ItemFeatures:
    """Find and check the vectors of items; ``column``: of the item id.

    Raises :class:`UserError` naming the file, where ids are missing, twice or of another type than in the log
    (``item_type``), and where vectors are not all of one length.
    """
    if not name.replace("_", "").replace("-", "").isalnum() or name in ("id", CODES, TOKENS):
        raise UserError(f"--item-features.{name}: a name of letters, digits, - and _, other than id, codes and tokens")
    if path.endswith(".npy"):
        return _open_array(name, path, item_type)
    source = open_source(con, path)
    types = logs.id_types(con, source, column)
    if item_type not in types:
        raise UserError(f"{path}: item ids are {types[0]}, but {item_type} in the log")
    features = ItemFeatures(name=name, path=path, columns=0)
    item = f"CAST({identifier(column)} AS {logs.SQL_TYPES[item_type]})"
    with named_errors(path):
        con.execute(
            f"CREATE TABLE {features.table} AS SELECT {item} AS item_id, {_vector(source, column)} AS vector"
            f" FROM {source.table}"
        )
    table = features.table
    check_ids(con, table, path)
    rows, vectors, shortest, longest = scalars(
        con, f"SELECT count(*), count(vector), min(len(vector)), max(len(vector)) FROM {table}"
    )
    if vectors < rows:
        raise UserError(f"{path}: {rows - vectors:,} of {rows:,} rows have no vector")
    if shortest != longest or not longest:
        raise UserError(f"{path}: vectors are of {shortest} to {longest} numbers; all must be of one length")
    if scalars(con, f"SELECT count(*) FROM {table} WHERE list_count(vector) < len(vector)")[0]:
        raise UserError(f"{path}: a vector holds null")
    return dataclasses.replace(features, columns=longest)


def check_ids(con: duckdb.DuckDBPyConnection, table: str, path: str) -> None:
    """Raise :class:`UserError` naming the file where ``table`` has no item, one without an id, or one twice."""
    rows, ids = scalars(con, f"SELECT count(*), count(item_id) FROM {table}")
    if not rows:
        raise UserError(f"{path}: no items in it")
    if ids < rows:
        raise UserError(f"{path}: {rows - ids:,} of {rows:,} rows have no id")
    twice = first_row(con, f"SELECT item_id FROM {table} GROUP BY item_id HAVING count(*) > 1 LIMIT 1")
    if twice:
        raise UserError(f"{path}: item {twice[0]!r} stands there more than once")


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


def _open_array(name: str, path: str, item_type: str) -> ItemFeatures:
    if item_type != "int64":
        raise UserError(f"{path}: row n of a .npy file is item n, but item ids are text in the log; write Parquet")
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise UserError(f"{path}: {array.shape} {array.dtype}; features are numbers of shape [items, width]")
    return ItemFeatures(name=name, path=path, columns=array.shape[1], array=array)
