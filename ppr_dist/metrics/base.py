"""What a ranking metric is.

Shapes: I instances, K best items kept of each.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """Ranked instances of this rank."""

    rank: Tensor
    """Of the target, 1 = best, int64 [I]."""
    candidates: Tensor
    """How many were ranked, the target included, int64 [I]."""
    items: int
    """Size of the catalogue."""
    best: Tensor | None = None
    """The best items, int64 [I, K], −1 where there are fewer; None unless a metric asks for them."""


class Metric:
    """A number from sums that add up over instances and ranks."""

    needs_best: int = 0
    """How many of the best items of each instance it sees (K); those the whole catalogue must be scored for."""

    def sums(self, ranked: Ranked) -> Tensor:
        """Float64, of one shape, to be added up over blocks of instances and ranks."""
        raise NotImplementedError

    def finish(self, sums: Tensor, instances: int) -> float:
        """The metric of all ``instances``, of which there is at least one."""
        return float(sums) / instances


class AtCutoff(Metric):
    """A mean over instances of something that only ranks up to a cutoff contribute to."""

    def __init__(self, cutoff: int) -> None:
        self.cutoff = cutoff

    def gain(self, rank: Tensor) -> Tensor:
        """What a rank counts, float64 [I], for ranks up to the cutoff."""
        raise NotImplementedError

    def sums(self, ranked: Ranked) -> Tensor:
        rank = ranked.rank
        return (self.gain(rank.double()) * (rank <= self.cutoff)).sum()


def zeros(like: Metric, items: int) -> Tensor:
    """What ``like.sums`` gives of no instances."""
    nothing = torch.zeros(0, dtype=torch.int64)
    best = nothing.reshape(0, like.needs_best) if like.needs_best else None
    return like.sums(Ranked(rank=nothing, candidates=nothing, items=items, best=best))
