"""Items as short sequences of codes, numbered from training clicks alone.

Along whole sequences (as P5's public code numbers items) a held-out item that nobody clicked before it stands beside
its user's other items, and its number gives it away. Here, as in OpenP5 (Xu et al., SIGIR 2024), items of the training
clicks come first, and those that they do not hold follow in an order by hash.
Shapes: N items, L codes of each (from 0 at each level; no two items have the same), E training clicks, F width of
vectors that are clustered.
"""

from __future__ import annotations

import numpy as np
import torch

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import bits, permutation, uniform
from ppr_dist.data.prepare.item_codes import Float32Array, k_means, nearest

_ORDER, _START = 61, 62  # what a draw is for, as a word of its key
WIDTH, ROUNDS = 64, 8
"""Of the vectors that are clustered; of the iteration that finds them."""


def random_numbers(items: int, seed: int) -> Int64Array:
    """Item numbers 0 … N − 1 that say nothing, int64 [N]."""
    return permutation(items, seed, _ORDER)


def numbers_by_first_click(clicks: Int64Array, items: int, seed: int) -> Int64Array:
    """Item numbers in the order of their first click, int64 [N] (OpenP5's sequential indexing).

    ``clicks``: items int64 [E], user after user. Items without one follow in an order by hash.
    """
    found, where = np.unique(clicks, return_index=True)
    first = np.full(items, len(clicks))
    first[found] = where
    numbers = np.empty(items, np.int64)
    numbers[np.lexsort((bits(seed, _ORDER, np.arange(items)), first))] = np.arange(items)
    return numbers


def digits(numbers: Int64Array, values: int) -> Int64Array:
    """Numbers [N] as digits of base ``values``, the highest first, as few as tell all of them apart: [N, L]."""
    levels = 1
    while values**levels < len(numbers):
        levels += 1
    codes: Int64Array = numbers[:, None] // values ** np.arange(levels)[::-1] % values
    return codes


def collaborative_codes(users: Int64Array, clicks: Int64Array, items: int, values: int, seed: int) -> Int64Array:
    """Residual k-means of :func:`spectral_vectors`, and a last code that tells apart items whose others agree.

    As many codes as :func:`digits` has, two at least. OpenP5 clusters the same graph again and again by its spectrum.
    """
    numbers = numbers_by_first_click(clicks, items, seed)
    levels = max(2, digits(numbers, values).shape[1])
    left, rng = spectral_vectors(users, clicks, items, seed), np.random.default_rng(seed)
    codes = np.zeros((items, levels), np.int64)
    for level in range(levels - 1):
        centres = k_means(left, min(values, items), rng)
        codes[:, level] = nearest(left, centres)
        left = left - centres[codes[:, level]]
    order = np.lexsort((numbers, *codes[:, :-1].T[::-1]))
    new = np.ones(items, bool)
    new[1:] = (codes[order[1:], :-1] != codes[order[:-1], :-1]).any(axis=1)
    codes[order, -1] = np.arange(items) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return codes


def spectral_vectors(users: Int64Array, clicks: Int64Array, items: int, seed: int) -> Float32Array:
    """Rows of the normalised graph of items that the same users click, in the space of its leading eigenvectors.

    Float32 [N, F], each of length 1, 0 for items without a click. ``users``: of each click, from 0, int64 [E].
    """
    pairs = np.unique(np.stack([users, clicks]), axis=1)
    degrees = [np.bincount(each, minlength=1)[each] for each in pairs]
    weights = torch.from_numpy(1 / np.sqrt(degrees[0] * degrees[1]))
    shape = int(users.max(initial=0)) + 1, items
    graph = torch.sparse_coo_tensor(torch.from_numpy(pairs), weights, shape, check_invariants=False).coalesce()
    back = graph.t().coalesce()
    width = min(WIDTH, items)
    x = torch.from_numpy(uniform(seed, _START, np.arange(items)[:, None], np.arange(width)) - 0.5)
    for _ in range(ROUNDS):
        x = back @ (graph @ torch.linalg.qr(x)[0])
    vectors: Float32Array = torch.nn.functional.normalize(x, dim=1).float().numpy()
    return vectors
