"""Softmax over the whole catalogue, each rank scoring a part of it.

Here are the computations of one rank; :mod:`ppr_dist.parallel.sharded_softmax` communicates between them.
Shapes: X user vectors (of all ranks), n items of this rank's part, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ppr_dist.loss.products import Precision, addmm_, mm


def partial_log_z(
    users: Tensor, items: Tensor, *, temperature: float, logit_chunk: int, precision: Precision = "float32"
) -> Tensor:
    """Return log Σ exp(logit) over this rank's items for every user, [X]; −inf where it has none."""
    log_z = users.new_full((len(users),), -torch.inf)
    for part in _chunks(len(users), len(items), logit_chunk):
        log_z[part] = torch.logsumexp(mm(users[part], items.T, precision).div_(temperature), dim=1)
    return log_z


def partial_gradients(
    users: Tensor,
    items: Tensor,
    log_z: Tensor,
    weight: Tensor,
    *,
    temperature: float,
    logit_chunk: int,
    precision: Precision = "float32",
) -> tuple[Tensor, Tensor]:
    """Return the gradients of Σ weight·log Z through this rank's items: for users [X, D] and for items [n, D].

    Args:
        log_z: over the items of all ranks [X]; weight: what each user's log Z counts in the loss [X].
    """
    grad_users, grad_items = torch.zeros_like(users), torch.zeros_like(items)
    for part in _chunks(len(users), len(items), logit_chunk):
        share = mm(users[part], items.T, precision).div_(temperature).sub_(log_z[part, None]).exp_()
        share.mul_(weight[part, None] / temperature)
        grad_users[part] = mm(share, items, precision)
        addmm_(grad_items, share.T, users[part], precision)
    return grad_users, grad_items


def _chunks(rows: int, columns: int, logit_chunk: int) -> Iterator[slice]:
    """Cut rows so that at most ``logit_chunk`` logits exist at once (at least a row of them); none if no columns."""
    size = max(1, logit_chunk // max(1, columns))
    for start in range(0, rows if columns else 0, size):
        yield slice(start, start + size)
