"""What holds of every loss that compares a target with negatives of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from ppr_dist.objectives.bce import bce
from ppr_dist.objectives.bpr import bpr
from ppr_dist.objectives.gbce import gbce
from tests.targets import targets

Loss = Callable[..., torch.Tensor]
VECTORS = ("user", "positive", "negatives")
each_loss = pytest.mark.parametrize("loss", [bce, bpr, functools.partial(gbce, beta=0.3)], ids=["bce", "bpr", "gbce"])


def gradients(loss: Loss, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of users, targets and negatives."""
    leaves = {name: given[name].requires_grad_() for name in VECTORS}
    return list(torch.autograd.grad(loss(**(given | leaves), temperature=0.5), list(leaves.values())))


@each_loss
def test_a_negative_that_is_the_target_is_left_out_and_gets_no_gradient(loss: Loss) -> None:
    given = targets()
    given["negative_ids"][3] = 3
    user, positive, negatives = gradients(loss, given)
    assert negatives[3].abs().max() == negatives[1, 2].abs().max() == 0
    assert (negatives[1, [0, 1, 3]].abs().sum(1) > 0).all()
    assert torch.isfinite(torch.cat([user, positive])).all()


@each_loss
def test_gradcheck(loss: Loss) -> None:
    given = targets()
    ids = {name: given[name] for name in ("positive_ids", "negative_ids")}
    vectors = [given[name].requires_grad_() for name in VECTORS]
    assert torch.autograd.gradcheck(lambda u, p, n: loss(u, p, n, **ids, temperature=0.5), vectors)


@each_loss
def test_no_targets(loss: Loss) -> None:
    assert loss(**{name: tensor[:0] for name, tensor in targets().items()}, temperature=1.0) == 0


@each_loss
def test_extreme_logits_stay_finite(loss: Loss) -> None:
    given = targets()
    given["user"] *= 1e5
    assert torch.isfinite(loss(**given, temperature=0.5))
    assert all(torch.isfinite(each).all() for each in gradients(loss, given))
