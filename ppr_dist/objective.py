"""The training objective: gather what the loss compares against, then compute it.

Each rank's loss is its part of the global mean, so summing gradients over ranks gives those of one rank holding
the whole batch. Shapes as in :mod:`ppr_dist.batch`; D width, W ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

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
from ppr_dist.parallel.collectives import Gathering, pad_rows, start_all_gather
from ppr_dist.parallel.sharded_softmax import sharded_softmax


@dataclasses.dataclass(frozen=True)
class Shared:
    """What every rank knows of every rank's batch before any vector is computed."""

    targets: Tensor
    """Targets of each rank, int64 [W]."""
    users: Tensor
    """Users of each rank, int64 [W]."""
    candidate_ids: Tensor
    """softmax: candidates of all ranks, int64 [W·C]."""
    candidate_log_q: Tensor
    """softmax: float32 [W·C]."""


def share(batch: Batch, group: dist.ProcessGroup) -> Callable[[], Shared]:
    """Start to communicate over ``group``: one message of each rank to all, integers throughout.

    Call what is returned to wait.
    """
    counts = torch.empty(2, dtype=torch.int64, device=batch.lengths.device)
    # fill_ on the device: the numbers never visit the host again.
    counts[0].fill_(batch.total_targets)
    counts[1].fill_(len(batch.lengths))
    ids = bits = counts[:0]
    if batch.candidates is not None and batch.candidate_log_q is not None:
        ids = batch.item_ids.index_select(0, batch.candidates)
        bits = batch.candidate_log_q.view(torch.int32).long()
    pending = start_all_gather(torch.cat([counts, ids, bits])[None], group)

    def shared() -> Shared:
        every = pending.result()
        all_ids, all_bits = every[:, 2 : 2 + len(ids)].reshape(-1), every[:, 2 + len(ids) :].reshape(-1)
        return Shared(every[:, 0], every[:, 1], all_ids, all_bits.to(torch.int32).view(torch.float32))

    return shared


def gather_candidates(
    loss: Loss, batch: Batch, items: Tensor, exchange: Literal["float32", "bfloat16"] = "float32"
) -> Gathering | None:
    """Start to communicate: vectors of the candidates of all ranks [W·C, D], where the loss has such.

    They travel while the tower computes, and their gradients go to the ranks that hold them while it computes backward.
    """
    if loss.kind != "softmax":
        return None
    assert batch.candidates is not None
    return Gathering(items.index_select(0, batch.candidates), torch.bfloat16 if exchange == "bfloat16" else None)


def prediction_loss(
    loss: Loss, batch: Batch, shared: Shared, items: Tensor, candidates: Gathering | None, user: Tensor
) -> Tensor:
    """Compute L_p summed over this rank's targets.

    Args:
        candidates: vectors of shared.candidate_ids [W·C, D], where the loss has candidates;
        items: vectors of batch.item_ids [U, D]; user: user vectors at batch.prefix [P, D].
    """
    positive, positive_ids = items.index_select(0, batch.targets), batch.item_ids.index_select(0, batch.targets)
    if candidates is not None:
        return sampled_softmax(
            user,
            positive,
            candidates.result(),
            positive_ids=positive_ids,
            candidate_ids=shared.candidate_ids,
            log_q=shared.candidate_log_q,
            temperature=loss.temperature,
            logit_chunk=loss.logit_chunk,
            precision=loss.precision,
        )
    if loss.kind == "full_softmax":
        assert batch.candidates is not None
        own_items = items.index_select(0, batch.candidates)
        return sharded_softmax(
            user,
            positive,
            own_items,
            temperature=loss.temperature,
            logit_chunk=loss.logit_chunk,
            precision=loss.precision,
        )
    if loss.kind not in ("bpr", "bce"):
        raise ValueError(f"loss.kind {loss.kind!r}: no such objective")
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


def contrastive_loss(loss: Loss, batch: Batch, shared: Shared, views: Views) -> Tensor:
    """Gather both views of all ranks, padded to equal sizes; compute L_CL summed over this rank's users."""
    users, most, device = len(views.state), batch.max_users_per_rank, views.state.device
    real = (torch.arange(most, device=device) < shared.users[:, None]).flatten()
    own = torch.arange(users, device=device) + dist.get_rank() * most
    total = views.state.new_zeros(())
    gatherings = [Gathering(pad_rows(view, most)) for view in (views.attribute_masked, views.behaviour_masked)]
    for gathering in gatherings:
        total = total + info_nce(
            views.state,
            gathering.result(),
            own=own,
            real=real,
            temperature=loss.contrastive_temperature,
            logit_chunk=loss.logit_chunk,
            precision=loss.precision,
        )
    return total


@dataclasses.dataclass(frozen=True)
class StepLoss:
    """``backward`` is this rank's scalar to differentiate; the rest is for the log, summed over ranks later."""

    backward: Tensor
    prediction: Tensor
    """This rank's part of L_p (the parts of all ranks sum to the mean over targets)."""
    contrastive: Tensor
    """This rank's part of L_CL."""


def step_loss(
    loss: Loss,
    batch: Batch,
    shared: Shared,
    items: Tensor,
    candidates: Gathering | None,
    user: Tensor,
    views: Views | None,
) -> StepLoss:
    """L_p + λ·L_CL (PPR eq. 7), each the mean over all ranks' targets or users.

    ``backward`` is scaled by W, because DeepSpeed and TorchRec both divide the summed gradients by W.
    """
    world = dist.get_world_size()
    targets, users = (total.sum().clamp(min=1).to(items.dtype) for total in (shared.targets, shared.users))
    prediction = prediction_loss(loss, batch, shared, items, candidates, user) / targets
    contrastive = prediction.new_zeros(())
    if views is not None:
        contrastive = contrastive_loss(loss, batch, shared, views) / users
    return StepLoss(
        backward=world * (prediction + loss.contrastive_weight * contrastive),
        prediction=prediction.detach(),
        contrastive=contrastive.detach(),
    )
