"""What is known of each item, as ``prepare`` wrote it: memory maps, read once by every rank for its own part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppr_dist.data.manifest import Manifest, item_data_file
from ppr_dist.data.remote import present
from ppr_dist.errors import UserError


def read_item_data(folder: Path, manifest: Manifest, names: Iterable[str]) -> dict[str, npt.NDArray[np.float16]]:
    """Float16 [items, columns] of each name. Raises :class:`UserError` where a file is not what the manifest says."""
    return {name: _read(present(folder / item_data_file(name)), manifest, name) for name in names}


def _read(path: Path, manifest: Manifest, name: str) -> npt.NDArray[np.float16]:
    try:
        array: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; run prepare again ({str(error).splitlines()[0]})") from error
    shape = manifest.items, manifest.item_data[name].columns
    if array.shape != shape or array.dtype != np.float16:
        raise UserError(f"{path}: {array.shape} {array.dtype}, not {shape} float16; run prepare again")
    return array
