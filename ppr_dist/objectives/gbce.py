"""gBCE (Petrov & Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
Sampling", RecSys 2023).

Shapes: P predictions, n negatives of each, D width.
"""

from __future__ import annotations

import dataclasses
import functools

import torch.nn.functional as F
from torch import Tensor

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.objectives.bce import bce
from ppr_dist.objectives.per_target_negatives import NegativesSettings, PerTargetNegatives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NegativesSettings):
    """Binary cross-entropy that is calibrated for how few items are sampled (gBCE)."""

    name = "gbce"
    uniform_negatives: int = 256
    """Negatives per target, uniform over the catalogue."""
    t: float = 0.75
    """Calibration, 0 to 1: 0 is BCE; at 1 predicted probabilities are those of training on all negatives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t <= 1:
            raise UserError(f"gbce.t must be in [0, 1], not {self.t}")


class GBCE(PerTargetNegatives):
    """BCE with σ(u·v⁺) to the power of β."""

    section = Settings
    name = Settings.name

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        settings = config.part(self.name, Settings)
        self.loss = functools.partial(gbce, beta=beta(settings.uniform_negatives, catalogue.items, settings.t))


def beta(negatives: int, items: int, t: float) -> float:
    """Return β = α·(t·(1 − 1/α) + 1/α) with α = n / (items − 1), the sampling rate (eq. 8, 15)."""
    alpha = min(1.0, negatives / max(1, items - 1))
    return alpha * (t * (1 - 1 / alpha) + 1 / alpha)


def gbce(
    user: Tensor, positive: Tensor, negatives: Tensor, *, beta: float, temperature: float, **ids: Tensor
) -> Tensor:
    """Return the sum over P of −β·log σ(u·v⁺) − Σ over n of log(1 − σ(u·v⁻)); a scalar. As :func:`bce`."""
    positive_logit = (user * positive).sum(-1) / temperature
    whole = bce(user, positive, negatives, temperature=temperature, **ids)
    return whole - (1 - beta) * F.softplus(-positive_logit).sum()
