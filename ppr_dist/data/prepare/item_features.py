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
from ppr_dist.data.prepare.sources import identifier, is_name
from ppr_dist.data.prepare.vectors import in_half_precision, load_vectors
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
            out[rows] = in_half_precision(found, self.path)
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

    Raises :class:`UserError` on another name than an item feature can have, and as :func:`load_vectors`.
    """
    if not is_name(name) or name in ("id", CODES, TOKENS):
        raise UserError(f"--item-features.{name}: a name of letters, digits, - and _, other than id, codes and tokens")
    if path.endswith(".npy"):
        return _open_array(name, path, item_type)
    features = ItemFeatures(name=name, path=path, columns=0)
    columns = load_vectors(con, path, features.table, column, item_type, "item")
    return dataclasses.replace(features, columns=columns)


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
