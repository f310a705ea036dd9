"""W ranks with a W-th of the batch each do what one rank does with the whole: losses, gradients, updates."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.model.tower import DenseTower
from ppr_dist.parallel import dense
from ppr_dist.parallel.dense import make_engine
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import ATTRIBUTES, USERS, make_collator, part, small_config, steps, users, with_loss
from tests.ranks import run_ranks

TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


def _compare(one: dict[str, Any], many: list[dict[str, Any]]) -> None:
    # The parts of the loss that ranks hold sum to the loss of the whole batch.
    np.testing.assert_allclose(np.sum([rank["losses"] for rank in many], axis=0), one["losses"], rtol=1e-5)
    for rank in many:
        for kind in ("gradients", "tables"):
            assert one[kind].keys() == rank[kind].keys()
            for name, value in one[kind].items():
                np.testing.assert_allclose(rank[kind][name], value, err_msg=f"{kind} of {name}", **TOLERANCE)


@pytest.mark.parametrize("kind", ["softmax", "full_softmax", "bpr", "bce"])
@pytest.mark.parametrize("tuning", [False, True], ids=["pretrain", "tune"])
def test_losses_gradients_and_table_updates_do_not_depend_on_the_number_of_ranks(kind: str, tuning: bool) -> None:
    config = small_config(with_loss(kind))
    one = run_ranks(steps, 1, config, tuning)[0]
    assert max(np.abs(g).max() for g in one["gradients"].values()) > 1e-3
    for world_size in (2, 4):
        _compare(one, run_ranks(steps, world_size, config, tuning))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_update_like_stage_0(stage: int) -> None:
    plain = run_ranks(steps, 2, small_config(with_loss("softmax")), True)
    staged = run_ranks(steps, 2, small_config(with_loss("softmax"), zero_stage=stage), True)
    for rank in range(2):
        np.testing.assert_allclose(staged[rank]["losses"], plain[rank]["losses"], rtol=1e-4)
        for name, value in plain[rank]["tables"].items():
            np.testing.assert_allclose(staged[rank]["tables"][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def bfloat16_moments(context: DistributedContext) -> list[dict[str, np.ndarray]]:
    """Adam's first moments after one step in bfloat16 at each ZeRO stage; from drawn vectors, so without tables."""
    config = small_config(with_loss("bce"))
    vectors = torch.Generator().manual_seed(context.rank)
    batch = make_collator(context, config, tuning=True)(part(users(), context), epoch=0, step=0, global_users=USERS)
    width = len(ATTRIBUTES) * config.prompt.attribute_dim
    items, *profiles = (
        torch.randn(rows, columns, generator=vectors)
        for rows, columns in ((len(batch.item_ids), config.model.dim), *[(len(batch.lengths), width)] * 2)
    )
    found = []
    for stage in range(4):
        torch.manual_seed(0)
        tower = DenseTower(
            config.model, config.prompt, attributes=len(ATTRIBUTES), with_prompt=True, with_profile_encoder=True
        )
        train = dataclasses.replace(config.train, precision="bfloat16", zero_stage=stage)
        engine = make_engine(tower, train, context.world_size)
        user, _ = engine(items, batch, *profiles, 0.0)
        engine.backward((user * user).sum())
        engine.step()
        state = dense.state_dict(engine)
        found.append({name: value.numpy() for name, value in state.items() if name.startswith("exp_avg.")})
    return found


def test_zero_stages_sum_gradients_of_bfloat16_products_in_float32() -> None:
    plain, *staged = run_ranks(bfloat16_moments, 2)[0]
    plain = {name: value for name, value in plain.items() if np.abs(value).max() > 1e-5}  # not the keys' bias: noise
    assert "exp_avg.backbone.blocks.0.up.weight" in plain
    for stage, moments in enumerate(staged, start=1):
        for name, value in plain.items():
            # Sums in another order; a gradient summed in bfloat16 is off by some 3e-3.
            np.testing.assert_allclose(moments[name], value, atol=1e-5 * np.abs(value).max(), err_msg=f"{stage} {name}")


def test_frozen_items_and_an_update_that_moves_the_rest() -> None:
    config = small_config(with_loss("softmax"))
    before = run_ranks(steps, 2, config, True, 0, False)[0]
    after = run_ranks(steps, 2, config, True, 2, False)[0]
    np.testing.assert_array_equal(after["tables"]["item"], before["tables"]["item"])
    assert np.abs(after["tables"]["prompt:age"] - before["tables"]["prompt:age"]).max() > 1e-3
