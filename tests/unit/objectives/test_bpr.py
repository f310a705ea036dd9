"""BPR against its formula, pair by pair."""

from __future__ import annotations

from statistics import mean

import pytest

from ppr_dist.objectives.bpr import bpr
from tests.targets import by_hand, log_sigmoid, targets


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_is_the_mean_over_pairs_summed_over_targets(temperature: float) -> None:
    want = by_hand(targets(), temperature, lambda up, down: mean(-log_sigmoid(up - x) for x in down))
    assert float(bpr(**targets(), temperature=temperature)) == pytest.approx(want, rel=1e-12)
