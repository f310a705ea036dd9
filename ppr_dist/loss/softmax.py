"""Sampled softmax over an own positive and shared candidates, with logQ correction and collision mask.

Shapes: P predictions, N candidates, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppr_dist.loss.products import Precision, addmm, addmm_, mm


def sampled_softmax(
    user: Tensor,
    positive: Tensor,
    candidates: Tensor,
    *,
    positive_ids: Tensor,
    candidate_ids: Tensor,
    log_q: Tensor,
    temperature: float,
    logit_chunk: int,
    precision: Precision = "float32",
    excluded: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the sum over P of −log softmax of the positive's logit; a scalar.

    A candidate's logit is corrected by −log Q, Q the expected count of the item among the candidates, so the sum
    over candidates estimates the sum over the catalogue (Bengio & Senécal, "Adaptive Importance Sampling",
    2008, §III); the positive is always there and is not corrected. With every item once among the candidates and
    log Q = 0 this is the full softmax. A candidate that is the prediction's own positive is masked, and so is a
    candidate whose log Q is +inf (padding).

    At most ``logit_chunk`` logits exist at once: gradients are made chunk by chunk in the forward pass, which also
    saves the second product of a recomputation.

    Args:
        user: user vectors [P, D]; positive: their target's vectors [P, D]; candidates: [N, D].
        positive_ids: int64 [P]; candidate_ids: int64 [N]; log_q: [N].
        excluded: candidates that are masked for each of B users, bool [B, N], the positives among them, and the user of
        each prediction, int64 [P]; None: a prediction's own positive alone is masked.
    """
    loss: Tensor = _SampledSoftmax.apply(
        user, positive, candidates, positive_ids, candidate_ids, log_q, temperature, logit_chunk, precision, excluded
    )
    return loss


def among(candidate_ids: Tensor, ids: Tensor, users: Tensor, count: int) -> Tensor:
    """Which of the candidates [N] are among each user's ``ids``, bool [count, N]; ``users`` says whose each id is.

    Repeats of an id are neighbours once sorted: +1 where they begin and −1 behind them, summed up, marks them all. No
    size depends on the data, so that a GPU is not waited for.
    """
    in_order, order = candidate_ids.sort()
    edges = torch.zeros(count, len(in_order) + 1, dtype=torch.int32, device=ids.device)
    for right, step in ((False, 1), (True, -1)):
        place = torch.searchsorted(in_order, ids, right=right)
        edges.view(-1).index_add_(0, users * edges.shape[1] + place, torch.full_like(place, step, dtype=torch.int32))
    found = torch.zeros(count, len(in_order), dtype=torch.bool, device=ids.device)
    found[:, order] = edges.cumsum(1, dtype=torch.int32)[:, :-1] > 0
    return found


def merged(candidates: Tensor, candidate_ids: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates [N, D] with their ids and log Q [N], those of one id as one: the same loss from fewer products.

    1 / Q of the one is the sum of theirs; its gradient goes to the first of them, whose vector is that of all. A third
    of 3,000 uniform draws from 3,416 items are repeats. On a GPU, which would be waited for to know how many are left,
    they stay as they are.
    """
    if candidates.device.type != "cpu":
        return candidates, candidate_ids, log_q
    ids, place = torch.unique(candidate_ids, return_inverse=True)
    inverse_q = log_q.new_zeros(len(ids)).index_add_(0, place, torch.exp(-log_q))
    each = torch.arange(len(place), device=place.device)
    first = torch.full_like(ids, len(place)).scatter_reduce_(0, place, each, "amin")
    return candidates.index_select(0, first), ids, -inverse_q.log()


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        user: Tensor,
        positive: Tensor,
        candidates: Tensor,
        positive_ids: Tensor,
        candidate_ids: Tensor,
        log_q: Tensor,
        temperature: float,
        logit_chunk: int,
        precision: Precision,
        excluded: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        scale = 1.0 / temperature
        positive_logit = (user * positive).sum(-1) * scale
        grad_user, grad_candidates = torch.empty_like(user), torch.zeros_like(candidates)
        log_z = torch.empty_like(positive_logit)
        bias = -log_q.to(user.dtype)
        rows = max(1, logit_chunk // max(1, len(candidates)))
        for start in range(0, len(user), rows):
            part = slice(start, start + rows)
            logits = addmm(bias, user[part], candidates.T, precision, alpha=scale)
            if excluded is None:
                masked = positive_ids[part, None] == candidate_ids
            else:
                masked = excluded[0].index_select(0, excluded[1][part])
            logits.masked_fill_(masked, -torch.inf)
            highest = (
                torch.maximum(logits.amax(dim=1), positive_logit[part]) if len(candidates) else positive_logit[part]
            )
            # Each pass over the logits costs as much as a product: one exponential serves the sum and the gradients.
            weight = logits.sub_(highest[:, None]).exp_()
            total = weight.sum(dim=1) + torch.exp(positive_logit[part] - highest)
            log_z[part] = highest + total.log()
            grad_user[part] = mm(weight, candidates, precision) / total[:, None]
            addmm_(grad_candidates, weight.T, user[part] / total[:, None], precision)
        miss = (torch.exp(positive_logit - log_z) - 1.0)[:, None]
        grad_user.addcmul_(miss, positive).mul_(scale)
        ctx.save_for_backward(grad_user, miss * user * scale, grad_candidates.mul_(scale))
        return (log_z - positive_logit).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        user, positive, candidates = ctx.saved_tensors
        return grad * user, grad * positive, grad * candidates, None, None, None, None, None, None, None
