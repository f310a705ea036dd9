"""gBCE against its formula, and at the ends of its calibration."""

from __future__ import annotations

import math

import pytest
import torch

from ppr_dist.objectives.bce import bce
from ppr_dist.objectives.gbce import beta, gbce
from tests.targets import by_hand, log_sigmoid, targets


def test_is_bce_with_a_power_of_the_targets_probability() -> None:
    want = by_hand(targets(), 0.5, lambda up, down: -0.3 * log_sigmoid(up) - sum(log_sigmoid(-x) for x in down))
    assert float(gbce(**targets(), beta=0.3, temperature=0.5)) == pytest.approx(want, rel=1e-12)


def test_uncalibrated_it_is_bce() -> None:
    assert beta(negatives=16, items=3417, t=0.0) == pytest.approx(1.0)
    assert torch.equal(gbce(**targets(), beta=1.0, temperature=1.0), bce(**targets(), temperature=1.0))


def test_fully_calibrated_beta_is_the_sampling_rate() -> None:
    assert beta(negatives=16, items=3417, t=1.0) == pytest.approx(16 / 3416)
    assert beta(negatives=5000, items=3417, t=0.7) == 1.0  # more negatives than items: nothing to correct
    assert math.isfinite(beta(negatives=1, items=1, t=0.5))
