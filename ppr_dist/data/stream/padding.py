"""Users of similar length together, so that attention, the one place that pads, pads little.

Everything else in the transformer runs over real tokens alone. Users of one batch are only reordered, never exchanged
between batches, so nothing that is trained is biased.
"""

from __future__ import annotations

import numpy as np

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Bucket

FULL = 0.95
"""A bucket ends where a history would fill less than this share of its slots …"""
BUCKET_TOKENS = 256
"""… once it holds this many tokens; as many tokens of one length are a bucket of their own, with no padding at all."""


def ragged_arange(counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return (row, 0 … counts[row] − 1) for every row, concatenated."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def bucket_by_length(lengths: Int64Array, bucket_tokens: int | None = None) -> tuple[Bucket, ...]:
    """Cut users in descending order of length, int64 [B], into buckets: at least one, of a width of at least 1."""
    if not len(lengths):
        return (Bucket(sequences=0, tokens=0, width=1),)
    wanted, first = bucket_tokens or BUCKET_TOKENS, 0
    buckets: list[Bucket] = []
    # Python's own numbers: numpy's calls would make up a tenth of the work on a batch.
    longer = (len(lengths) - np.cumsum(np.bincount(lengths))).tolist()  # longer[l]: users with more than l items
    tokens = [0, *np.cumsum(lengths).tolist()]
    while first < len(lengths):
        width = max(1, tokens[first + 1] - tokens[first])
        last = longer[width - 1]
        if (last - first) * width < wanted:
            last = min(len(lengths), max(longer[int(FULL * width)], first + -(-wanted // width)))
        buckets.append(Bucket(sequences=last - first, tokens=tokens[last] - tokens[first], width=width))
        first = last
    return tuple(buckets)


def rebucket(buckets: tuple[Bucket, ...], lengths: Int64Array) -> tuple[Bucket, ...]:
    """The same users in the same buckets with other lengths, int64 [B]."""
    parts = np.split(lengths, np.cumsum([bucket.sequences for bucket in buckets])[:-1])
    return tuple(Bucket(len(part), int(part.sum()), max(1, int(part.max(initial=0)))) for part in parts)
