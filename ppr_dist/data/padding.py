"""Users of like length together, so that attention, the one place that needs a rectangle, has little padding.

Everything else in the transformer runs over real tokens alone. Users of one batch are only reordered, never exchanged
between batches, so nothing that is trained is biased.
"""

from __future__ import annotations

import numpy as np

from ppr_dist.batch import Group
from ppr_dist.data.users import Int64

FULL = 0.95
"""A group ends where a history would fill less than this share of its slots …"""
GROUP_TOKENS = 256
"""… once it holds this many tokens; as many tokens of one length are a group of their own, with no padding at all."""


def ragged_arange(counts: Int64) -> tuple[Int64, Int64]:
    """Return (row, 0 … counts[row] − 1) for every row, concatenated."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def group_by_length(lengths: Int64, group_tokens: int | None = None) -> tuple[Group, ...]:
    """Cut users in order of falling length, int64 [B], into groups: at least one, of a width of at least 1."""
    wanted, first = group_tokens or GROUP_TOKENS, 0
    groups: list[Group] = []

    def users_above(length: float) -> int:
        return int(np.searchsorted(-lengths, -length))

    while first < len(lengths) or not groups:
        width = max(1, int(lengths[first])) if len(lengths) else 1
        last = users_above(width - 1)
        if (last - first) * width < wanted:
            last = min(len(lengths), max(users_above(FULL * width), first + -(-wanted // width)))
        groups.append(Group(users=last - first, tokens=int(lengths[first:last].sum()), width=width))
        first = last
    return tuple(groups)


def regroup(groups: tuple[Group, ...], lengths: Int64) -> tuple[Group, ...]:
    """The same users in the same groups with other lengths, int64 [B]."""
    parts = np.split(lengths, np.cumsum([group.users for group in groups])[:-1])
    return tuple(Group(len(part), int(part.sum()), max(1, int(part.max(initial=0)))) for part in parts)
