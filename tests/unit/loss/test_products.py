"""Products in reduced precision against float64: what is rounded are the factors, never the sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppr_dist.loss.full_softmax import partial_gradients, partial_log_z
from ppr_dist.loss.products import Precision, addmm, addmm_, mm
from ppr_dist.loss.softmax import sampled_softmax

ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-9}
"""Greatest relative error of a factor."""
DEVICES = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in ("float32", "tf32", "bfloat16")),
]
P, N, D = 40, 300, 64


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("device", "precision"), DEVICES)
def test_a_product_errs_by_its_factors_rounding_and_no_more(device: str, precision: Precision) -> None:
    a, b, x = normal(P, 4096, seed=0).to(device), normal(4096, N, seed=1).to(device), normal(P, N, seed=2).to(device)
    right = a.double() @ b.double()
    # Errors of 4,096 products add up like a random walk, and partial sums of size 64 round too; sums in bfloat16
    # would be off by some 2^-9 of 64 at each addition.
    most = 8 * (ROUNDING[precision] + 4 * ROUNDING["float32"]) * 4096**0.5
    added = x.clone()
    addmm_(added, a, b, precision)
    for found, expected in (
        (mm(a, b, precision), right),
        (addmm(x, a, b, precision, alpha=0.5), x.double() + 0.5 * right),
        (added, x.double() + right),
    ):
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < most
    if precision != "float32":
        assert (mm(a, b, precision) - right).abs().max() > ROUNDING[precision], "nothing was rounded"


@pytest.mark.parametrize(("device", "precision"), DEVICES)
def test_losses_and_gradients_stay_near_those_of_float64(device: str, precision: Precision) -> None:
    def sampled(dtype: torch.dtype, precision: Precision) -> list[torch.Tensor]:
        leaves = [normal(n, D, seed=s).to(device, dtype).mul(0.3).requires_grad_() for s, n in enumerate((P, P, N))]
        ids: dict[str, Any] = {"positive_ids": torch.arange(P), "candidate_ids": torch.arange(N) % 97}
        loss = sampled_softmax(
            *leaves,
            **{name: each.to(device) for name, each in ids.items()},
            log_q=normal(N, seed=5).to(device),
            temperature=0.5,
            logit_chunk=1000,
            precision=precision,
        )
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    def full(dtype: torch.dtype, precision: Precision) -> list[torch.Tensor]:
        users, items = (normal(n, D, seed=s).to(device, dtype) * 0.3 for s, n in enumerate((P, N)))
        settings: dict[str, Any] = {"temperature": 0.5, "logit_chunk": 1000, "precision": precision}
        log_z = partial_log_z(users, items, **settings)
        return [log_z, *partial_gradients(users, items, log_z, torch.ones_like(log_z), **settings)]

    for loss in (sampled, full):
        for found, right in zip(loss(torch.float32, precision), loss(torch.float64, "float32"), strict=True):
            # Logits are of size 1; their errors are those of D products, and as large relatively in the softmax.
            assert (found - right).norm() < 20 * ROUNDING[precision] * right.norm()
