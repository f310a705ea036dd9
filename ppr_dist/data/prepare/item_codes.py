"""Codes of items by residual quantisation: k-means of the features, then of what each level leaves over.

Shapes: N items, F numbers of each, C codes of a level.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppr_dist.data.manifest import CODES, ItemData, item_data_file
from ppr_dist.data.prepare.item_features import AT_ONCE, describe

Float32Array = npt.NDArray[np.float32]
SAMPLE_PER_CODE = 256
"""Items per code that centres are found from, as FAISS has it by default."""
ROUNDS = 20


def write_codes(folder: Path, features: list[npt.NDArray[np.float16]], levels: int, codes: int, seed: int) -> ItemData:
    """Write ``item_data.codes.npy``, float16 [N, levels]: codes 1 … ``codes``, 0 for items without features.

    ``features``: arrays [N, F] that are joined.
    """
    items = len(features[0])
    known = np.concatenate([(part != 0).any(axis=1) for _, part in _parts(features)])
    rows, rng = np.flatnonzero(known), np.random.default_rng(seed)
    rows = np.sort(rng.choice(rows, min(len(rows), SAMPLE_PER_CODE * codes), replace=False))
    sample = np.concatenate([array[rows] for array in features], axis=1).astype(np.float32)
    centres = []
    for _ in range(levels):
        centres.append(k_means(sample, codes, rng))
        sample = sample - centres[-1][nearest(sample, centres[-1])]
    shape = (items, levels)
    out = np.lib.format.open_memmap(folder / item_data_file(CODES), mode="w+", dtype=np.float16, shape=shape)
    for first, part in _parts(features):
        for level, of_level in enumerate(centres):
            found = nearest(part, of_level)
            out[first : first + len(part), level] = np.where(known[first : first + len(part)], found + 1, 0)
            part = part - of_level[found]
    out.flush()
    return describe(out, "codes", values=codes)


def k_means(x: Float32Array, codes: int, rng: np.random.Generator) -> Float32Array:
    """Centres [C, F] of rows [n, F]: Lloyd's rounds from k-means++ (Arthur & Vassilvitskii, SODA 2007).

    A centre that has no row moves to one that lies far from its own. Fewer rows than centres leave some without any.
    """
    if not len(x):
        return np.zeros((codes, x.shape[1]), np.float32)
    centres = x[rng.integers(len(x), size=codes)]
    left = ((x - centres[0]) ** 2).sum(1)
    for code in range(1, codes):
        if left.any():
            centres[code] = x[np.searchsorted(np.cumsum(left, dtype=np.float64), rng.random() * left.sum(dtype=float))]
            left = np.minimum(left, ((x - centres[code]) ** 2).sum(1))
    for _ in range(ROUNDS if len(x) > codes else 0):
        mine = nearest(x, centres)
        counts = np.bincount(mine, minlength=codes)
        sums = np.zeros(centres.shape)
        np.add.at(sums, mine, x)
        centres = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        far = np.argsort(-((x - centres[mine]) ** 2).sum(1), kind="stable")[: len(empty)]
        centres[empty] = x[far]
    return centres


def nearest(x: Float32Array, centres: Float32Array) -> npt.NDArray[np.int64]:
    """Number of the centre nearest to each row, int64 [n]; a block of rows at a time."""
    squared = (centres**2).sum(1)
    blocks = np.array_split(x, -(-len(x) // 4_096) or 1)
    return np.concatenate([(squared - 2 * block @ centres.T).argmin(1) for block in blocks])


def _parts(features: list[npt.NDArray[np.float16]]) -> Iterator[tuple[int, Float32Array]]:
    for first in range(0, len(features[0]), AT_ONCE):
        part = [array[first : first + AT_ONCE] for array in features]
        yield first, np.concatenate(part, axis=1).astype(np.float32)
