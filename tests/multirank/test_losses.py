"""One gradient, for the losses and their collectives alone, in float64: it does not depend on the number of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist import objective
from ppr_dist.config import Loss
from ppr_dist.data.stream.collate import Collator
from ppr_dist.model.sequential import Views
from ppr_dist.parallel.collectives import Gathering, Pending, all_gather
from ppr_dist.parallel.distributed import DistributedContext
from tests.ranks import run_ranks
from tests.shards import random_users, rank_part

ITEMS, COUNT, DIM, SLOTS = 60, 22, 6, 12
USERS = random_users(COUNT, ITEMS, longest=SLOTS - 1)
TOLERANCE = {"rtol": 1e-10, "atol": 1e-13}


def double(rows: int, seed: int, *more: int) -> torch.Tensor:
    return torch.randn(rows, *more, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses_and_gradients(
    context: DistributedContext, config: Loss, gather: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """One ``step_loss`` on this rank's users, with vectors that belong to items, users and slots.

    Gradients are of the sum of the ranks' losses, on tensors that every rank holds whole: summed over ranks they
    are those of the whole batch. ``gather`` stands in for the gathering of the package.
    """
    if gather:
        objective.Gathering = lambda x, *_: Pending(None, lambda: gather(x))  # type: ignore[assignment, misc]
    collator = Collator(
        loss=config,
        items=ITEMS,
        probability=(np.bincount(USERS.items, minlength=ITEMS) / len(USERS.items)).astype(np.float32),
        max_length=50,
        hold_out=0,
        first_target=0,
        views=False,
        seed=1,
        rank=context.rank,
        world_size=context.world_size,
    )
    batch = collator(rank_part(USERS, context.rank, context.world_size), epoch=0, step=0, global_users=COUNT)
    leaves = {
        "items": double(ITEMS, 0),
        "users": double(COUNT, 1, SLOTS),
        **{f.name: double(COUNT, 2 + i) for i, f in enumerate(dataclasses.fields(Views))},
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    views = Views(*(leaves[f.name][batch.users] for f in dataclasses.fields(Views)))
    items = leaves["items"][batch.item_ids]
    loss = objective.step_loss(
        config,
        batch,
        objective.share(batch, torch.distributed.group.WORLD)(),
        items,
        objective.gather_candidates(config, batch, items),
        leaves["users"][batch.users[batch.owner], batch.prefix],
        views,
    )
    loss.backward.backward()
    return {
        "loss": np.array([loss.prediction.item(), loss.contrastive.item()]),
        "gradients": {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None},
    }


def together(config: Loss, world_size: int, gather: Callable[..., Any] | None = None) -> dict[str, Any]:
    """What the ranks' parts make: the losses summed; the gradients averaged, as DeepSpeed and TorchRec do."""
    ranks = run_ranks(losses_and_gradients, world_size, config, gather)
    return {
        "loss": sum(rank["loss"] for rank in ranks),
        "gradients": {
            name: sum(rank["gradients"][name] for rank in ranks) / world_size for name in ranks[0]["gradients"]
        },
    }


CONFIGS = {
    "softmax": Loss(kind="softmax", uniform_negatives=13, in_batch_per_user=2, temperature=0.7, logit_chunk=300),
    "softmax, 5 users lend": Loss(kind="softmax", uniform_negatives=13, in_batch_users=5, logit_chunk=30),
    "bpr": Loss(kind="bpr", uniform_negatives=3, temperature=0.7),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_losses_and_gradients_do_not_depend_on_the_number_of_ranks(kind: str) -> None:
    one = together(CONFIGS[kind], 1)
    assert one["loss"].min() > 0.1
    assert set(one["gradients"]) == {"items", "users", "state", "attribute_masked", "behaviour_masked"}
    for world_size in (2, 4):
        many = together(CONFIGS[kind], world_size)
        np.testing.assert_allclose(many["loss"], one["loss"], **TOLERANCE)
        for name, gradient in one["gradients"].items():
            assert np.abs(gradient).max() > 1e-5
            np.testing.assert_allclose(many["gradients"][name], gradient, err_msg=name, **TOLERANCE)


class _Forgetful(torch.autograd.Function):
    """Gathers, but each rank keeps only what its own loss says: the reduction of the backward pass dropped."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(x)
        return all_gather(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        rank = torch.distributed.get_rank()
        return grad[rank * ctx.rows : (rank + 1) * ctx.rows]


def without_gradient(x: torch.Tensor) -> torch.Tensor:
    return all_gather(x)


def without_reduction(x: torch.Tensor) -> torch.Tensor:
    return _Forgetful.apply(x)


def with_a_mean(x: torch.Tensor) -> torch.Tensor:
    # x + stop(…): the value of the right gathering, 1/W of its gradient.
    right = Gathering(x).result()
    share = right / torch.distributed.get_world_size()
    return share + (right - share).detach()


def in_bfloat16(context: DistributedContext) -> tuple[np.ndarray, np.ndarray]:
    """What each rank gets of all, and the gradient of what it gave."""
    x, weight = (_drawn(context.rank, rows) for rows in (3, 3 * context.world_size))
    x.requires_grad_()
    gathered = Gathering(x, torch.bfloat16).result()
    (gathered * weight).sum().backward()
    assert x.grad is not None
    return gathered.detach().numpy(), x.grad.numpy()


def _drawn(rank: int, rows: int) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(10 * rows + rank))


def test_candidates_may_travel_in_bfloat16_and_are_summed_in_float32() -> None:
    ranks = run_ranks(in_bfloat16, 2)
    rounded = torch.cat([_drawn(rank, 3) for rank in range(2)]).bfloat16().float().numpy()
    back = sum(_drawn(rank, 6).bfloat16().float() for rank in range(2))
    for rank, (gathered, gradient) in enumerate(ranks):
        np.testing.assert_array_equal(gathered, rounded)
        np.testing.assert_array_equal(gradient, back[3 * rank : 3 * rank + 3])


@pytest.mark.parametrize("wrong", [without_gradient, without_reduction, with_a_mean], ids=lambda f: f.__name__)
def test_a_wrong_gathering_would_be_seen(wrong: Callable[..., Any]) -> None:
    config = CONFIGS["softmax"]
    one, many = together(config, 1), together(config, 2, wrong)
    # The loss hides it; the gradients of everything gathered show it.
    np.testing.assert_allclose(many["loss"], one["loss"], **TOLERANCE)
    for name in ("items", "attribute_masked", "behaviour_masked"):
        right = one["gradients"][name]
        off = np.abs(many["gradients"].get(name, np.zeros_like(right)) - right).max()
        assert off > 0.02 * np.abs(right).max(), name
