"""Coverage@N: the share of the catalogue's items that are among the N best of at least one instance.

Shapes: I instances, K best items known of each, N items of the catalogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppr_dist.metrics.base import Metric, Ranked


class Coverage(Metric):
    """Aggregate diversity (Adomavicius & Kwon, TKDE 2012) as a share of the catalogue."""

    def __init__(self, cutoff: int) -> None:
        self.needs_best = cutoff

    def sums(self, ranked: Ranked) -> Tensor:
        """In how many instances' best each item is, [N]: these add up, while numbers of distinct items do not."""
        assert ranked.best is not None
        return torch.bincount(ranked.best[ranked.best >= 0], minlength=ranked.items).double()  # −1 is no item

    def finish(self, sums: Tensor, instances: int) -> float:
        return int((sums > 0).sum()) / len(sums)
