"""gBCE against its formula in float64, and at the ends of its calibration."""

from __future__ import annotations

import math

import pytest
import torch

from ppr_dist.objectives.bce import bce
from ppr_dist.objectives.gbce import beta, gbce


def _drawn() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    vectors = {"user": torch.randn(5, 3), "positive": torch.randn(5, 3), "negatives": torch.randn(5, 4, 3)}
    ids = {"positive_ids": torch.arange(5), "negative_ids": torch.randint(0, 7, (5, 4))}
    return {name: x.double().requires_grad_() for name, x in vectors.items()} | ids


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    drawn, power, temperature = _drawn(), 0.3, 0.5
    loss = gbce(**drawn, beta=power, temperature=temperature)
    expected = torch.zeros((), dtype=torch.float64)
    for p in range(5):
        user, positive, negatives = (drawn[name][p] for name in ("user", "positive", "negatives"))
        expected = expected - torch.log(torch.sigmoid(user @ positive / temperature) ** power)
        for n in range(4):
            if drawn["negative_ids"][p, n] != p:  # its own positive is no negative
                expected = expected - torch.log(1 - torch.sigmoid(user @ negatives[n] / temperature))
    torch.testing.assert_close(loss, expected)
    wanted = [drawn[name] for name in ("user", "positive", "negatives")]
    for mine, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_uncalibrated_it_is_bce() -> None:
    assert beta(negatives=16, items=3417, t=0.0) == pytest.approx(1.0)
    drawn = _drawn()
    assert torch.equal(gbce(**drawn, beta=1.0, temperature=1.0), bce(**drawn, temperature=1.0))  # type: ignore[arg-type]


def test_fully_calibrated_beta_is_the_sampling_rate() -> None:
    assert beta(negatives=16, items=3417, t=1.0) == pytest.approx(16 / 3416)
    assert beta(negatives=5000, items=3417, t=0.7) == 1.0  # more negatives than items: nothing to correct
    assert math.isfinite(beta(negatives=1, items=1, t=0.5))
