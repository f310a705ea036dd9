"""Each item's share of the training clicks, as a memory map: 4 bytes per item, once for all processes of a machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ppr_dist.arrays import Int64Array
from ppr_dist.data.remote import present
from ppr_dist.errors import UserError

Counted = Literal["train", "tune"]
COUNTED: tuple[Counted, ...] = ("train", "tune")


def write_item_shares(folder: Path) -> None:
    """Write ``train_share.npy`` and ``tune_share.npy`` from the counts in ``items.parquet``, a part at a time."""
    for counted in COUNTED:
        with pq.ParquetFile(folder / "items.parquet") as file:
            column, rows = f"{counted}_count", file.metadata.num_rows
            clicks = sum(int(part.column(0).to_numpy().sum()) for part in file.iter_batches(columns=[column]))
            out = np.lib.format.open_memmap(_path(folder, counted), mode="w+", dtype=np.float32, shape=(rows,))
            first = 0
            for part in file.iter_batches(columns=[column]):
                out[first : first + len(part)] = part.column(0).to_numpy() / max(clicks, 1)
                first += len(part)
            out.flush()


class ItemShares:
    """Shares float32 [items] on disk; indexing with ids reads those alone. Travels to another process as a path."""

    def __init__(self, folder: Path, counted: Counted, items: int) -> None:
        """Raises :class:`UserError` where the file is absent, damaged, or of another catalogue."""
        self.folder, self.counted, self.items = folder, counted, items
        path = present(_path(folder, counted))
        try:
            self._shares = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read; run prepare again ({str(error).splitlines()[0]})") from error
        if self._shares.shape != (items,) or self._shares.dtype != np.float32:
            raise UserError(f"{path}: {self._shares.shape} {self._shares.dtype}, not {items} shares; run prepare again")

    def __getitem__(self, ids: Int64Array) -> npt.NDArray[np.float32]:
        """Shares of ``ids``, float32 in their shape."""
        return np.asarray(self._shares[ids])

    def __reduce__(self) -> tuple[Any, ...]:
        return ItemShares, (self.folder, self.counted, self.items)


@dataclasses.dataclass(frozen=True)
class MixedShares:
    """Shares among the clicks of several splits together."""

    parts: tuple[tuple[ItemShares, float], ...]
    """Shares in each split, and the split's share of the clicks."""

    def __getitem__(self, ids: Int64Array) -> npt.NDArray[np.float32]:
        """As :class:`ItemShares`."""
        mixed = sum(np.float32(weight) * shares[ids] for shares, weight in self.parts)
        return np.asarray(mixed, np.float32)


def _path(folder: Path, counted: Counted) -> Path:
    return folder / f"{counted}_share.npy"
