"""NDCG@N with one relevant item: 1 / log2(rank + 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ppr_dist.metrics.base import AtCutoff


class NDCG(AtCutoff):
    def gain(self, rank: Tensor) -> Tensor:
        return 1.0 / torch.log2(rank + 1)
