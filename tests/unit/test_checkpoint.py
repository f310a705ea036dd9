"""What a checkpoint says of validation."""

from __future__ import annotations

import math

from ppr_dist.checkpoint import Best


def test_the_best_is_the_highest_the_earliest_of_equals_and_a_number() -> None:
    best = Best(metric="auc", value=0.5, step=10)
    assert best.then(0.5, 20) == Best(metric="auc", value=0.5, step=10, since=1)
    assert best.then(0.4, 20).then(0.6, 30) == Best(metric="auc", value=0.6, step=30, since=0)
    assert best.then(math.nan, 20).then(0.1, 30).since == 2
    worst = Best(metric="auc", value=math.nan, step=10)
    assert worst.then(math.nan, 20).since == 1
    assert worst.then(0.0, 20) == Best(metric="auc", value=0.0, step=20)
