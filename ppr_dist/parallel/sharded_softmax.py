"""Exact softmax over a catalogue dealt to ranks: users travel, items stay where they are.

Shapes: P predictions of this rank, X = W·P_max gathered rows, n items of this rank's part, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.loss.full_softmax import partial_gradients, partial_log_z
from ppr_dist.loss.products import Precision
from ppr_dist.parallel.collectives import all_gather, pad_rows, reduce_scatter


def sharded_softmax(
    user: Tensor,
    positive: Tensor,
    items: Tensor,
    *,
    temperature: float,
    logit_chunk: int,
    precision: Precision = "float32",
) -> Tensor:
    """Return the sum over this rank's P of −log softmax of the positive over all ranks' items; a scalar.

    The gradients of ``items`` are those of the loss of all ranks.

    Args:
        user: [P, D]; positive: vectors of the targets [P, D]; items: this rank's part of the catalogue [n, D].
    """
    log_z: Tensor = _LogZ.apply(user, items, temperature, logit_chunk, precision)
    return (log_z - (user * positive).sum(-1) / temperature).sum()


class _LogZ(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, user: Tensor, items: Tensor, temperature: float, logit_chunk: int, precision: Precision
    ) -> Tensor:
        # P differs by rank. Its maximum is asked for on the host, over gloo, so that a GPU is not waited for.
        rows = int(all_gather(torch.tensor([len(user)])).max())
        users = all_gather(pad_rows(user, rows))
        settings: dict[str, Any] = {"temperature": temperature, "logit_chunk": logit_chunk, "precision": precision}
        mine = partial_log_z(users, items, **settings)
        log_z = torch.logsumexp(all_gather(mine).view(dist.get_world_size(), -1), dim=0)
        ctx.save_for_backward(users, items, log_z)
        ctx.rows, ctx.settings = rows, settings
        start = dist.get_rank() * rows
        return log_z[start : start + len(user)].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        users, items, log_z = ctx.saved_tensors
        weight = all_gather(pad_rows(grad, ctx.rows))  # padding weighs nothing
        grad_users, grad_items = partial_gradients(users, items, log_z, weight, **ctx.settings)
        return reduce_scatter(grad_users, ctx.rows)[: len(grad)], grad_items, None, None, None
