"""The same model and loss on one process without TorchRec and DeepSpeed, as one would write it in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppr_dist.batch import Batch
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives.base import Exchanged, Objective, Step


def plain_loss(
    model: Callable[..., Encoded], objectives: Mapping[str, Objective], batch: Batch, items: Tensor
) -> Tensor:
    """What :func:`ppr_dist.step_loss.step_loss` computes on one rank, a scalar; ``items``: vectors [U, D]."""
    encoded = model(items, batch, {})
    total = items.new_zeros(())
    for objective in objectives.values():
        count = torch.empty(1, dtype=torch.int64, device=items.device).fill_(objective.count(batch))
        integers = objective.to_exchange(batch)
        step = Step(
            batch=batch,
            items=items,
            encoded=encoded,
            exchanged=Exchanged(count, integers[None] if integers is not None else count.new_zeros(1, 0)),
            started=objective.start(batch, items, {}),
        )
        total = total + objective.weight * objective.sum(step) / count.sum()
    return total
