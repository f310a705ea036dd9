"""AUC of single instances."""

from __future__ import annotations

from torch import Tensor

from ppr_dist.metrics.base import Metric, Ranked


class AUC(Metric):
    """Mean share of an instance's other candidates that are ranked below its target."""

    def sums(self, ranked: Ranked) -> Tensor:
        others = (ranked.candidates - 1).clamp(min=1).double()
        return ((ranked.candidates.double() - ranked.rank.double()) / others).sum()
