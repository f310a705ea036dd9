"""HIT@N: whether the target is among the best N."""

from __future__ import annotations

import torch
from torch import Tensor

from ppr_dist.metrics.base import AtCutoff


class Hit(AtCutoff):
    def gain(self, rank: Tensor) -> Tensor:
        return torch.ones_like(rank)
