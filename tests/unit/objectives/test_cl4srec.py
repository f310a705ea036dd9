"""CL4SRec's views against its three operations by hand, and its loss against the plain formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ppr_dist.batch import Batch, View
from ppr_dist.loss.nt_xent import nt_xent
from tests.settings import collator, objectives
from tests.shards import random_users, rank_part

ITEMS = 50
USERS = random_users(60, ITEMS, longest=14, first_index=7)


def collate(rank: int = 0, world_size: int = 1, **settings: object) -> Batch:
    made = collator(objectives(ITEMS, cl4srec=settings), ITEMS, rank=rank, world_size=world_size)
    return made(rank_part(USERS, rank, world_size), epoch=3, step=1, global_users=len(USERS))


def sequences(batch: Batch, view: View | None = None) -> dict[int, list[int]]:
    """Items of each user's history or view; −1 where there is the mask."""
    history = (view and view.history) or batch.history
    items = batch.item_ids[history.items]
    if history.masked is not None:
        items = items.masked_fill(history.masked, -1)
    assert sum(bucket.tokens for bucket in history.buckets) == len(items)
    parts = items.split(history.lengths.tolist())
    return {int(user): part.tolist() for user, part in zip(batch.users, parts, strict=True)}


def made_by(before: list[int], after: list[int]) -> set[str]:
    """By which of the operations a view may come of a history."""
    n, found = len(before), set()
    kept, moved = max(1, math.floor(0.6 * n)), math.floor(0.6 * n)
    if any(after == before[first : first + kept] for first in range(n - kept + 1)):
        found.add("crop")
    hidden = len(after) == n and after.count(-1) == math.floor(0.3 * n)
    if hidden and all(b in (-1, a) for a, b in zip(before, after, strict=True)):
        found.add("mask")
    for first in range(n - moved + 1):
        last = first + moved
        outside = after[:first] == before[:first] and after[last:] == before[last:]
        if outside and sorted(after[first:last]) == sorted(before[first:last]):
            found.add("reorder")
    return found


@pytest.mark.parametrize("operation", ["crop", "mask", "reorder"])
def test_each_operation_does_what_the_paper_says(operation: str) -> None:
    batch = collate(operations=[operation])
    before, changed = sequences(batch), 0
    for view in batch.views["cl4srec"]:
        for user, after in sequences(batch, view).items():
            if len(before[user]) < 2:
                assert after == before[user]
            else:
                assert operation in made_by(before[user], after)
                changed += after != before[user]
    assert changed > 50


def test_a_user_has_two_views_by_two_operations_each_pair_as_often_as_any() -> None:
    batch = collate(crop=0.6, mask=0.3, reorder=0.6)
    before = sequences(batch)
    one, other = (sequences(batch, view) for view in batch.views["cl4srec"])
    firsts = []
    for user, history in before.items():
        if len(history) < 6:
            continue
        by = made_by(history, one[user]), made_by(history, other[user])
        assert all(by)
        if all(len(each) == 1 for each in by):
            assert by[0] != by[1]
            firsts += by[0]
    assert {"crop", "mask", "reorder"} == set(firsts)


def test_views_are_the_same_on_any_number_of_ranks_and_new_each_epoch() -> None:
    whole, parts = collate(), [collate(rank, 3) for rank in range(3)]
    for number in (0, 1):
        alone = sequences(whole, whole.views["cl4srec"][number])
        together: dict[int, list[int]] = {}
        for part in parts:
            together |= sequences(part, part.views["cl4srec"][number])
        assert together == alone
    made = collator(objectives(ITEMS, cl4srec={}), ITEMS)
    later = made(USERS, epoch=4, step=1, global_users=len(USERS))
    assert sequences(later, later.views["cl4srec"][0]) != sequences(whole, whole.views["cl4srec"][0])


@pytest.mark.parametrize("cosine", [False, True])
def test_the_loss_is_the_plain_formula(cosine: bool) -> None:
    """−log exp(s(z, z⁺)/τ) / (exp(s(z, z⁺)/τ) + Σ exp(s(z, z⁻)/τ)), z⁻ the 2·(N − 1) views of other users."""
    n, tau = 5, 0.7
    views = torch.randn(2, n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for this in (0, 1):
        for user in range(n):
            z = views[this, user]

            def s(of: torch.Tensor, z: torch.Tensor = z) -> float:
                score = torch.cosine_similarity(z, of, dim=0) if cosine else z @ of
                return math.exp(score.item() / tau)

            others = [s(views[view, who]) for view in (0, 1) for who in range(n) if who != user]
            assert len(others) == 2 * (n - 1)
            positive = s(views[1 - this, user])
            total -= math.log(positive / (positive + sum(others)))
    padding = torch.full((1, 4), 9.0, dtype=torch.float64)
    found = nt_xent(
        *views,
        torch.cat([views[0], padding, views[1], padding]),
        users=torch.arange(n),
        key_users=torch.arange(n + 1).repeat(2),
        valid=(torch.arange(n + 1) < n).repeat(2),
        cosine=cosine,
        temperature=tau,
        logit_chunk=7,
    )
    assert found.item() == pytest.approx(total, rel=1e-12)


def test_a_user_without_a_history_is_no_anchor() -> None:
    batch = collate()
    with_history = int((batch.history.lengths > 0).sum())
    assert 0 < with_history < len(batch.users)
    (objective,) = objectives(ITEMS, cl4srec={}).values()
    assert objective.count(batch) == with_history
    np.testing.assert_array_equal(batch.drawn["cl4srec"]["users"], np.arange(with_history))
