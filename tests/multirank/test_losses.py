"""One gradient, for the losses and their collectives alone, in float64: it does not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.batch import Batch
from ppr_dist.config import Loss
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives import contrastive, softmax
from ppr_dist.parallel.collectives import AsyncAllGather, Pending, all_gather
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.step_loss import start, step_loss
from tests.ranks import run_ranks
from tests.settings import collator, objectives
from tests.shards import random_users, rank_part

ITEMS, COUNT, DIM, CONTEXTS = 60, 22, 6, 12
USERS = random_users(COUNT, ITEMS, longest=CONTEXTS - 1)
SHARE = (np.bincount(USERS.items, minlength=ITEMS) / len(USERS.items)).astype(np.float32)
VIEWS = ("history", "profile view", "interactions view")
TOLERANCE = {"rtol": 1e-10, "atol": 1e-13}


def double(rows: int, seed: int, *more: int) -> torch.Tensor:
    return torch.randn(rows, *more, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class NoEmbeddings:
    """In place of tables: what ranks exchange needs none."""

    ids_group = None

    def start_look_up(self, batch: Batch) -> NoEmbeddings:
        return self

    def send_ids(self) -> None:
        pass

    def wait(self) -> None:
        pass


def losses_and_gradients(
    context: DistributedContext,
    loss: Loss,
    chosen: dict[str, dict[str, Any]],
    gather: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """One ``step_loss`` on this rank's users, with vectors that belong to items, and to users after each context.

    Gradients are of the sum of the ranks' losses, on tensors that every rank holds whole: summed over ranks they
    are those of the whole batch. ``gather`` stands in for the gathering of the package.
    """
    if gather:
        for module in (softmax, contrastive):
            module.AsyncAllGather = lambda x, *_: Pending(None, lambda: gather(x))  # type: ignore[attr-defined]
    made = objectives(ITEMS, loss, **chosen)
    ranks = {"rank": context.rank, "world_size": context.world_size}
    collate = collator(made, ITEMS, probability=SHARE, first_target=0, seed=1, **ranks)
    batch = collate(rank_part(USERS, context.rank, context.world_size), epoch=0, step=0, global_users=COUNT)
    leaves = {
        "items": double(ITEMS, 0),
        "users": double(COUNT, 1, CONTEXTS),
        **{view: double(COUNT, 2 + i) for i, view in enumerate(VIEWS)},
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    items = leaves["items"][batch.item_ids]
    encoded = Encoded(
        user=leaves["users"][batch.users[batch.user_rows], batch.context_lengths],
        final=torch.stack([leaves[view][batch.users] for view in VIEWS]),
        heads={},
    )
    fetched = fetch(batch, NoEmbeddings(), made)  # type: ignore[arg-type]
    found = step_loss(made, fetched, items, {}, encoded, start(made, batch, items, {}))
    found.backward.backward()
    return {
        "loss": np.array([part.item() for part in found.parts.values()]),
        "gradients": {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None},
    }


def together(case: str, world_size: int, gather: Callable[..., Any] | None = None) -> dict[str, Any]:
    """What the ranks' parts make: the losses summed; the gradients averaged, as DeepSpeed and TorchRec do."""
    loss, objective = CASES[case]
    ranks = run_ranks(losses_and_gradients, world_size, loss, {**objective, "contrastive": {"weight": 0.1}}, gather)
    return {
        "loss": sum(rank["loss"] for rank in ranks),
        "gradients": {
            name: sum(rank["gradients"][name] for rank in ranks) / world_size for name in ranks[0]["gradients"]
        },
    }


CASES: dict[str, tuple[Loss, dict[str, dict[str, Any]]]] = {
    "softmax": (
        Loss(temperature=0.7, logit_chunk=300),
        {"softmax": {"uniform_negatives": 13, "in_batch_per_user": 2}},
    ),
    "softmax, 5 users lend": (Loss(logit_chunk=30), {"softmax": {"uniform_negatives": 13, "in_batch_users": 5}}),
    "softmax, clicked items excluded": (
        Loss(logit_chunk=300),
        {"softmax": {"uniform_negatives": 13, "exclude": "clicked"}},
    ),
    "bpr": (Loss(temperature=0.7), {"bpr": {"uniform_negatives": 3}}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_do_not_depend_on_the_number_of_ranks(case: str) -> None:
    one = together(case, 1)
    assert one["loss"].shape == (2,)
    assert one["loss"].min() > 0.1
    assert set(one["gradients"]) == {"items", "users", *VIEWS}
    for world_size in (2, 4):
        many = together(case, world_size)
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
    right = AsyncAllGather(x).wait()
    share = right / torch.distributed.get_world_size()
    return share + (right - share).detach()


def in_bfloat16(context: DistributedContext) -> tuple[np.ndarray, np.ndarray]:
    """What each rank gets of all, and the gradient of what it gave."""
    x, weight = (_drawn(context.rank, rows) for rows in (3, 3 * context.world_size))
    x.requires_grad_()
    gathered = AsyncAllGather(x, torch.bfloat16).wait()
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
    one, many = together("softmax", 1), together("softmax", 2, wrong)
    # The loss hides it; the gradients of everything gathered show it.
    np.testing.assert_allclose(many["loss"], one["loss"], **TOLERANCE)
    for name in ("items", "profile view", "interactions view"):
        right = one["gradients"][name]
        off = np.abs(many["gradients"].get(name, np.zeros_like(right)) - right).max()
        assert off > 0.02 * np.abs(right).max(), name
