"""MRR@N against its definition."""

from __future__ import annotations

import torch

from ppr_dist.metrics import METRICS
from ppr_dist.metrics.base import Ranked


def test_mean_of_reciprocal_ranks_up_to_the_cutoff() -> None:
    rank = torch.tensor([1, 2, 4, 5, 6, 100])
    ranked = Ranked(rank=rank, candidates=torch.full_like(rank, 100), items=200)
    mrr = METRICS["mrr@5"]
    assert mrr.finish(mrr.sums(ranked), len(rank)) == (1 + 1 / 2 + 1 / 4 + 1 / 5) / 6
