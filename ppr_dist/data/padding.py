"""Ragged histories in padded groups: users of like length together, so that almost every slot is real.

Users of one batch are only reordered, never exchanged between batches, so nothing that is trained is biased.
Shapes: B users in order of falling length, T tokens, group g of B_g users padded to L_g.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ppr_dist.data.users import Int64

FULL = 0.95
"""A group ends where a history would fill less than this share of its slots …"""
GROUP_TOKENS = 1024
"""… once it holds this many tokens. On one core, d 64: 33 k positions/s, against 28 k with 256 and 27 k with 4,096."""


def ragged_arange(counts: Int64) -> tuple[Int64, Int64]:
    """Return (row, 0 … counts[row] − 1) for every row, concatenated."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclasses.dataclass(frozen=True)
class PaddedHistories:
    """Where each token of a ragged batch goes."""

    ids: Int64
    """Tokens of all users, user after user, [T]."""
    lengths: Int64
    """Tokens of each user, [B]."""
    bounds: tuple[tuple[int, int, int], ...]
    """(first user, last user + 1, L_g) of each group."""
    first_slot: Int64
    """Number of each user's slot 0, [B]; a group has B_g·(L_g + 1) slots."""

    def groups(self, rows: Int64) -> tuple[Tensor, ...]:
        """Lay ``rows`` (one per token, [T]) out as [B_g, L_g], zeros behind each history."""
        return tuple(self._groups(rows))

    def _groups(self, rows: Int64) -> Iterator[Tensor]:
        ends = np.cumsum(self.lengths)
        for first, last, width in self.bounds:
            lengths = self.lengths[first:last]
            padded = np.zeros((last - first, width), np.int64)
            start = ends[first] - lengths[0] if last > first else 0
            padded[np.arange(width) < lengths[:, None]] = rows[start : start + lengths.sum()]
            yield torch.from_numpy(padded)


def pad_histories(items: Int64, starts: Int64, lengths: Int64, group_tokens: int | None = None) -> PaddedHistories:
    """Cut histories ``items[starts : starts + lengths]``, lengths falling, and group them: ≥ 1 group, L_g ≥ 1."""
    row, position = ragged_arange(lengths)
    bounds: list[tuple[int, int, int]] = []
    first_slot, first, slots = np.zeros(len(lengths), np.int64), 0, 0
    while first < len(lengths) or not bounds:
        width = max(1, int(lengths[first])) if len(lengths) else 1
        last = int(np.searchsorted(-lengths, -FULL * width, side="right"))
        last = min(len(lengths), max(last, first + -(-(group_tokens or GROUP_TOKENS) // width)))
        bounds.append((first, last, width))
        first_slot[first:last] = slots + np.arange(last - first) * (width + 1)
        slots += (last - first) * (width + 1)
        first = last
    return PaddedHistories(items[starts[row] + position], lengths, tuple(bounds), first_slot)
