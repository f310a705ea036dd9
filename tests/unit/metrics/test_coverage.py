"""Coverage@N against sets of items, over two blocks of instances and two ranks."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.metrics import METRICS, USUAL
from ppr_dist.metrics.base import Ranked, zeros

ITEMS = 300
CUTOFFS = [5, 10, 20, 50]


def block(instances: int, kept: int, seed: int) -> Ranked:
    """Random best items, no two of an instance the same, of some instances fewer than ``kept``."""
    generator = torch.Generator().manual_seed(seed)
    best = torch.stack([torch.randperm(ITEMS, generator=generator)[:kept] for _ in range(instances)])
    remain = torch.randint(0, 2 * kept, (instances, 1), generator=generator)
    best = best.masked_fill(torch.arange(kept) >= remain, -1)
    rank = torch.randint(1, ITEMS, (instances,), generator=generator)
    return Ranked(rank=rank, candidates=torch.full_like(rank, ITEMS), items=ITEMS, best=best)


def among_the_best(ranked: Ranked) -> set[int]:
    assert ranked.best is not None
    return {item for best in ranked.best.tolist() for item in best if item != -1}


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_items_of_all_blocks_and_ranks_count_once(cutoff: int) -> None:
    coverage = METRICS[f"coverage@{cutoff}"]
    # Each rank's two blocks of instances.
    ranks = [
        [block(17, cutoff, seed=0), block(14, cutoff, seed=1)],
        [block(15, cutoff, seed=2), block(1, cutoff, seed=3)],
    ]
    totals = []
    for blocks in ranks:
        total = zeros(coverage, ITEMS)
        for ranked in blocks:
            total += coverage.sums(ranked)
        totals.append(total)
    found = set().union(*(among_the_best(ranked) for blocks in ranks for ranked in blocks))
    alone = [len(among_the_best(ranked)) for blocks in ranks for ranked in blocks]
    assert max(alone) < len(found) < sum(alone)  # some items are in several blocks
    assert coverage.finish(totals[0] + totals[1], instances=47) == len(found) / ITEMS


def test_it_is_computed_only_where_it_is_asked_for() -> None:
    assert [METRICS[f"coverage@{cutoff}"].needs_best for cutoff in CUTOFFS] == CUTOFFS
    assert not any(name.startswith("coverage") for name in USUAL)


def test_no_instances_cover_nothing() -> None:
    assert zeros(METRICS["coverage@10"], ITEMS).tolist() == [0.0] * ITEMS
