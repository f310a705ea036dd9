"""What the objectives share that draw uniform negatives for each target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.counter_random import integers
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import require_positive
from ppr_dist.objectives.base import NEGATIVE, Cost, Objective, Step, StepShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativesSettings:
    """The settings of such an objective, which derives its section from this."""

    name: ClassVar[str]
    """Of the objective, and of the section."""
    uniform_negatives: int = 1
    """Negatives per target, uniform over the catalogue."""

    def __post_init__(self) -> None:
        require_positive(self, self.name, "uniform_negatives")


class PerTargetNegatives(Objective):
    """A sum over targets, each against its own negatives."""

    section: ClassVar[type[NegativesSettings]]
    loss: Callable[..., Tensor]
    """As :func:`ppr_dist.objectives.bpr.bpr`."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part(self.name, self.section)

    def draw(self, users: StepUsers) -> Drawn:
        each = np.arange(self.settings.uniform_negatives)
        who, where = users.index[users.user_rows][:, None], users.context_lengths[:, None]
        key = (users.seed, NEGATIVE, users.epoch, who, where, each)
        drawn, attempt = integers(users.items, *key), 0
        while (hidden := users.hidden(drawn)).any():
            attempt += 1
            drawn = np.where(hidden, integers(users.items, *key, attempt), drawn)
        return Drawn(item_ids={"negatives": drawn})

    def sum(self, step: Step) -> Tensor:
        negatives = step.batch.drawn[self.name]["negatives"]
        positive, positive_ids = step.targets()
        return self.loss(
            step.encoded.user,
            positive,
            F.embedding(negatives, step.items),
            positive_ids=positive_ids,
            negative_ids=step.batch.item_ids[negatives],
            temperature=self.scores.temperature,
        )

    def cost(self, shape: StepShape) -> Cost:
        negatives = shape.targets * self.settings.uniform_negatives
        return Cost(items=negatives, flops=2 * 3 * shape.dim * negatives)
