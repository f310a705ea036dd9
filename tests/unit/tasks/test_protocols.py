"""Protocols with any number of sampled items: a scorer that draws scores finds as many targets as chance does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ppr_dist import options
from ppr_dist.batch import Batch
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.evaluate import Arguments
from ppr_dist.evaluation import evaluate
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.protocol import is_ranking, negatives
from tests.ranks import run_ranks
from tests.shards import random_users, write_data

USERS, ITEMS, DIM = 2_000, 300, 8
CHANCE = {("sampled-3", "hit@1"): 1 / 4, ("sampled-99", "hit@10"): 10 / 100, ("sampled-7", "hit@5"): 5 / 8}


class RandomScorer:
    """Random vectors of users and items."""

    device = torch.device("cpu")
    needs_clicks = False

    def user_vectors(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch.user_rows), DIM)

    def item_vectors(self, ids: Tensor) -> Tensor:
        return torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(1))[ids]

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        raise AssertionError("a sampled protocol scores no catalogue")


def by_chance(context: DistributedContext, folder: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    manifest = write_data(folder, {"pretrain": random_users(USERS, ITEMS, shortest=2)}, items=ITEMS, per_shard=500)
    of_all: dict[str, Any] = {"task": "next-item", "config": Config()}
    return [
        evaluate(RandomScorer(), folder, manifest, context, protocol=protocol, metrics=(metric,), **of_all)
        for protocol, metric in CHANCE
    ]


def test_random_scores_find_what_chance_finds(tmp_path: Path) -> None:
    for (protocol, metric), row in zip(CHANCE, run_ranks(by_chance, 1, tmp_path / "data")[0], strict=True):
        chance = CHANCE[protocol, metric]
        assert (row["protocol"], row["instances"]) == (protocol, USERS)
        assert abs(row[metric] - chance) < 4 * (chance * (1 - chance) / USERS) ** 0.5, (protocol, row)


def test_a_protocol_is_full_or_sampled_with_a_number() -> None:
    assert (negatives("full"), negatives("sampled-1"), negatives("sampled-99")) == (None, 1, 99)
    assert [is_ranking(name) for name in ("full", "sampled-7", "classification")] == [True, True, False]
    for wrong in ("sampled-0", "sampled-", "sampled-3.5", "sampled-099", "fuller", ""):
        words = ["--run-dir", "r", "--task", "joint", f"--protocol={wrong}"]
        with pytest.raises(UserError, match="--protocol"):
            options.parse("ppr_dist.evaluate", words, [Arguments])
