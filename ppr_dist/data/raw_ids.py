"""From indices back to the raw ids of a prepared data set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ppr_dist.arrays import Int64Array
from ppr_dist.data.remote import present
from ppr_dist.errors import UserError


def item_ids(data: Path) -> pa.Array:
    """Raw item ids in index order, [N]; strings as large_string, since more than 2 GiB of them may be taken."""
    with _named(data / "items.parquet") as path:
        return _large(pq.read_table(path, columns=["item_id"]).column(0))


class UserIds:
    """Raw user ids by index, a row group of users.parquet in memory at a time."""

    def __init__(self, data: Path) -> None:
        with _named(data / "users.parquet") as path:
            self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._group, self._ids = -1, pa.array([])

    def take(self, index: Int64Array) -> pa.Array:
        """Raw ids of the users ``index`` int64 [n]. Fast where calls go upwards."""
        groups = np.searchsorted(self._starts, index, side="right") - 1
        found = []
        ends = np.flatnonzero(np.diff(groups)) + 1
        for rows in np.split(np.arange(len(index)), ends) if len(index) else []:
            group = int(groups[rows[0]])
            if group != self._group:
                self._ids = _large(self._file.read_row_group(group, columns=["user_id"]).column(0))
                self._group = group
            found.append(self._ids.take(pa.array(index[rows] - self._starts[group])))
        return pa.concat_arrays(found) if found else self._ids.slice(0, 0)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[Path]:
    try:
        yield present(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _large(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    return column.combine_chunks()
