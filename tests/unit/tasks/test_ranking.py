"""The best items of an instance, its target among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ppr_dist.baselines import PopularityScorer
from ppr_dist.config import Config
from ppr_dist.evaluation import evaluate
from ppr_dist.metrics import METRICS
from ppr_dist.metrics.base import Metric, Ranked
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.tasks.ranking import with_target
from tests.ranks import run_ranks
from tests.shards import random_users, write_data


def test_the_target_stands_at_its_rank_and_the_last_drops_out() -> None:
    others = torch.tensor([[10, 11, 12]] * 5)
    ranks = torch.tensor([1, 2, 3, 4, 900])
    best = with_target(others, torch.arange(5), ranks)
    assert best.tolist() == [[0, 10, 11], [10, 1, 11], [10, 11, 2], [10, 11, 12], [10, 11, 12]]


def test_where_fewer_items_remain_than_are_kept() -> None:
    best = with_target(torch.tensor([[10, -1, -1]]), torch.tensor([7]), torch.tensor([2]))
    assert best.tolist() == [[10, 7, -1]]


class Width(Metric):
    """How many best items it is shown."""

    def __init__(self, needs_best: int) -> None:
        self.needs_best = needs_best

    def sums(self, ranked: Ranked) -> torch.Tensor:
        assert (ranked.best is None) == (self.needs_best == 0)
        shown = 0 if ranked.best is None else ranked.best.shape[1]
        return torch.tensor(float(shown * len(ranked.rank)), dtype=torch.float64)


def widths(context: DistributedContext, data: Path) -> dict[str, Any]:
    METRICS.update({f"width@{n}": Width(n) for n in (0, 2, 5)})
    manifest = write_data(data, {"tune-test": random_users(9, 20)}, items=20, per_shard=4)
    scorer = PopularityScorer(torch.arange(20.0), context.device)
    return evaluate(
        scorer, data, manifest, context, task="joint", protocol="full", config=Config(), metrics=(*METRICS, "width@2")
    )


def test_each_metric_sees_as_many_best_items_as_it_asks_for_and_counts_once(tmp_path: Path) -> None:
    found = run_ranks(widths, 1, tmp_path / "data")[0]
    assert [found[f"width@{n}"] for n in (0, 2, 5)] == [0, 2, 5]
