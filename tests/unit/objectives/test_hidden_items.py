"""Items that are hidden from training are no negatives in it either: no objective draws one."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.batch import Batch
from ppr_dist.data.stream.item_shares import MixedShares
from ppr_dist.objectives import OBJECTIVES
from tests.settings import collator, objectives
from tests.shards import random_users

ITEMS, STEPS = 60, 4
HIDDEN = np.arange(0, ITEMS, 3)
SHOWN = np.isin(np.arange(ITEMS), HIDDEN, invert=True).astype(np.float32)
ALONE = {"softmax": {"uniform_negatives": 40, "in_batch_per_user": 0}, "attribute": {"name": "age"}}
DRAWN = {"softmax": "candidates", "full_softmax": "items", "bpr": "negatives", "bce": "negatives", "gbce": "negatives"}


def drawn(name: str, shown: np.ndarray | None) -> list[np.ndarray]:
    """Items of each step. ``shown``: as StepUsers has it."""
    users = random_users(30, ITEMS, longest=9)
    users.items[:] = np.flatnonzero(SHOWN)[users.items % int(SHOWN.sum())]  # nobody clicks what is hidden
    mixed = None if shown is None else MixedShares(((shown, 1.0),))  # type: ignore[arg-type]
    made = collator(objectives(ITEMS, **{name: ALONE.get(name, {})}), ITEMS, shown=mixed)
    batches: list[Batch] = [made(users, epoch=0, step=step, global_users=30) for step in range(STEPS)]
    if shown is SHOWN:
        assert not any(np.isin(batch.item_ids, HIDDEN).any() for batch in batches)
    return [batch.item_ids[batch.drawn[name][DRAWN[name]]].numpy() for batch in batches]


def test_of_every_objective_that_draws_items_it_is_known() -> None:
    users = random_users(30, ITEMS, longest=9)
    for name in OBJECTIVES:
        batch = collator(objectives(ITEMS, **{name: ALONE.get(name, {})}), ITEMS)(
            users, epoch=0, step=0, global_users=30
        )
        assert (len(np.setdiff1d(batch.item_ids, users.items)) > 0) == (name in DRAWN), name


@pytest.mark.parametrize("name", DRAWN)
def test_no_hidden_item_is_drawn_and_the_others_are_as_without(name: str) -> None:
    for with_all, without in zip(drawn(name, None), drawn(name, SHOWN), strict=True):
        assert np.isin(with_all, HIDDEN).any()
        if DRAWN[name] == "negatives":  # as many, in the places of those that were hidden others
            assert with_all.shape == without.shape
            same = ~np.isin(with_all, HIDDEN)
            np.testing.assert_array_equal(without[same], with_all[same])
        else:
            assert set(without.tolist()) == set(with_all.tolist()) - set(HIDDEN.tolist())


def test_where_none_is_hidden_all_draws_stay() -> None:
    for name in DRAWN:
        for one, other in zip(drawn(name, None), drawn(name, np.ones(ITEMS, np.float32)), strict=True):
            np.testing.assert_array_equal(one, other)
