"""MRR@N with one relevant item: 1 / rank, 0 beyond N."""

from __future__ import annotations

from torch import Tensor

from ppr_dist.metrics.base import AtCutoff


class MRR(AtCutoff):
    def gain(self, rank: Tensor) -> Tensor:
        return 1.0 / rank
