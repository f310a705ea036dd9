"""Binary cross-entropy with sampled negatives.

Shapes: P predictions, n negatives of each, D width.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.objectives.per_target_negatives import NegativesSettings, PerTargetNegatives


def bce(
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    positive_ids: Tensor,
    negative_ids: Tensor,
    temperature: float,
) -> Tensor:
    """Return the sum over P of −log σ(u·v⁺) − Σ over n of log(1 − σ(u·v⁻)); a scalar (SASRec eq. 6, ICDM 2018).

    A negative that is its own positive is left out.

    Args:
        user: [P, D]; positive: [P, D]; negatives: [P, n, D]; positive_ids: int64 [P]; negative_ids: int64 [P, n].
    """
    positive_logit = (user * positive).sum(-1) / temperature
    # Not einsum: its P products of 1 × D by D × n cost a CPU several times as much.
    negative_logit = (user[:, None] * negatives).sum(-1) / temperature
    # −log(1 − σ(x)) = softplus(x), which is 0 with no gradient at −inf.
    negative_logit = negative_logit.masked_fill(negative_ids == positive_ids[:, None], -torch.inf)
    return F.softplus(-positive_logit).sum() + F.softplus(negative_logit).sum()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NegativesSettings):
    """Binary cross-entropy with sampled negatives."""

    name = "bce"


class BCE(PerTargetNegatives):
    """Binary cross-entropy with sampled negatives."""

    section = Settings
    name = Settings.name
    loss = staticmethod(bce)
