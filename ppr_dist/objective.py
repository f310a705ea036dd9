"""The training objective: gather what the loss compares against, then compute it.

Each rank's loss is its part of the global mean, so summing gradients over ranks gives those of one rank holding
the whole batch. Shapes as in :mod:`ppr_dist.batch`; D width, W ranks.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.batch import Batch
from ppr_dist.config import Loss
from ppr_dist.loss.bce import bce
from ppr_dist.loss.bpr import bpr
from ppr_dist.loss.contrastive import info_nce
from ppr_dist.loss.softmax import sampled_softmax
from ppr_dist.model.tower import Views
from ppr_dist.parallel.collectives import all_gather, all_gather_with_gradient, all_sum, pad_rows
from ppr_dist.parallel.sharded_softmax import sharded_softmax


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidates of all ranks: vectors [W·C, D], ids int64 [W·C], log_q [W·C]."""

    vectors: Tensor
    ids: Tensor
    log_q: Tensor


def gather_candidates(batch: Batch, items: Tensor) -> Candidates:
    """Communicate: gather the candidates of all ranks; gradients flow back to the rank that looked them up."""
    assert batch.candidates is not None
    assert batch.candidate_log_q is not None
    return Candidates(
        vectors=all_gather_with_gradient(items.index_select(0, batch.candidates)),
        ids=all_gather(batch.item_ids.index_select(0, batch.candidates)),
        log_q=all_gather(batch.candidate_log_q),
    )


def prediction_loss(loss: Loss, batch: Batch, items: Tensor, user: Tensor, candidates: Candidates | None) -> Tensor:
    """Compute L_p summed over this rank's targets.

    Args:
        items: vectors of batch.item_ids [U, D]; user: user vectors at batch.prefix [P, D].
    """
    positive, positive_ids = items.index_select(0, batch.targets), batch.item_ids.index_select(0, batch.targets)
    if candidates is not None:
        return sampled_softmax(
            user,
            positive,
            candidates.vectors,
            positive_ids=positive_ids,
            candidate_ids=candidates.ids,
            log_q=candidates.log_q,
            temperature=loss.temperature,
            logit_chunk=loss.logit_chunk,
        )
    if loss.kind == "full_softmax":
        assert batch.candidates is not None
        own_items = items.index_select(0, batch.candidates)
        return sharded_softmax(user, positive, own_items, temperature=loss.temperature, logit_chunk=loss.logit_chunk)
    assert batch.negatives is not None
    with_own_negatives = bce if loss.kind == "bce" else bpr
    return with_own_negatives(
        user,
        positive,
        torch.nn.functional.embedding(batch.negatives, items),
        positive_ids=positive_ids,
        negative_ids=batch.item_ids[batch.negatives],
        temperature=loss.temperature,
    )


def contrastive_loss(loss: Loss, views: Views, capacity: int) -> Tensor:
    """Gather both views of all ranks and compute L_CL summed over this rank's users.

    ``capacity``: most users a rank can hold; views are padded to it so that every rank sends the same size.
    """
    users, device = len(views.state), views.state.device
    real = all_gather(torch.arange(capacity, device=device) < users)
    own = torch.arange(users, device=device) + dist.get_rank() * capacity
    total = views.state.new_zeros(())
    for view in (views.attribute_masked, views.behaviour_masked):
        keys = all_gather_with_gradient(pad_rows(view, capacity))
        total = total + info_nce(views.state, keys, own=own, real=real, temperature=loss.contrastive_temperature)
    return total


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """``backward`` is this rank's scalar to differentiate; the rest is for the log, summed over ranks later."""

    backward: Tensor
    prediction: Tensor
    """This rank's part of L_p (the parts of all ranks sum to the mean over targets)."""
    contrastive: Tensor
    """This rank's part of L_CL."""


def step_loss(loss: Loss, batch: Batch, items: Tensor, user: Tensor, views: Views | None, capacity: int) -> StepLoss:
    """L_p + λ·L_CL (PPR eq. 12), each the mean over all ranks' targets or users.

    ``backward`` is scaled by W, because DeepSpeed and TorchRec both divide the summed gradients by W.
    """
    world = dist.get_world_size()
    candidates = gather_candidates(batch, items) if loss.kind == "softmax" else None
    # fill_ on the device: the totals never visit the host.
    totals = torch.empty(2, dtype=torch.float64, device=items.device)
    totals[0].fill_(batch.total_targets)
    totals[1].fill_(len(batch.lengths))
    totals = all_sum(totals).clamp(min=1).to(items.dtype)
    prediction = prediction_loss(loss, batch, items, user, candidates) / totals[0]
    contrastive = prediction.new_zeros(())
    if views is not None:
        contrastive = contrastive_loss(loss, views, capacity) / totals[1]
    return StepLoss(
        backward=world * (prediction + loss.contrastive_weight * contrastive),
        prediction=prediction.detach(),
        contrastive=contrastive.detach(),
    )
