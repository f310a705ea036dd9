"""Binary cross-entropy against its formula, term by term."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.objectives.bce import bce
from tests.targets import N, P, by_hand, log_sigmoid, targets


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_is_the_sum_over_targets_and_negatives(temperature: float) -> None:
    want = by_hand(targets(), temperature, lambda up, down: -log_sigmoid(up) - sum(log_sigmoid(-x) for x in down))
    assert float(bce(**targets(), temperature=temperature)) == pytest.approx(want, rel=1e-12)


def test_is_torchs_binary_cross_entropy_with_logits() -> None:
    given = targets()
    given["negative_ids"] += 100  # none is a target
    logits = torch.cat([given["positive"][:, None], given["negatives"]], dim=1) @ given["user"][:, :, None] / 0.7
    labels = torch.zeros(P, 1 + N, dtype=torch.float64)
    labels[:, 0] = 1
    want = torch.nn.functional.binary_cross_entropy_with_logits(logits[..., 0], labels, reduction="sum")
    torch.testing.assert_close(bce(**given, temperature=0.7), want, rtol=1e-12, atol=0)
