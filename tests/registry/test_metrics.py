"""What holds of every metric: its sums add up, and a better ranking is not worse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppr_dist.metrics import METRICS
from ppr_dist.metrics.base import Ranked, zeros

ITEMS, INSTANCES = 60, 40
CANDIDATES = torch.randint(50, ITEMS + 1, (INSTANCES,), generator=torch.Generator().manual_seed(0))


def ranked(ranks: Tensor, kept: int, part: slice = slice(None)) -> Ranked:
    """Instances of these ranks; ``kept``: how many of the best items, other ones for each instance, there are."""
    generator = torch.Generator().manual_seed(1)
    best = torch.stack([torch.randperm(ITEMS, generator=generator)[:kept] for _ in range(INSTANCES)])
    return Ranked(rank=ranks[part], candidates=CANDIDATES[part], items=ITEMS, best=best[part] if kept else None)


def random_ranks() -> Tensor:
    return 1 + (torch.rand(INSTANCES, generator=torch.Generator().manual_seed(2)) * CANDIDATES).long()


@pytest.mark.parametrize("name", METRICS)
def test_sums_of_parts_add_up_to_those_of_all(name: str) -> None:
    metric, ranks = METRICS[name], random_ranks()
    whole = metric.sums(ranked(ranks, metric.needs_best))
    assert whole.dtype == torch.float64
    for cut in (0, 1, 17, INSTANCES):
        parts = [metric.sums(ranked(ranks, metric.needs_best, part)) for part in (slice(cut), slice(cut, None))]
        torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-12, atol=1e-12)
    nothing = zeros(metric, ITEMS)
    assert nothing.shape == whole.shape
    assert not nothing.any()


@pytest.mark.parametrize("name", METRICS)
def test_a_better_ranking_is_not_worse(name: str) -> None:
    metric = METRICS[name]
    perfect, random, worst = (
        metric.finish(metric.sums(ranked(ranks, metric.needs_best)), INSTANCES)
        for ranks in (torch.ones(INSTANCES, dtype=torch.int64), random_ranks(), CANDIDATES)
    )
    assert isinstance(perfect, float)
    assert perfect >= random >= worst
