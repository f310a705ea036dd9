"""The best items of an instance, its target among them."""

from __future__ import annotations

import torch

from ppr_dist.tasks.ranking import with_target


def test_the_target_stands_at_its_rank_and_the_last_drops_out() -> None:
    others = torch.tensor([[10, 11, 12]] * 5)
    ranks = torch.tensor([1, 2, 3, 4, 900])
    best = with_target(others, torch.arange(5), ranks)
    assert best.tolist() == [[0, 10, 11], [10, 1, 11], [10, 11, 2], [10, 11, 12], [10, 11, 12]]


def test_where_fewer_items_remain_than_are_kept() -> None:
    best = with_target(torch.tensor([[10, -1, -1]]), torch.tensor([7]), torch.tensor([2]))
    assert best.tolist() == [[10, 7, -1]]
