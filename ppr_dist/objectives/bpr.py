"""Bayesian personalised ranking.

Shapes: P predictions, n negatives of each, D width.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from ppr_dist.objectives.per_target_negatives import NegativesSettings, PerTargetNegatives


def bpr(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    positive_ids: Tensor,
    negative_ids: Tensor,
    temperature: float,
) -> Tensor:
    """Return the sum over P of the mean over n of −log σ(u·v⁺ − u·v⁻); a scalar (PPR eq. 2, 5; Rendle et al. 2009).

    A negative that is its own positive carries no preference and is left out of the mean.

    Args:
        user: [P, D]; positive: [P, D]; negatives: [P, n, D]; positive_ids: int64 [P]; negative_ids: int64 [P, n].
    """
    positive_logit = (user * positive).sum(-1, keepdim=True)
    # Not einsum: its P products of 1 × D by D × n cost a CPU several times as much.
    negative_logit = (user[:, None] * negatives).sum(-1)
    loss = -F.logsigmoid((positive_logit - negative_logit) / temperature)
    valid = (negative_ids != positive_ids[:, None]).to(loss.dtype)
    return ((loss * valid).sum(-1) / valid.sum(-1).clamp(min=1)).sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NegativesSettings):
    """Bayesian personalised ranking."""

    name = "bpr"


class BPR(PerTargetNegatives):
    """Bayesian personalised ranking."""

    section = Settings
    name = Settings.name
    loss = staticmethod(bpr)
