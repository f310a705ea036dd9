"""New and pre-trained parts each move at a learning rate of their own, at every ZeRO stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ppr_dist.config import Config
from ppr_dist.parallel.dense import scale_lr, state_dict
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.trainer import train_step
from ppr_dist.tuning.base import is_attached
from tests.multirank.models import USERS, build, part, small_config, users, whole_tables
from tests.ranks import run_ranks

NEW, OLD, TABLE_NEW, TABLE_OLD = 1e-2, 1e-3, 0.1, 0.025
STAGES = (0, 1, 2, 3)


def one_step(context: DistributedContext, config: Config, share: float) -> dict[str, np.ndarray]:
    """Everything after a step of ppr-full at ``share`` of its learning rates, parameters by name and tables."""
    parallel, collator, objectives = build(context, config, "ppr-full", stir=0.05)
    scale_lr(parallel.engine, share)
    parallel.embeddings.scale_lr(share)
    batch = collator(part(users(), context), epoch=0, step=0, global_users=USERS)
    train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    state = {name: value.numpy() for name, value in state_dict(parallel.engine).items() if name.startswith("param")}
    return {name.removeprefix("parameter."): value for name, value in state.items()} | whole_tables(parallel)


def at(config: Config, lr: float, pretrained: float | None, table: float, items: float | None) -> Config:
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, lr=lr, pretrained_lr=pretrained),
        tables=dataclasses.replace(config.tables, lr=table, pretrained_lr=items),
    )


def steps(context: DistributedContext) -> list[tuple[dict[str, np.ndarray], ...]]:
    """Apart, with all as new parts, with all as pre-trained ones, and no step at all: at each ZeRO stage."""
    found = []
    for stage in STAGES:
        config = small_config(zero_stage=stage)
        apart = one_step(context, at(config, NEW, OLD, TABLE_NEW, TABLE_OLD), 0.5)
        new = one_step(context, at(config, NEW, None, TABLE_NEW, None), 0.5)
        old = one_step(context, at(config, OLD / 2, None, TABLE_OLD / 2, None), 1.0)
        still = one_step(context, at(config, NEW, None, TABLE_NEW, None), 0.0)
        found.append((apart, new, old, still))
    return found


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    return run_ranks(steps, 2, timeout=280)


@pytest.mark.parametrize("stage", STAGES)
def test_new_and_pretrained_parts_move_at_rates_of_their_own(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        apart, new, old, still = rank[stage]
        # By name, where the engine goes by what the model was loaded with.
        attached = {name for name in apart if is_attached(name) or ":" in name}
        assert 4 < len(attached) < len(apart) - 4
        for name, value in apart.items():
            want, other = (new, old) if name in attached else (old, new)
            moved = want[name] - still[name]
            np.testing.assert_allclose(value - still[name], moved, rtol=2e-3, atol=1e-7, err_msg=name)
            if np.abs(moved).max() > 1e-6:  # a bias before a normalisation has no gradient
                assert np.abs(value - other[name]).max() > 0.3 * np.abs(moved).max(), name
