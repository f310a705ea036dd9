"""A dry step before training changes nothing that comes after it, for every part and ZeRO stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.guards.dry_step import dry_step
from ppr_dist.parallel import dense
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trainer import train_step
from tests.multirank import models
from tests.multirank.models import Built
from tests.ranks import run_ranks
from tests.registry.cases import CASES, USERS, Case, build, fetched, of_each, partitioning, result
from tests.shards import rank_part


def dry(context: DistributedContext, built: Built) -> None:
    mine = rank_part(USERS, context.rank, context.world_size)
    batch = built.collator(mine, epoch=0, step=0, global_users=models.USERS)
    dry_step(built.parallel, batch, built.objectives, context, "float32")


def state(built: Built) -> dict[str, np.ndarray]:
    found = {name: value.numpy() for name, value in dense.state_dict(built.parallel.engine).items()}
    moments = built.parallel.embeddings.optimizer_state_dict()
    for table, of_table in moments.items():
        for name, value in of_table.items():
            parts = value.local_shards() if hasattr(value, "local_shards") else []
            found |= {f"{table} {name} {n}": part.tensor.numpy().copy() for n, part in enumerate(parts)}
    steps = {f"steps {name}": step.numpy() for name, step in built.parallel.embeddings.optimizer_steps().items()}
    # Not looked up: FBGEMM would count that as a step.
    shards = built.parallel.embeddings.local_shards()
    tables = {f"{table} {row} {column}": weight.numpy().copy() for table, weight, row, column in shards}
    return found | steps | tables | {"random": torch.get_rng_state().numpy()}


def with_and_without(context: DistributedContext, case: Case, zero_stage: int) -> list[dict[str, np.ndarray]]:
    """What two steps come to after no dry step, and after one; and what is there after one alone."""
    states = []
    for dried in (False, True):
        torch.manual_seed(7)
        built = build(context, case, zero_stage=zero_stage)
        before = state(built) if zero_stage == 0 else {}
        if dried:
            dry(context, built)
            if zero_stage == 0:
                same([[before, state(built)]])
        for each in fetched(context, built, range(2)):
            train_step(built.parallel, each, built.objectives)
        states.append(state(built))
    return states


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(of_each, 2, list(CASES), with_and_without, 0, timeout=280)


FEW = ("method ppr-full", "objective contrastive", "objective full_softmax")
"""Frozen and trained tables, views, the whole catalogue: what differs in how a step comes by its vectors."""


def test_training_with_profiles_views_and_all_items_is_the_same_to_the_bit() -> None:
    ranks = run_ranks(of_each, 2, list(FEW), with_and_without, 0)
    for name in FEW:
        same(result(ranks, name))


def same(ranks: list[list[dict[str, np.ndarray]]]) -> None:
    for without, after in ranks:
        assert without.keys() == after.keys()
        for key, value in without.items():
            np.testing.assert_array_equal(after[key], value, err_msg=key)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_training_is_the_same_to_the_bit(name: str, two: list[dict[str, Any]]) -> None:
    same(result(two, name))


def at_stage(context: DistributedContext, zero_stage: int) -> list[dict[str, np.ndarray]]:
    with partitioning():
        return with_and_without(context, CASES["method ppr-full"], zero_stage)


@pytest.mark.parametrize("zero_stage", [*(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 2)), 3])
def test_at_every_zero_stage(zero_stage: int) -> None:
    same(run_ranks(at_stage, 2, zero_stage))
