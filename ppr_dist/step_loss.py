"""The loss of a step: objectives added up.

Each rank's loss is its part of the global mean, so summing gradients over ranks gives those of one rank holding
the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.objectives.base import Objective, Step
from ppr_dist.parallel.collectives import AsyncAllGather
from ppr_dist.parallel.prefetch import PrefetchedBatch
from ppr_dist.tuning import TUNING_METHODS


def make_objectives(config: Config, method: str | None, catalogue: Catalogue) -> dict[str, Objective]:
    """The objectives of a run by name: those of the configuration, and what the tuning method adds with a weight.

    Raises :class:`UserError` where settings do not fit the data or leave nothing to minimise.
    """
    added = TUNING_METHODS[method].objectives if method else ()
    objectives = {n: OBJECTIVES[n](config, catalogue) for n in dict.fromkeys([*config.train.objectives, *added])}
    weighted = {name: objective for name, objective in objectives.items() if objective.weight}
    if not weighted:
        raise UserError(f"train.objectives {', '.join(objectives)}: the weight of each is 0")
    return weighted


def start(
    objectives: Mapping[str, Objective], batch: Batch, items: Tensor, labels: Mapping[str, Tensor]
) -> dict[str, AsyncAllGather | None]:
    """Start to communicate what objectives compare against; vectors of ``items`` [U, D], of ``labels`` [u, D] by space.

    A collective.
    """
    return {name: objective.start(batch, items, labels) for name, objective in objectives.items()}


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """``backward`` is this rank's scalar to differentiate; the rest is for the log, summed over ranks later."""

    backward: Tensor
    total: Tensor
    """This rank's part of the loss; the parts of all ranks sum to it."""
    parts: dict[str, Tensor]
    """The same of each objective's mean, without its weight."""
    user_sums: Tensor
    """Each target's user vector added up, [P]: where it is not finite, the vector is not."""


def step_loss(
    objectives: Mapping[str, Objective],
    fetched: PrefetchedBatch,
    items: Tensor,
    labels: Mapping[str, Tensor],
    encoded: Encoded,
    started: Mapping[str, AsyncAllGather | None],
) -> StepLoss:
    """Σ weight · mean over all ranks' targets, or users (PPR eq. 7).

    ``backward`` is scaled by W, because DeepSpeed and TorchRec both divide the summed gradients by W.
    """
    total, parts = items.new_zeros(()), {}
    for name, objective in objectives.items():
        exchanged = fetched.exchanged[name]
        step = Step(
            batch=fetched.batch,
            items=items,
            labels=labels,
            encoded=encoded,
            exchanged=exchanged,
            started=started[name],
        )
        mean = objective.sum(step) / exchanged.counts.sum().clamp(min=1).to(items.dtype)
        total = total + objective.weight * mean
        parts[name] = mean.detach()
    return StepLoss(dist.get_world_size() * total, total.detach(), parts, encoded.user.detach().sum(1))
