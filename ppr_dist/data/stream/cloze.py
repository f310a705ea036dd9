"""Masked items (Cloze): how a model whose states know of later clicks is trained, and how it is asked.

Shapes: B users, E clicks of all of them, T rows of all histories.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch
from ppr_dist.data.counter_random import bits, uniform
from ppr_dist.data.stream.padding import ragged_arange, rebucket

_MASK, _LAST = 41, 42  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cloze:
    """Which clicks of a sequence are masked, to be told from all others (BERT4Rec §3.6)."""

    mask: float
    """Share of the clicks, at least one."""
    last: float
    """Probability that the last click alone is masked, which is what the model is asked later."""

    def masked(self, counts: Int64Array, seed: int, epoch: int, users: Int64Array) -> npt.NDArray[np.bool_]:
        """Which clicks of ``users`` (index [B]) are masked, bool [E]; ``counts``: clicks of each, [B]."""
        row, position = ragged_arange(counts)
        many = np.maximum(np.rint(self.mask * counts).astype(np.int64), 1)
        draws = bits(seed, _MASK, epoch, users[row], position)
        order = np.lexsort((draws, row))
        place = np.empty(len(row), np.int64)
        place[order] = position  # rows stand together, and so do they in order
        last = (uniform(seed, _LAST, epoch, users) < self.last)[row]
        masked: npt.NDArray[np.bool_] = np.where(last, position == counts[row] - 1, place < many[row])
        return masked


def ask_by_mask(batch: Batch) -> Batch:
    """``batch`` on the host, in which each sequence ends in a mask whose state is its user's.

    Each sequence must be asked after all of its clicks alone, as evaluation does it: such a model's states know of all
    clicks of a sequence. Raises ``ValueError`` where an earlier context is asked.
    """
    history = batch.history
    if not torch.equal(batch.context_lengths, history.lengths[batch.user_rows]):
        raise ValueError("a model whose states know of later clicks was asked before them")
    lengths = history.lengths + 1
    masked = torch.zeros(len(history.items) + len(lengths), dtype=torch.bool)
    masked[lengths.cumsum(0) - 1] = True
    items = torch.zeros(len(masked), dtype=torch.int64)
    items[~masked] = history.items
    buckets = rebucket(history.buckets, lengths.numpy())
    # A mask has no time, so no such model may read times.
    longer = dataclasses.replace(
        history, items=items, lengths=lengths, buckets=buckets, masked=masked, times=None, asked_at=None
    )
    return dataclasses.replace(batch, history=longer, context_lengths=batch.context_lengths + 1)
