"""The softmax over a catalogue dealt to ranks is torch's cross entropy, to the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.sharded_softmax import sharded_softmax
from tests.ranks import run_ranks

USERS, ITEMS, DIM, TEMPERATURE = 13, 29, 5, 0.7


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    user = torch.randn(USERS, DIM, generator=generator, dtype=torch.float64)
    items = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    return user, items, torch.randint(0, ITEMS, (USERS,), generator=generator)


def _on_ranks(context: DistributedContext, logit_chunk: int) -> tuple[float, np.ndarray, np.ndarray]:
    user, items, targets = _inputs()
    rows = slice(context.rank * USERS // context.world_size, (context.rank + 1) * USERS // context.world_size)
    block = -(-ITEMS // context.world_size)
    own = items[context.rank * block : (context.rank + 1) * block].clone().requires_grad_()
    mine = user[rows].clone().requires_grad_()
    positive = items[targets[rows]]
    loss = sharded_softmax(mine, positive, own, temperature=TEMPERATURE, logit_chunk=logit_chunk)
    loss.backward()
    assert mine.grad is not None
    assert own.grad is not None
    return loss.item(), mine.grad.numpy(), own.grad.numpy()


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.exhaustive), 4])
@pytest.mark.parametrize("logit_chunk", [1, 64, 10**6])
def test_equals_cross_entropy_on_any_number_of_ranks(world_size: int, logit_chunk: int) -> None:
    user, items, targets = _inputs()
    user.requires_grad_()
    items.requires_grad_()
    # The positive's own logit reaches its item through the look-up of targets, not through this function.
    logits = user @ items.detach().T / TEMPERATURE
    log_z = torch.logsumexp(user @ items.T / TEMPERATURE, dim=1)
    expected = (log_z - logits.gather(1, targets[:, None])[:, 0]).sum()
    expected.backward()

    ranks = run_ranks(_on_ranks, world_size, logit_chunk)
    np.testing.assert_allclose(sum(loss for loss, _, _ in ranks), expected.item(), rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([g for _, g, _ in ranks]), user.grad, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([g for _, _, g in ranks]), items.grad, rtol=1e-10, atol=1e-12)
